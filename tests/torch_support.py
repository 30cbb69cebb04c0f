"""Shared by the torch adapter's tests: onnxruntime references, tiny tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from graph_builder import Builder
from onnx import TensorProto, numpy_helper

from evonnx.adapter import RetrainRequest, RetrainResult, TrainingBudget
from evonnx.network import Array
from evonnx.task import Batch, Loss, Metric
from evonnx_torch import TorchAdapter

BUDGET = TrainingBudget(epochs=1, batch_size=32, threads=1)

_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def float32_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in float32 throughout: the reference for what is computed in float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for tensor in graph.initializer:
        if tensor.data_type in _FLOATS:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
            )
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = TensorProto.FLOAT
    return copy


def reference(model: onnx.ModelProto, feed: Mapping[str, Array]) -> dict[str, Array]:
    """onnxruntime's outputs by name, on one CPU thread, every node as it is written."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, dict(feed)), strict=True))


def feed_for(model: onnx.ModelProto, rng: np.random.Generator, free: int = 2) -> dict[str, Array]:
    """Random inputs; symbolic dimensions get `free`, or 12 where they are not the first."""
    constants = {tensor.name for tensor in model.graph.initializer}
    feed: dict[str, Array] = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        dims = [
            d.dim_value or (free if i == 0 else 12) for i, d in enumerate(value.type.tensor_type.shape.dim)
        ]
        feed[value.name] = rng.normal(size=dims).astype(np.float32)
    return feed


class ArrayTask:
    """Labelled arrays in memory."""

    metric = Metric("accuracy")

    def __init__(
        self,
        inputs: Mapping[str, Array],
        targets: Array | None,
        loss: Loss = Loss("cross_entropy"),  # noqa: B008
    ) -> None:
        self.name = "arrays"
        self.inputs = inputs
        self.targets = targets
        self.loss = loss
        self.count = len(next(iter(inputs.values())))

    def describe(self) -> str:
        return f"{self.count} examples"

    def size(self, split: str) -> int:
        return self.count

    def batches(self, split: str, batch_size: int, rng: np.random.Generator | None = None) -> Iterator[Batch]:
        order = np.arange(self.count) if rng is None else rng.permutation(self.count)
        for start in range(0, self.count, batch_size):
            pick = order[start : start + batch_size]
            targets = None if self.targets is None else self.targets[pick]
            yield Batch({name: array[pick] for name, array in self.inputs.items()}, targets, len(pick))

    def score(self, split: str, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]) -> float:
        raise NotImplementedError


def with_arrays(model: onnx.ModelProto, arrays: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy with some initializers replaced."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in arrays:
            array = np.ascontiguousarray(arrays[tensor.name], dtype=numpy_helper.to_array(tensor).dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return copy


def deep_residual(seed: int = 0, channels: int = 8, blocks: int = 4) -> onnx.ModelProto:
    """Images (n, 1, 8, 8) to 10 logits: a stem and residual blocks, every convolution with its norm."""
    b = Builder(["n", 1, 8, 8], seed=seed)

    def unit(x: str, inputs: int) -> str:
        return b.batch_norm(b.conv(x, inputs, channels, bias=False), channels)

    y = b.node("Relu", unit("x", 1))
    for _ in range(blocks):
        y = b.node("Relu", b.node("Add", unit(b.node("Relu", unit(y, channels)), channels), y))
    y = b.gemm(b.node("Flatten", b.node("GlobalAveragePool", y)), channels, 10)
    b.output(y, ["n", 10], "y")
    return b.model()


def fold_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every BatchNormalization folded into the convolution before it, as exporters do."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    norms = {node.input[0]: node for node in model.graph.node if node.op_type == "BatchNormalization"}
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    del folded.graph.node[:], folded.graph.initializer[:]
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            continue
        copy = folded.graph.node.add()
        copy.CopyFrom(node)
        if (norm := norms.get(node.output[0])) is not None:
            scale, shift, mean, variance = (arrays.pop(name) for name in norm.input[1:])
            ratio = scale / np.sqrt(variance + 1e-5)
            arrays[node.input[1]] = arrays[node.input[1]] * ratio[:, None, None, None]
            arrays[f"{node.input[1]}.bias"] = shift - mean * ratio
            copy.input.append(f"{node.input[1]}.bias")
            copy.output[0] = norm.output[0]
    folded.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    return folded


def module_of(model: onnx.ModelProto) -> Any:
    """The model as a torch module."""
    from evonnx_torch.module import OnnxModule

    return OnnxModule(ir.from_proto(model))


def labelled(model: onnx.ModelProto, count: int = 64, classes: int = 4, seed: int = 0) -> ArrayTask:
    """Random inputs; labels from a fixed linear rule, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    inputs = {
        name: rng.normal(size=(count, *array.shape[1:])).astype(np.float32)
        for name, array in feed_for(model, rng).items()
    }
    flat = np.concatenate([array.reshape(count, -1) for array in inputs.values()], axis=1)
    labels = (flat @ rng.normal(size=(flat.shape[1], classes))).argmax(1)
    return ArrayTask(inputs, labels.astype(np.int64))


def write(model: onnx.ModelProto, path: Path) -> Path:
    """Save and give the path back."""
    onnx.save(model, path)
    return path


def run(path: Path, task: Any, budget: TrainingBudget = BUDGET, **fields: Any) -> RetrainResult:
    """One retraining with the torch adapter."""
    adapter = fields.pop("adapter", None) or TorchAdapter()
    return adapter.retrain(
        RetrainRequest(path, fields.pop("masks", {}), task, budget, fields.pop("seed", 0), **fields)
    )


def digest(weights: Mapping[str, np.ndarray]) -> str:
    """Of names and bytes."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode() + np.ascontiguousarray(weights[name]).tobytes())
    return found.hexdigest()
