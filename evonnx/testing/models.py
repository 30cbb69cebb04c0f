"""A model and a task small enough for contract tests: three classes of 8 x 8 images that a LeNet in miniature
can tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from evonnx.network import Array
from evonnx.task import Batch, Loss, Split
from evonnx.tasks.metrics import ACCURACY, Accuracy

CLASSES = 3
SIDE = 8

_STREAMS: Mapping[Split, int] = {"train": 0, "validation": 1, "test": 2}


def tiny_classifier(seed: int = 0) -> onnx.ModelProto:
    """Conv (4 kernels of 3 x 3), Relu, MaxPool, Flatten, Gemm (12), Relu, Gemm (3): input `images` [N, 1, 8,
    8], output `scores` [N, 3]. Random weights."""
    rng = np.random.default_rng(seed)
    weights = {
        "conv.weight": rng.normal(0, 0.5, (4, 1, 3, 3)),
        "conv.bias": rng.normal(0, 0.1, 4),
        "fc1.weight": rng.normal(0, 0.2, (12, 4 * 3 * 3)),
        "fc1.bias": rng.normal(0, 0.1, 12),
        "fc2.weight": rng.normal(0, 0.3, (CLASSES, 12)),
        "fc2.bias": rng.normal(0, 0.1, CLASSES),
    }
    nodes = [
        helper.make_node(
            "Conv", ["images", "conv.weight", "conv.bias"], ["conv"], "conv", kernel_shape=[3, 3]
        ),
        helper.make_node("Relu", ["conv"], ["relu1"], "relu1"),
        helper.make_node("MaxPool", ["relu1"], ["pool"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pool"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc1.weight", "fc1.bias"], ["fc1"], "fc1", transB=1),
        helper.make_node("Relu", ["fc1"], ["relu2"], "relu2"),
        helper.make_node("Gemm", ["relu2", "fc2.weight", "fc2.bias"], ["scores"], "fc2", transB=1),
    ]
    return _model(nodes, weights, "tiny-classifier")


def unknown_operator() -> onnx.ModelProto:
    """A model with an operator that nobody knows."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Mystery", ["images"], ["odd"], "mystery", domain="example.invalid"),
        helper.make_node("Flatten", ["odd"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "fc.weight"], ["scores"], "fc"),
    ]
    return _model(nodes, {"fc.weight": rng.normal(0, 1, (SIDE * SIDE, CLASSES))}, "unknown-operator")


def _model(
    nodes: list[onnx.NodeProto], weights: Mapping[str, NDArray[np.float64]], name: str
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(array.astype(np.float32), key) for key, array in weights.items()],
    )
    domains = sorted({node.domain for node in nodes} - {""})
    imports = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write a model and give its path back."""
    onnx.save(model, path)
    return path


def example_images(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images (count, 1, 8, 8) in which class c has a bright band of columns at 2 c + 1, in noise; labels
    (count,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    images = rng.normal(0, 0.3, (count, 1, SIDE, SIDE)).astype(np.float32)
    for place, label in enumerate(labels):
        images[place, 0, :, 2 * label + 1 : 2 * label + 3] += 1
    return images, labels


class TinyTask:
    """The classification task for `tiny_classifier`, in memory."""

    name = "tiny"
    metric = ACCURACY

    def __init__(self, train: int = 96, other: int = 48, loss: Loss | None = None) -> None:
        """`loss` is cross-entropy if not given; with "distillation" batches come without targets."""
        self.loss = loss or Loss("cross_entropy", "scores")
        self._sizes: dict[Split, int] = {"train": train, "validation": other, "test": other}

    def describe(self) -> str:
        """One line."""
        return f"bands in noise: {self._sizes}; {self.loss.kind}; accuracy"

    def size(self, split: Split) -> int:
        """Number of examples."""
        return self._sizes[split]

    def batches(
        self, split: Split, batch_size: int, rng: np.random.Generator | None = None
    ) -> Iterator[Batch]:
        """As the protocol says."""
        images, labels = example_images(self._sizes[split], _STREAMS[split])
        order = np.arange(len(labels)) if rng is None else rng.permutation(len(labels))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            targets = None if self.loss.kind == "distillation" else labels[rows]
            yield Batch({"images": images[rows]}, targets, len(rows))

    def score(self, split: Split, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]) -> float:
        """Top-1 accuracy."""
        accuracy = Accuracy()
        _, labels = example_images(self._sizes[split], _STREAMS[split])
        for batch, found in outputs:
            accuracy.add(found["scores"], labels[accuracy.seen : accuracy.seen + batch.size])
        return accuracy.value
