"""A tiny ONNX graph writer for tests: each method adds one node and returns the name of its output."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper

ONNX_TYPES = {
    np.dtype(np.float32): onnx.TensorProto.FLOAT,
    np.dtype(np.float16): onnx.TensorProto.FLOAT16,
    np.dtype(np.float64): onnx.TensorProto.DOUBLE,
    np.dtype(ml_dtypes.bfloat16): onnx.TensorProto.BFLOAT16,
}


class Builder:
    """Nodes, initializers and one graph input `x`; weights are seeded.

    With `integers`, every weight is a small integer (and norms use epsilon 0 and variance 1), so that float32
    arithmetic is exact and equality can be bit for bit.
    """

    def __init__(
        self,
        input_shape: Sequence[int | str],
        *,
        seed: int = 0,
        opset: int = 17,
        dtype: type | np.dtype = np.float32,
        integers: bool = False,
        named_nodes: bool = True,
        ir_version: int = 8,
        initializers_as_inputs: bool = False,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.dtype = np.dtype(dtype)
        self.integers = integers
        self.named_nodes = named_nodes
        self.ir_version = ir_version
        self.initializers_as_inputs = initializers_as_inputs
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", ONNX_TYPES[self.dtype], list(input_shape))]
        self.outputs: list[onnx.ValueInfoProto] = []
        self.counter: dict[str, int] = {}

    # --- data

    def fresh(self, stem: str) -> str:
        self.counter[stem] = self.counter.get(stem, 0) + 1
        return f"{stem}{self.counter[stem]}"

    def values(self, *shape: int) -> np.ndarray:
        """Random weights: small integers without 0, or normal values scaled by the fan-in."""
        if self.integers:
            size = self.rng.integers(1, 3, size=shape)
            return (size * self.rng.choice([-1, 1], size=shape)).astype(self.dtype)
        fan_in = max(1, int(np.prod(shape[1:]))) if len(shape) > 1 else 4
        return (self.rng.normal(size=shape) / np.sqrt(fan_in)).astype(self.dtype)

    def constant(self, array: np.ndarray, name: str | None = None) -> str:
        """An initializer."""
        name = name or self.fresh("const")
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.asarray(values, dtype=np.int64), self.fresh("shape"))

    def node(
        self, op_type: str, *inputs: str, outputs: int = 1, name: str | None = None, **attributes
    ) -> str:
        label = self.fresh(op_type.lower())
        made = [f"{label}_out"] if outputs == 1 else [f"{label}_out{i}" for i in range(outputs)]
        self.nodes.append(
            helper.make_node(
                op_type, list(inputs), made, name=(name or label) if self.named_nodes else "", **attributes
            )
        )
        return made[0]

    def last_outputs(self) -> list[str]:
        return list(self.nodes[-1].output)

    # --- layers

    def conv(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int | Sequence[int] = 3,
        *,
        group: int = 1,
        bias: bool = True,
        dims: int = 2,
        weight: str | None = None,
        **attributes,
    ) -> str:
        """`inputs` and `outputs` are totals; padded to keep the size unless `pads` says otherwise."""
        size = [kernel] * dims if isinstance(kernel, int) else list(kernel)
        label = f"conv{self.counter.get('conv', 0) + 1}"
        weight = weight or self.constant(self.values(outputs, inputs // group, *size), f"{label}.weight")
        operands = [x, weight]
        if bias:
            operands.append(self.constant(self.values(outputs), f"{label}.bias"))
        attributes.setdefault("pads", [k // 2 for k in size] * 2)
        if group != 1:
            attributes["group"] = group
        return self.node("Conv", *operands, kernel_shape=size, **attributes)

    def conv_transpose(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int = 2,
        *,
        group: int = 1,
        bias: bool = True,
        **attributes,
    ) -> str:
        label = f"convtranspose{self.counter.get('convtranspose', 0) + 1}"
        weight = self.constant(self.values(inputs, outputs // group, kernel, kernel), f"{label}.weight")
        operands = [x, weight]
        if bias:
            operands.append(self.constant(self.values(outputs), f"{label}.bias"))
        attributes.setdefault("strides", [2, 2])
        return self.node("ConvTranspose", *operands, group=group, kernel_shape=[kernel, kernel], **attributes)

    def batch_norm(self, x: str, channels: int) -> str:
        label = f"bn{self.counter.get('batchnormalization', 0) + 1}"
        if self.integers:
            mean, variance, epsilon = self.values(channels), np.ones(channels), 0.0
        else:
            mean = self.rng.normal(size=channels) * 0.1
            variance, epsilon = self.rng.uniform(0.5, 1.5, size=channels), 1e-5
        scale = self.values(channels) if self.integers else self.rng.uniform(0.5, 1.5, size=channels)
        return self.node(
            "BatchNormalization",
            x,
            self.constant(np.asarray(scale, self.dtype), f"{label}.scale"),
            self.constant(self.values(channels), f"{label}.bias"),
            self.constant(np.asarray(mean, self.dtype), f"{label}.mean"),
            self.constant(np.asarray(variance, self.dtype), f"{label}.var"),
            epsilon=epsilon,
        )

    def gemm(
        self, x: str, inputs: int, outputs: int, *, trans_b: int = 1, bias: bool = True, **attributes
    ) -> str:
        label = f"gemm{self.counter.get('gemm', 0) + 1}"
        shape = (outputs, inputs) if trans_b else (inputs, outputs)
        operands = [x, self.constant(self.values(*shape), f"{label}.weight")]
        if bias:
            operands.append(self.constant(self.values(outputs), f"{label}.bias"))
        return self.node("Gemm", *operands, transB=trans_b, **attributes)

    def matmul(self, x: str, inputs: int, outputs: int) -> str:
        label = f"matmul{self.counter.get('matmul', 0) + 1}"
        return self.node("MatMul", x, self.constant(self.values(inputs, outputs), f"{label}.weight"))

    def max_pool(self, x: str, size: int = 2) -> str:
        return self.node("MaxPool", x, kernel_shape=[size, size], strides=[size, size])

    # --- the end

    def output(
        self, name: str, shape: Sequence[int | str | None] | None = None, as_name: str | None = None
    ) -> None:
        """Declare a graph output, renaming the tensor to `as_name` if given."""
        if as_name:
            for node in self.nodes:
                node.output[:] = [as_name if o == name else o for o in node.output]
                node.input[:] = [as_name if i == name else i for i in node.input]
        self.outputs.append(
            helper.make_tensor_value_info(
                as_name or name, ONNX_TYPES[self.dtype], None if shape is None else list(shape)
            )
        )

    def model(self) -> onnx.ModelProto:
        inputs = list(self.inputs)
        if self.initializers_as_inputs:
            inputs += [
                helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in self.initializers
            ]
        graph = helper.make_graph(self.nodes, "graph", inputs, self.outputs, self.initializers)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=self.ir_version,
            producer_name="tests",
        )
        onnx.checker.check_model(model, full_check=True)
        return model
