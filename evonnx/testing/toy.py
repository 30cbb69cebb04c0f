"""An adapter without a framework, for fast tests: numpy trains the last layer of a classifier, the rest
stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from evonnx.adapter import EpochRecord, Progress, RetrainRequest, RetrainResult
from evonnx.errors import AdapterError, EvonnxError
from evonnx.network import Array
from evonnx.onnx_io import initializer_arrays, load_model, to_bytes
from evonnx.task import Batch
from evonnx.tasks._outputs import ModelOutputs

BATCH_SIZE = 32
LEARNING_RATE = 0.01

Double = NDArray[np.float64]


@dataclass(frozen=True)
class _Head:
    """The Gemm or MatMul that an output comes from: logits = factor * features @ W + bias, W as (inputs,
    outputs)."""

    weight: str
    bias: str | None
    """A trained bias of shape (outputs,)."""
    offset: Double
    """A constant added to the logits that is not trained."""
    factor: float
    transposed: bool
    features: str
    output: str
    softmax: bool
    """Whether the graph output is the softmax of the logits."""


class ToyAdapter:
    """Trains the last Gemm or MatMul (and its bias) with Adam in float64, on features from onnxruntime.

    Losses: cross_entropy, and distillation against the ancestor. Whatever is not the last layer is returned
    to its owner by not being returned at all.
    """

    name = "toy"

    def retrain(self, request: RetrainRequest) -> RetrainResult:
        """Train for `budget.epochs` epochs.

        Raises:
            AdapterError: the model does not end in such a layer, or cannot be run.
        """
        if request.budget.epochs == 0:
            return RetrainResult({})
        try:
            return _train(request)
        except AdapterError:
            raise
        except EvonnxError as error:
            raise AdapterError(f"The toy adapter cannot retrain {request.model.name}: {error}") from error


def _train(request: RetrainRequest) -> RetrainResult:
    loss = request.task.loss
    if loss.kind not in ("cross_entropy", "distillation"):
        raise AdapterError(f"The toy adapter knows no loss {loss.kind!r}; use another adapter.")
    model = load_model(request.model)
    arrays = initializer_arrays(model)
    proto = onnx.load_model_from_string(to_bytes(model))
    head = _find_head(proto, arrays, loss.output)
    proto.graph.output.append(helper.make_empty_tensor_value_info(head.features))
    features = ModelOutputs(proto.SerializeToString(), "The model", keep=False)
    teacher = None
    if loss.kind == "distillation":
        if request.ancestor is None:
            raise AdapterError("Distillation needs the ancestor, and the request names none.")
        teacher = ModelOutputs(str(request.ancestor), keep=False)
    rate = (request.budget.learning_rate or LEARNING_RATE) * request.budget.rate_share
    trainee = _Trainee(head, arrays, request.masks.get(head.weight), rate)
    history = []
    step_size = max(1, int((request.budget.batch_size or BATCH_SIZE) * request.budget.batch_share))
    steps = -(-request.task.size("train") // step_size)
    for epoch in range(1, request.budget.epochs + 1):
        rng = np.random.default_rng([request.seed, epoch])
        losses = []
        for step, batch in enumerate(request.task.batches("train", step_size, rng), 1):
            targets, squared = _targets(batch, teacher, head)
            losses.append(trainee.step(features(batch)[head.features], targets, squared))
            news = Progress(epoch, request.budget.epochs, step, max(step, steps), losses[-1])
            request.progress(news)
        history.append(EpochRecord(epoch, float(np.mean(losses)), trainee.rate))
    return RetrainResult(trainee.weights(arrays), history)


def _targets(batch: Batch, teacher: ModelOutputs | None, head: _Head) -> tuple[Array, bool]:
    """(class indices or arrays like the output, whether the loss is squared)."""
    if teacher is not None:
        return teacher(batch)[head.output], not head.softmax
    if not isinstance(batch.targets, np.ndarray):
        raise AdapterError("The task asks for cross-entropy but gives no class indices.")
    return batch.targets, False


class _Trainee:
    """The layer while it trains; Adam (Kingma and Ba, 2015) with its default moments."""

    def __init__(
        self, head: _Head, arrays: dict[str, Any], mask: NDArray[np.bool_] | None, rate: float
    ) -> None:
        self.head, self.rate = head, rate
        stored = arrays[head.weight].astype(np.float64)
        live = np.ones(stored.shape, np.bool_) if mask is None else mask
        self.live = live.T if head.transposed else live
        self.weight: Double = (stored.T if head.transposed else stored) * self.live
        self.bias: Double = np.zeros(self.weight.shape[1])
        if head.bias is not None:
            self.bias = arrays[head.bias].astype(np.float64)
        self.moments = [np.zeros_like(array) for array in (self.weight, self.weight, self.bias, self.bias)]
        self.steps = 0

    def step(self, features: Array, targets: Array, squared: bool) -> float:
        """One step on a batch; returns the loss before it."""
        inputs = features.astype(np.float64).reshape(-1, self.weight.shape[0])
        logits = self.head.factor * inputs @ self.weight + self.bias + self.head.offset
        if squared:
            difference = logits - targets.astype(np.float64).reshape(logits.shape)
            loss, gradient = float(np.mean(difference**2)), 2 * difference / difference.size
        else:
            loss, gradient = _cross_entropy(logits, targets)
        self.steps += 1
        self._adam(self.weight, self.head.factor * inputs.T @ gradient * self.live, 0)
        if self.head.bias is not None:
            self._adam(self.bias, gradient.sum(axis=0), 2)
        return loss

    def _adam(self, values: Double, gradient: Double, slot: int) -> None:
        first, second = self.moments[slot], self.moments[slot + 1]
        first += 0.1 * (gradient - first)
        second += 0.001 * (gradient**2 - second)
        unbiased = np.sqrt(second / (1 - 0.999**self.steps)) + 1e-8
        values -= self.rate * (first / (1 - 0.9**self.steps)) / unbiased

    def weights(self, arrays: dict[str, Any]) -> dict[str, Array]:
        """The trained arrays in the model's own layout and dtype."""
        stored = self.weight * self.live
        found = {self.head.weight: stored.T if self.head.transposed else stored}
        if self.head.bias is not None:
            found[self.head.bias] = self.bias
        return {name: np.ascontiguousarray(array).astype(arrays[name].dtype) for name, array in found.items()}


