"""Genetic encodings: strengths, one file each, and named presets. Others come in through
`evonnx.encodings`."""

from evonnx.encodings.layer_adaptive import LayerAdaptive
from evonnx.encodings.magnitude import Magnitude
from evonnx.encodings.presets import adaptive, cluster_driven, synaptic
from evonnx.encodings.signed import Signed
from evonnx.encodings.uniform import Uniform
from evonnx.genome import Encoding

__all__ = [
    "Encoding",
    "LayerAdaptive",
    "Magnitude",
    "Signed",
    "Uniform",
    "adaptive",
    "cluster_driven",
    "synaptic",
]
