"""The samples' encodings: `--encoding samples/encodings.py:sharp`."""

from __future__ import annotations

from dataclasses import replace

from evonnx.encodings.first_order import FirstOrder
from evonnx.encodings.presets import adaptive

sharp = replace(adaptive, cluster_selectivity=0.02, synapse_selectivity=0.02, cluster_share=0.3)
"""The default with less chance in what dies, and more of it single synapses than whole channels."""

sharp_gradients = replace(sharp, strength=FirstOrder())
"""The same, with strengths from gradients."""