def _cross_entropy(logits: Double, targets: Array) -> tuple[float, Double]:
    """Mean loss and its gradient; targets are class indices (-1: ignored) or probabilities."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    if targets.dtype.kind in "iu":
        labels = targets.astype(np.int64)
        wanted = np.eye(logits.shape[1])[labels] * (labels >= 0)[:, None]
    else:
        wanted = targets.astype(np.float64).reshape(logits.shape)
    rows = max(1.0, float(wanted.sum()))
    gradient = (np.exp(log_p) * wanted.sum(axis=1, keepdims=True) - wanted) / rows
    return float(-(wanted * log_p).sum() / rows), gradient


def _find_head(model: onnx.ModelProto, arrays: dict[str, Any], output: str | None) -> _Head:
    """Walk back from an output to the layer that makes it.

    Raises:
        AdapterError: something else than Softmax, Identity or an added constant stands between.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    output = output or model.graph.output[0].name
    value, softmax, offset = output, False, np.zeros(1)
    while True:
        node = producers.get(value)
        if node is None:
            raise AdapterError(
                f"Output {output!r} comes from no Gemm or MatMul with weights, all the toy adapter trains."
            )
        constant = [name for name in node.input if name in arrays]
        if node.op_type in ("Gemm", "MatMul") and node.input[1] in arrays and arrays[node.input[1]].ndim == 2:
            return _head_of(node, arrays, offset, softmax, output)
        if node.op_type == "Softmax" and not softmax and value == output:
            softmax = True
        elif node.op_type == "Add" and len(constant) == 1:
            offset = offset + arrays[constant[0]].astype(np.float64).reshape(-1)
        elif node.op_type not in ("Identity", "Dropout"):
            raise AdapterError(
                f"The toy adapter trains the last Gemm or MatMul, but output {output!r} comes from "
                f"{node.op_type} "
                f"{node.name!r}; use another adapter for this model."
            )
        value = next(name for name in node.input if name not in arrays)


def _head_of(
    node: onnx.NodeProto, arrays: dict[str, Any], offset: Double, softmax: bool, output: str
) -> _Head:
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    outputs = arrays[node.input[1]].shape[0 if attributes.get("transB") else 1]
    plain = bias is None or (
        attributes.get("beta", 1.0) == 1.0 and bias in arrays and arrays[bias].shape == (outputs,)
    )
    if attributes.get("transA") or not plain:
        raise AdapterError(f"The toy adapter does not know this form of {node.op_type} ({node.name!r}).")
    return _Head(
        weight=node.input[1],
        bias=bias,
        offset=offset,
        factor=float(attributes.get("alpha", 1.0)),
        transposed=bool(attributes.get("transB", 0)),
        features=node.input[0],
        output=output,
        softmax=softmax,
    )
