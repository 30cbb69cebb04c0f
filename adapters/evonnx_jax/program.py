"""Walk a graph, operator by operator, as JAX traces it.

What follows from constants and shapes alone is computed there and then with numpy, so that shapes stay
static; an If with a known condition is replaced by its branch. Everything else becomes part of the trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from evonnx.errors import AdapterError
from evonnx.network import Array
from evonnx_jax.known import evaluate
from evonnx_jax.ops import OPERATORS, Call, Context, Unsupported
from evonnx_training.graph import Graph, Node, is_float_array

_KNOWN_ONLY = frozenset({"ConstantOfShape", "EyeLike", "NonZero", "Range"})
"""Operators that only run where their operands are known."""
_ALWAYS_OURS = frozenset(
    {"BatchNormalization", "DequantizeLinear", "Dropout", "QuantizeLinear", "Shape", "Size"}
)
"""Operators that the reference implementation computes otherwise, or not for every opset."""
SUPPORTED = frozenset(OPERATORS) | _KNOWN_ONLY | {"If"}
_ADVICE = (
    "Retrain with another adapter (`--adapter torch`, or `--adapter command` and your own training program)."
)


def as_known(array: Array) -> Array:
    """A stored array as it is computed with: floats of any type in float32."""
    floating = is_float_array(array) or array.dtype.name.startswith("float")
    return np.asarray(array, dtype=np.float32 if floating else array.dtype)


def run(
    graph: Graph, leaves: Mapping[str, Any], data: Mapping[str, Any], taps: Sequence[str], context: Context
) -> dict[str, Any]:
    """Tensors by name.

    Args:
        graph: what to run.
        leaves: what stands in for constants: trained weights and norm statistics.
        data: every graph input that is needed.
        taps: names of the tensors wanted, inner ones too.
        context: of this walk; statistics are left in it.

    Raises:
        AdapterError: a node cannot be run on these inputs; names it.
    """
    scope: dict[str, Any] = dict(data)
    _walk(graph, leaves, scope, taps, context)
    missing = [name for name in taps if name not in scope]
    if missing:
        raise AdapterError(f"The JAX adapter finds no tensor {missing[0]!r} in the graph.")
    return {name: jnp.asarray(scope[name]) for name in taps}


def _walk(
    graph: Graph, leaves: Mapping[str, Any], scope: dict[str, Any], outputs: Sequence[str], context: Context
) -> None:
    for name, array in graph.constants.items():
        scope[name] = leaves[name] if name in leaves else as_known(array)
    for node in graph.leading_to(outputs):
        if node.op_type == "If":
            _branch(node, scope, context)
            continue
        results = _results(node, graph.opset, scope, context)
        for name, value in zip(node.outputs, results, strict=False):
            if name:
                scope[name] = value
            context.elements += value.size


def _branch(node: Node, scope: dict[str, Any], context: Context) -> None:
    condition = scope[node.inputs[0]]
    if not isinstance(condition, np.ndarray):
        raise AdapterError(
            f"The JAX adapter cannot run node {node.label!r} (If): its condition depends on the data. "
            f"{_ADVICE}"
        )
    branch = node.branches["then_branch" if bool(condition.reshape(())) else "else_branch"]
    inner = dict(scope)
    # Constants of a branch are not trained: their names may repeat names of the main graph.
    _walk(branch, {}, inner, branch.outputs, context)
    for name, result in zip(node.outputs, branch.outputs, strict=False):
        if name:
            scope[name] = inner[result]


def _results(node: Node, opset: int, scope: Mapping[str, Any], context: Context) -> tuple[Any, ...]:
    """A node's outputs, in order."""
    values = tuple(scope[name] if name else None for name in node.inputs)
    known = all(value is None or isinstance(value, np.ndarray) for value in values)
    try:
        if known and node.op_type not in _ALWAYS_OURS:
            return tuple(map(as_known, evaluate(node, values, opset)))
        if node.op_type not in OPERATORS:
            raise Unsupported("an operand depends on the data; the operator is only run on constants")
        found = OPERATORS[node.op_type](Call(node, opset, values, context))
    except AdapterError:
        raise
    except Exception as error:
        shapes = ", ".join("-" if v is None else str(list(v.shape)) for v in values)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AdapterError(
            f"The JAX adapter cannot run node {node.label!r} ({node.op_type}, operand shapes {shapes}): "
            f"{reason.rstrip('.')}. {_ADVICE}"
        ) from error
    return found if isinstance(found, tuple) else (found,)
