"""What is known about the sign of a tensor's every entry, from the operators that compute it.

Asked where a channel that is gone would divide by zero: a divisor that is positive for every input never
does. Values are taken as real numbers: an Exp that underflows counts as positive, since where a living
channel divides by it the model is broken already.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import numpy as np
import onnx_ir as ir

from evonnx.network import Array

Constants = Callable[[ir.Value], Array | None]
"""The array of a constant, None for anything computed."""

_DEPTH = 24
"""Operators looked back; beyond them nothing is known."""


class Sign(IntEnum):
    """Of every entry of a tensor."""

    UNKNOWN = 0
    NON_NEGATIVE = 1
    POSITIVE = 2


def sign_of(value: ir.Value | None, constants: Constants) -> Sign:
    """The sign of every entry of `value`."""
    return _sign(value, constants, _DEPTH, {})


def _sign(value: ir.Value | None, constants: Constants, depth: int, known: dict[ir.Value, Sign]) -> Sign:
    if value is None:
        return Sign.UNKNOWN
    if value not in known:
        known[value] = Sign.UNKNOWN if depth == 0 else _computed(value, constants, depth, known)
    return known[value]


def _computed(value: ir.Value, constants: Constants, depth: int, known: dict[ir.Value, Sign]) -> Sign:
    array = constants(value)
    if array is not None:
        return _sign_of_array(array)
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return Sign.UNKNOWN
    rule = _RULES.get(node.op_type)
    if node.op_type in _ALWAYS:
        return _ALWAYS[node.op_type]
    if rule is None or (value is not node.outputs[0] and node.op_type != "Split"):
        return Sign.UNKNOWN
    found = rule(node, lambda operand: _sign(operand, constants, depth - 1, known), constants)
    return found if _is_float(value, node) else min(found, Sign.NON_NEGATIVE)


def _is_float(value: ir.Value, node: ir.Node) -> bool:
    """Whether 1 / 2 is not 0 there; where the type is not declared, only a Cast can tell."""
    if node.op_type == "Cast":
        return ir.DataType(node.attributes["to"].as_int()).is_floating_point()
    return value.dtype is None or value.dtype.is_floating_point()


def _sign_of_array(array: Array) -> Sign:
    if array.dtype.kind not in "fiu" or array.size == 0:
        return Sign.UNKNOWN
    least = float(array.astype(np.float64).min())
    return Sign.POSITIVE if least > 0 else Sign.NON_NEGATIVE if least == 0 else Sign.UNKNOWN


_Ask = Callable[[ir.Value | None], Sign]
_Rule = Callable[[ir.Node, _Ask, Constants], Sign]


def _first(node: ir.Node, ask: _Ask, constants: Constants) -> Sign:
    """Entries of the first input, or averages and norms of them."""
    return ask(node.inputs[0])


def _at_least_zero(node: ir.Node, ask: _Ask, constants: Constants) -> Sign:
    return max(Sign.NON_NEGATIVE, ask(node.inputs[0]))


def _least(node: ir.Node, ask: _Ask, constants: Constants) -> Sign:
    return min(ask(operand) for operand in node.inputs)


def _product(node: ir.Node, ask: _Ask, constants: Constants) -> Sign:
    least = _least(node, ask, constants)
    square = node.op_type == "Mul" and node.inputs[0] is node.inputs[1]
    return max(Sign.NON_NEGATIVE, least) if square else least


def _sum(node: ir.Node, ask: _Ask, constants: Constants) -> Sign:
    signs = [ask(operand) for operand in node.inputs]
    return max(signs) if min(signs) > Sign.UNKNOWN else Sign.UNKNOWN


def _largest(node: ir.Node, ask: _Ask, constants: Constants) -> Sign:
    return max(ask(operand) for operand in node.inputs)


def _power(node: ir.Node, ask: _Ask, constants: Constants) -> Sign:
    base, exponent = node.inputs
    sign = ask(base)
    array = None if exponent is None else constants(exponent)
    if array is None or sign is Sign.POSITIVE:
        return sign if sign is Sign.POSITIVE else Sign.UNKNOWN
    numbers = array.astype(np.float64)
    if np.all(numbers > 0):
        return max(sign, Sign.NON_NEGATIVE) if np.all(numbers % 2 == 0) else sign
    return Sign.UNKNOWN


def _clip(node: ir.Node, ask: _Ask, constants: Constants) -> Sign:
    """At least the lower bound, unless the upper one is smaller."""
    bounds: list[Sign | None] = []
    for slot, attribute in ((1, "min"), (2, "max")):
        if len(node.inputs) > slot and node.inputs[slot] is not None:
            bounds.append(ask(node.inputs[slot]))
        elif attribute in node.attributes:
            bounds.append(_sign_of_array(np.asarray([node.attributes.get_float(attribute, 0.0)])))
        else:
            bounds.append(None)
    low, high = bounds
    least = max(ask(node.inputs[0]), Sign.UNKNOWN if low is None else low)
    return least if high is None else min(least, high)


def _chosen(node: ir.Node, ask: _Ask, constants: Constants) -> Sign:
    return min(ask(operand) for operand in node.inputs[1:3])


def _table(rule: _Rule, names: str) -> dict[str, _Rule]:
    return dict.fromkeys(names.split(), rule)


_ALWAYS = {
    **dict.fromkeys(("Exp", "Sigmoid", "Softplus", "Cosh"), Sign.POSITIVE),
    **dict.fromkeys(("HardSigmoid", "Softmax", "Shape", "Size"), Sign.NON_NEGATIVE),
}
_RULES: dict[str, _Rule] = {
    **_table(
        _first,
        """Identity Cast Dropout Reciprocal Ceil Reshape Flatten Transpose Squeeze Unsqueeze Expand Tile Slice
        Gather Split MaxPool GlobalMaxPool GlobalAveragePool ReduceMean ReduceSum ReduceMax ReduceMin
        ReduceProd""",
    ),
    **_table(_at_least_zero, "Abs Relu Sqrt ReduceL1 ReduceL2 ReduceSumSquare"),
    **_table(_least, "Min Concat Div"),
    **_table(_product, "Mul"),
    **_table(_sum, "Add Sum Mean"),
    **_table(_largest, "Max"),
    **_table(_power, "Pow"),
    **_table(_clip, "Clip"),
    **_table(_chosen, "Where"),
}
