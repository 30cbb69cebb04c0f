"""Networks that grow by whole blocks, written straight to ONNX, for `benchmarks/compaction.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

SIDE = 8


class Writer:
    """Adds nodes to a graph with one image input; weights are random."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self.image = ir.val("x", ir.DataType.FLOAT, ir.Shape([1, 3, SIDE, SIDE]))

    def node(self, operator: str, *inputs: ir.Value, **attributes: int | list[int]) -> ir.Value:
        node = ir.node(operator, list(inputs), attributes, name=f"{operator.lower()}{len(self.nodes)}")
        node.outputs[0].name = f"{node.name}_out"
        self.nodes.append(node)
        return node.outputs[0]

    def conv(self, x: ir.Value, inputs: int, outputs: int, kernel: int = 1) -> ir.Value:
        array = self.rng.standard_normal((outputs, inputs, kernel, kernel), dtype=np.float32)
        tensor = ir.tensor(array, name=f"weight{len(self.constants)}")
        weight = ir.val(tensor.name, const_value=tensor)
        self.constants.append(weight)
        return self.node("Conv", x, weight, pads=[kernel // 2] * 4)

    def model(self, output: ir.Value, channels: int) -> ir.Model:
        output.name, output.type = "y", ir.TensorType(ir.DataType.FLOAT)
        output.shape = ir.Shape([1, channels, SIDE, SIDE])
        graph = ir.Graph(
            [self.image], [output], nodes=self.nodes, initializers=self.constants, opset_imports={"": 17}
        )
        return ir.Model(graph, ir_version=9)


def residual(scale: int, width: int = 64) -> ir.Model:
    """16 bottleneck blocks per scale."""
    w = Writer()
    y = w.conv(w.image, 3, 4 * width)
    for _ in range(16 * scale):
        z = w.node("Relu", w.conv(y, 4 * width, width))
        z = w.node("Relu", w.conv(z, width, width, 3))
        y = w.node("Relu", w.node("Add", y, w.conv(z, width, 4 * width)))
    return w.model(w.conv(y, 4 * width, 10), 10)


def dense(scale: int, growth: int = 16) -> ir.Model:
    """4 dense blocks of 8 layers per scale, each ended by a transition to where it began."""
    w = Writer()
    y = w.conv(w.image, 3, 4 * growth)
    for _ in range(4 * scale):
        for layer in range(8):
            z = w.node("Relu", w.conv(w.node("Relu", y), (4 + layer) * growth, 4 * growth))
            y = w.node("Concat", y, w.conv(z, 4 * growth, growth, 3), axis=1)
        y = w.node("Relu", w.conv(y, 12 * growth, 4 * growth))
    return w.model(w.conv(y, 4 * growth, 10), 10)


GROWING: dict[str, Callable[[int], ir.Model]] = {"residual": residual, "DenseNet": dense}
