"""Genetic encodings: strengths, one file each, and named presets. Others come in through
`evonnx.encodings`."""

from evonnx.encodings.first_order import FirstOrder
from evonnx.encodings.layer_adaptive import LayerAdaptive
from evonnx.encodings.magnitude import Magnitude
from evonnx.encodings.presets import adaptive, cluster_driven, first_order, synaptic
from evonnx.encodings.signed import Signed
from evonnx.encodings.uniform import Uniform
from evonnx.genome import Encoding

__all__ = [
    "Encoding",
    "FirstOrder",
    "LayerAdaptive",
    "Magnitude",
    "Signed",
    "Uniform",
    "adaptive",
    "cluster_driven",
    "first_order",
    "synaptic",
]
