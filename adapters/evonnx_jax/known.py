"""Nodes whose operands are all known, computed by onnx's reference implementation while a graph is traced."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from evonnx.network import Array
from evonnx_training.graph import Node


def evaluate(node: Node, operands: Sequence[Array | None], opset: int) -> tuple[Array, ...]:
    """The node's outputs, one array for each that is named or stands before one that is.

    Args:
        node: without branches.
        operands: one per input, None where it is absent.
        opset: of the standard domain.
    """
    names = [f"x{place}" if given is not None else "" for place, given in enumerate(operands)]
    outputs = [f"y{place}" for place in range(len(node.outputs))]
    attributes = {
        name: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in node.attributes.items()
    }
    proto = helper.make_node(node.op_type, names, outputs, node.label, **attributes)
    graph = helper.make_graph(
        [proto],
        "known",
        [helper.make_empty_tensor_value_info(name) for name in names if name],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    feed = {name: given for name, given in zip(names, operands, strict=True) if given is not None}
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(graph, opsets={"": opset}).run(None, feed)
    return tuple(np.asarray(array) for array in found)
