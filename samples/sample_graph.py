"""ONNX graphs of the samples, written node by node with the names that one would give them.

`torch.onnx` folds BatchNormalization into the convolutions when it exports for inference and numbers what it
does not fold; here a node is named like its layer and a weight like its place in the network
(`layer1.0.conv1.weight`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from evonnx.durable import write_whole


class Graph:
    """A graph over named weights. Each method adds a node called `name` after `x` and gives its output."""

    def __init__(
        self, name: str, weights: Mapping[str, NDArray[np.float32]], image: tuple[int, int, int]
    ) -> None:
        """`image` is (channels, height, width) of the input, called "image", of any batch size."""
        self.name = name
        self.weights = weights
        self.image = image
        self._nodes: list[NodeProto] = []
        self._used: dict[str, TensorProto] = {}

    def conv(self, x: str, name: str, stride: int = 1, padding: int = 0) -> str:
        """A convolution with square kernels, with `name`.weight and, where there is one, `name`.bias."""
        inputs = [x, self._weight(f"{name}.weight")]
        if f"{name}.bias" in self.weights:
            inputs.append(self._weight(f"{name}.bias"))
        size = list(self.weights[f"{name}.weight"].shape[2:])
        return self._node(
            "Conv", inputs, name, kernel_shape=size, strides=[stride, stride], pads=[padding] * 4
        )

    def batch_norm(self, x: str, name: str) -> str:
        """BatchNormalization with `name`.weight, .bias, .running_mean and .running_var."""
        parts = ("weight", "bias", "running_mean", "running_var")
        return self._node(
            "BatchNormalization", [x, *(self._weight(f"{name}.{part}") for part in parts)], name, epsilon=1e-5
        )

    def relu(self, x: str, name: str) -> str:
        """max(x, 0)."""
        return self._node("Relu", [x], name)

    def max_pool(self, x: str, name: str, size: int, stride: int) -> str:
        """Maximum over square windows."""
        return self._node("MaxPool", [x], name, kernel_shape=[size, size], strides=[stride, stride])

    def average_pool(self, x: str, name: str) -> str:
        """Mean over all places."""
        return self._node("GlobalAveragePool", [x], name)

    def flatten(self, x: str, name: str) -> str:
        """All but the batch in one axis."""
        return self._node("Flatten", [x], name, axis=1)

    def linear(self, x: str, name: str) -> str:
        """A fully connected layer with `name`.weight [outputs, inputs] and `name`.bias."""
        weights = [self._weight(f"{name}.weight"), self._weight(f"{name}.bias")]
        return self._node("Gemm", [x, *weights], name, transB=1)

    def add(self, x: str, y: str, name: str) -> str:
        """x + y."""
        return self._node("Add", [x, y], name)

    def every_second(self, x: str, name: str) -> str:
        """Every second row and column."""
        bounds = {"starts": [0, 0], "ends": [2**31 - 1] * 2, "axes": [2, 3], "steps": [2, 2]}
        return self._node(
            "Slice", [x, *(self._integers(f"{name}.{key}", values) for key, values in bounds.items())], name
        )

    def pad_channels(self, x: str, name: str, before: int, after: int) -> str:
        """Channels that are zero, before and after the others."""
        pads = self._integers(f"{name}.pads", [0, before, 0, 0, 0, after, 0, 0])
        return self._node("Pad", [x, pads], name, mode="constant")

    def write(self, path: Path, x: str, classes: int) -> None:
        """Write the graph with `x` as its output, called "logits" [batch, classes]; opset 17."""
        last = next(node for node in self._nodes if x in node.output)
        last.output[0] = "logits"
        graph = helper.make_graph(
            self._nodes,
            self.name,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *self.image])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
            list(self._used.values()),
        )
        proto = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name=self.name
        )
        onnx.checker.check_model(proto, full_check=True)
        write_whole(path, proto.SerializeToString())

    def _node(self, kind: str, inputs: list[str], name: str, **attributes: object) -> str:
        output = f"{name}.out"
        self._nodes.append(helper.make_node(kind, inputs, [output], name, **attributes))
        return output

    def _weight(self, name: str) -> str:
        self._used[name] = numpy_helper.from_array(np.ascontiguousarray(self.weights[name], np.float32), name)
        return name

    def _integers(self, name: str, values: list[int]) -> str:
        self._used[name] = numpy_helper.from_array(np.array(values, np.int64), name)
        return name
