"""Encodings that the sweep compares, each for `--encoding samples/lenet5_mnist/variants.py:NAME`."""

from __future__ import annotations

from dataclasses import replace

from evonnx.encodings import Magnitude, Signed, Uniform
from evonnx.encodings.presets import adaptive, cluster_driven

CERTAIN = 0.001
"""A selectivity this small leaves nothing to chance: the weakest die, as in pruning."""

# Controls.
uniform = replace(adaptive, strength=Uniform())
signed = replace(cluster_driven, strength=Signed())

# The paper's open constants, one changed at a time.
tau_0 = replace(cluster_driven, truncation=0.0)
tau_10 = replace(cluster_driven, truncation=0.1)
selectivity_30 = replace(cluster_driven, cluster_selectivity=0.3, synapse_selectivity=0.3)
selectivity_10 = replace(cluster_driven, cluster_selectivity=0.1, synapse_selectivity=0.1)
selectivity_3 = replace(cluster_driven, cluster_selectivity=0.03, synapse_selectivity=0.03)
one_factor = replace(cluster_driven, scope="network")
share_20 = replace(cluster_driven, cluster_share=0.2)
share_80 = replace(cluster_driven, cluster_share=0.8)

# The default's.
adaptive_30 = replace(adaptive, cluster_selectivity=0.3, synapse_selectivity=0.3)
adaptive_3 = replace(adaptive, cluster_selectivity=0.03, synapse_selectivity=0.03)
adaptive_share_20 = replace(adaptive, cluster_share=0.2)
adaptive_share_80 = replace(adaptive, cluster_share=0.8)
adaptive_synapses = replace(adaptive, levels="synapses")
adaptive_clusters = replace(adaptive, levels="clusters")

# Pruning without evolution.
magnitude = replace(
    adaptive,
    strength=Magnitude(),
    levels="synapses",
    cluster_selectivity=CERTAIN,
    synapse_selectivity=CERTAIN,
)
lamp = replace(adaptive, levels="synapses", cluster_selectivity=CERTAIN, synapse_selectivity=CERTAIN)
