"""Named encodings: what the entry points `evonnx.encodings` hold. Vary one with `dataclasses.replace`."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from evonnx.encodings.first_order import FirstOrder
from evonnx.encodings.layer_adaptive import LayerAdaptive
from evonnx.encodings.magnitude import Magnitude
from evonnx.genome import Encoding

cluster_driven: Final = Encoding(Magnitude(), truncation=0.01)
"""The paper's: kernels as clusters, |w|, T = 1, the same pressure on every layer, both levels (equations 3 to
5). The paper truncates "very weak" synapses without giving a number; ours is 1% of the layer's largest
strength."""

synaptic: Final = Encoding(Magnitude(), levels="synapses")
"""The paper's baseline without clusters (equation 2): |w|, T = 1, the same pressure on every layer."""

adaptive: Final = Encoding(
    LayerAdaptive(),
    cluster_selectivity=0.1,
    synapse_selectivity=0.1,
    scope="network",
    granularity="channel",
)
"""Our default: LAMP ranks over all layers, T = 0.1, one factor for the network, removable channels as
clusters."""

first_order: Final = replace(adaptive, strength=FirstOrder())
"""As the default, with strengths from the adapter's gradients: what goes first is what the model's answers
depend on least."""
