"""Signals of a redrawn pair brought to one level, where its operators are sensitive to that.

Behind a Softmax or a Sigmoid whose inputs are in the thousands a rounding error can turn everything over, and
one of a thousandth shows nothing. One run says how large the outputs of the layers are; a walk over the graph
says by which factor each layer's own weights must change so that all of them come out at about 1. Products of
signals grow faster than any sum: where they overflow, what lies behind is seen only after a first pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

_SENSITIVE = (
    "Softmax",
    "LogSoftmax",
    "Sigmoid",
    "HardSigmoid",
    "Exp",
    "Erf",
    "Gelu",
    "Softplus",
    "Mish",
    "Sin",
    "Cos",
    "LSTM",
    "GRU",
    "RNN",
)
_MULTIPLYING = ("Mul", "MatMul", "Einsum", "Pow")
_BOUNDED = ("Softmax", "LogSoftmax", "Sigmoid", "HardSigmoid", "Erf", "Sin", "Cos")
_NORMALISING = (
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "LpNormalization",
)
_LOWEST, _HIGHEST = 0.03, 30.0
"""Levels between which nothing needs to be done."""


@dataclass(frozen=True)
class _Level:
    """Root mean square of a tensor as it is, and as it will be."""

    before: float = 1.0
    after: float = 1.0

    @property
    def change(self) -> float:
        """By which factor it changes."""
        return self.after / self.before if self.before > 0 else 1.0


def is_sensitive(model: onnx.ModelProto) -> bool:
    """Whether some operator of the model does other things to large signals than to small ones: one that
    saturates, or multiplies signals with each other."""
    fixed = {tensor.name for tensor in model.graph.initializer}
    fixed |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    return any(
        node.op_type in _SENSITIVE
        or (node.op_type in _MULTIPLYING and len(node.input) > 1 and not fixed & set(node.input))
        for node in model.graph.node
    )


def overflows(levels: Mapping[str, float]) -> bool:
    """Whether some level says nothing, so that one more pass is needed."""
    return not all(math.isfinite(level) for level in levels.values())


def needs_calibration(levels: Mapping[str, float]) -> bool:
    """Whether some signals are so large or small that it matters to sensitive operators.

    Args:
        levels: root mean square by tensor, of those that were compared.
    """
    return any(
        not math.isfinite(level) or level > _HIGHEST or 0 < level < _LOWEST for level in levels.values()
    )


def calibration(
    model: onnx.ModelProto, levels: Mapping[str, float], scaled_by: Mapping[str, Mapping[int, str]]
) -> dict[str, float]:
    """Factors by constant.

    Args:
        model: the masked model, redrawn.
        levels: root mean square by tensor; those not given are estimated.
        scaled_by: by output of a layer: constants that scale it (slot 0: its weight or norm scale) and what
            must follow its input (slot 1: a norm's mean).
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    found = {value.name: _Level() for value in model.graph.input if value.name not in constants}
    factors: dict[str, float] = {}
    for node in model.graph.node:
        inputs = [found[name] for name in node.input if name in found]
        if not inputs:
            continue
        name = node.output[0]
        estimate = _estimate(node, inputs)
        before = levels.get(name, estimate.before)
        if not math.isfinite(before):
            found.update(dict.fromkeys(node.output, _Level()))
            continue
        if before <= 0:
            before = 1.0
        after = before * estimate.change
        if not math.isfinite(after) or after <= 0:
            after = before
        own = scaled_by.get(name, {})
        if 0 in own:
            after *= factors.setdefault(own[0], min(1e12, max(1e-12, 1 / after)))
        if 1 in own:
            factors.setdefault(own[1], inputs[0].change)
        found.update(dict.fromkeys(node.output, _Level(before, after)))
    return factors


def _estimate(node: onnx.NodeProto, inputs: list[_Level]) -> _Level:
    """Levels of a node's output from those of the inputs that vary."""
    if node.op_type in _BOUNDED or node.op_type in _NORMALISING:
        return _Level()
    if node.op_type in ("Add", "Sub", "Sum"):
        return _Level(math.hypot(*(one.before for one in inputs)), math.hypot(*(one.after for one in inputs)))
    if node.op_type == "Concat":
        root = math.sqrt(len(inputs))
        return _Level(
            math.hypot(*(one.before for one in inputs)) / root,
            math.hypot(*(one.after for one in inputs)) / root,
        )
    if node.op_type in ("Mul", "MatMul", "Einsum"):
        return _Level(math.prod(one.before for one in inputs), math.prod(one.after for one in inputs))
    if node.op_type == "Div" and len(inputs) == 2:
        return _Level(
            inputs[0].before / (inputs[1].before or 1.0), inputs[0].after / (inputs[1].after or 1.0)
        )
    return inputs[0]
