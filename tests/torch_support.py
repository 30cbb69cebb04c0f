"""Shared by the torch adapter's tests: onnxruntime references, tiny tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

from evonnx.network import Array
from evonnx.task import Batch, Loss, Metric

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
    """onnxruntime's outputs by name, on one CPU thread."""
    options = ort.SessionOptions()
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
