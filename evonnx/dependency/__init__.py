"""Coupling of channels: which indices of which tensors must live or die together, and which cannot go."""

from evonnx.dependency.analysis import analyse
from evonnx.dependency.coupling import ChannelVector, Coupling, EqualCount, Pin, WeightClasses
from evonnx.dependency.liveness import Closure, close

__all__ = ["ChannelVector", "Closure", "Coupling", "EqualCount", "Pin", "WeightClasses", "analyse", "close"]
