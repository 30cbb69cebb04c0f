"""Several parents: descendants of one ancestor, whatever their shapes, as one joint network and one genome.

`lift` lays each out in the ancestor's shapes, `join` makes one network of them, `mate` their common genome;
sampling, masking, removal and its proof go on from the joint network as from any parent. Pure: data in, data
out.
"""

from evonnx.mating.crossing import mate
from evonnx.mating.diversity import choose_mates, live_clusters, overlap
from evonnx.mating.joining import RULE, Joint, Rule, join
from evonnx.mating.lifting import Lifted, Refusal, lift

__all__ = [
    "RULE",
    "Joint",
    "Lifted",
    "Refusal",
    "Rule",
    "choose_mates",
    "join",
    "lift",
    "live_clusters",
    "mate",
    "overlap",
]
