"""From a request to a result: build student and teacher, decide settings, train, collect arrays."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from evonnx.adapter import RetrainRequest, RetrainResult
from evonnx.errors import AdapterError
from evonnx.network import Array
from evonnx.onnx_io import load_model
from evonnx_jax.checkpoint import Checkpoint
from evonnx_jax.module import OnnxFunction
from evonnx_jax.objective import Objective, Piece, piece_of
from evonnx_jax.ops import Context
from evonnx_jax.runtime import start, told
from evonnx_jax.sensitivity import measure
from evonnx_jax.stepping import Stepper, Teacher
from evonnx_jax.training import Trainer
from evonnx_training.checkpoint import key_of
from evonnx_training.heads import compares_values, loss_heads
from evonnx_training.remedies import FROZEN_NORMS, SMALLEST_NORM_BATCH
from evonnx_training.requests import (
    INTEGER_WEIGHTS,
    check_masks,
    first_batch,
    is_quantized,
    masked,
    stored,
)
from evonnx_training.roles import is_bare_and_deep
from evonnx_training.settings import TEMPERATURE, choose_batch_size, resolve

Teachers = dict[object, Teacher]
_TOLD = frozenset({"task"})
"""What every adapter is told, for those that hand the task's file on to a program."""


def retrain(request: RetrainRequest, teachers: Teachers) -> RetrainResult:
    """See `evonnx.adapter.Adapter.retrain`.

    Args:
        request: what to do.
        teachers: the compiled ancestor, kept by the caller between requests.
    """
    _check_options(request)
    notes = start(request.budget.threads)
    with told(request.model.name):
        result = _retrain(request, teachers)
    return RetrainResult(result.weights, result.history, (*notes, *result.notes), result.faults)


def sensitivities(request: RetrainRequest) -> dict[str, Array]:
    """See `evonnx.adapter.MeasuresSensitivities`."""
    _check_options(request)
    start(request.budget.threads)
    with told(request.model.name):
        function = OnnxFunction(load_model(request.model))
        check_masks(function.graph, request.masks)
        heads = loss_heads(function.graph, request.task.loss)
        taps = tuple(head.tap for head in heads)
        given = request.budget.temperature
        temperature = TEMPERATURE if given is None else given
        return measure(function, heads, request, _batch_size(function, request, taps), temperature)


def _check_options(request: RetrainRequest) -> None:
    """There are none, and a setting that does nothing would mislead."""
    unknown = sorted(set(request.options) - _TOLD)
    if unknown:
        raise AdapterError(
            f"The JAX adapter has no option {unknown[0]!r}: it runs in float32 on JAX's "
            "default device, which JAX_PLATFORMS in the environment chooses. Leave it out."
        )


def _retrain(request: RetrainRequest, teachers: Teachers) -> RetrainResult:
    function = OnnxFunction(load_model(request.model))
    check_masks(function.graph, request.masks)
    names = (*function.roles.trained, *function.roles.statistics)
    if request.budget.epochs == 0:
        return RetrainResult(masked(stored(function.graph, names), request.masks))
    if not function.roles.trained and is_quantized(function.graph):
        return RetrainResult(masked(stored(function.graph, names), request.masks), notes=[INTEGER_WEIGHTS])
    trainer = _trainer(request, function, teachers)
    trained = trainer.run(function.variables(request.masks))
    weights = masked(function.arrays(trained), request.masks)
    return RetrainResult(weights, trainer.history, trainer.notes, trainer.faults)


def _trainer(request: RetrainRequest, function: OnnxFunction, teachers: Teachers) -> Trainer:
    """What retrains a model: every choice made, no step taken."""
    heads = loss_heads(function.graph, request.task.loss)
    taps = tuple(head.tap for head in heads)
    batch_size = _batch_size(function, request, taps)
    # A task may give smaller batches than it is asked for.
    first = first_batch(request.task, batch_size)
    teacher = _teacher(request, teachers) if request.ancestor else None
    settings = resolve(
        request.budget,
        batch_size,
        first.size,
        teacher=teacher is not None,
        values_only=compares_values(request.task.loss, heads),
        bare_and_deep=is_bare_and_deep(function.graph),
    )
    objective = Objective(
        function.graph, request.task.loss, teacher is not None, settings.distill, settings.temperature
    )
    if objective.share == 0:
        teacher = None
    example = piece_of(function, first)
    objective.settle(
        _shapes(function, example, taps)[0], example if teacher is None else jax.device_get(teacher(example))
    )
    frozen = first.size < SMALLEST_NORM_BATCH
    stepper = Stepper(function, objective, settings, request.masks, frozen, request.seed)
    if not stepper.trained:
        raise AdapterError(
            "The loss depends on no trainable weight of the model; check the task's output name."
        )
    trainer = Trainer(
        stepper,
        teacher,
        request.task,
        settings,
        first.size,
        request.seed,
        request.progress,
        Checkpoint(request.checkpoint, key_of(request, jax.__version__) if request.checkpoint else ""),
    )
    if frozen and function.roles.statistics:
        trainer.notes.append(FROZEN_NORMS)
    return trainer


def _shapes(function: OnnxFunction, piece: Piece, taps: tuple[str, ...]) -> tuple[dict[str, object], int]:
    """Shapes of the taps, and the number of elements that one forward pass makes; nothing is computed."""
    context = Context()
    found = jax.eval_shape(
        lambda variables, inputs: function(variables, inputs, taps, context)[0],
        function.variables({}),
        piece.inputs,
    )
    return found, context.elements


def _batch_size(function: OnnxFunction, request: RetrainRequest, taps: tuple[str, ...]) -> int:
    few = piece_of(function, first_batch(request.task, max(4, function.declared_batch or 1)))
    examples = max((len(x) for x in few.inputs.values() if np.ndim(x)), default=1)
    _, elements = _shapes(function, few, taps)
    size = choose_batch_size(request.budget, request.task.size("train"), max(1, 4 * elements // examples))
    return max(size, function.declared_batch or 1)


def _teacher(request: RetrainRequest, teachers: Teachers) -> Teacher:
    ancestor = Path(request.ancestor or "")
    found = ancestor.stat() if ancestor.exists() else None
    loss = request.task.loss
    # All that its outputs depend on; the task's own data does not.
    key = ancestor.absolute(), found and (found.st_mtime_ns, found.st_size), repr(loss)
    if key not in teachers:
        function = OnnxFunction(load_model(ancestor))
        teachers.clear()
        teachers[key] = Teacher(function, loss_heads(function.graph, loss))
    return teachers[key]
