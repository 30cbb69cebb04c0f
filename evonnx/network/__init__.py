"""A model as a read-only view: prunable weights, how each node lays them out, shapes, names."""

from evonnx.network.inference import Dim
from evonnx.network.operands import Relayout
from evonnx.network.quantization import Quantization, quantization_of
from evonnx.network.view import Network, load_network, network_of
from evonnx.network.weights import Array, Unprunable, Weight, WeightUse

__all__ = [
    "Array",
    "Dim",
    "Network",
    "Quantization",
    "Relayout",
    "Unprunable",
    "Weight",
    "WeightUse",
    "load_network",
    "network_of",
    "quantization_of",
]
