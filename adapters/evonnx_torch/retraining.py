"""From a request to a result: build student and teacher, decide settings, train, collect arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from evonnx.adapter import RetrainRequest, RetrainResult
from evonnx.errors import AdapterError, AdapterMemoryError
from evonnx.masks import Masks
from evonnx.network import Array, network_of
from evonnx.onnx_io import load_model, stored_parameters
from evonnx.resources import count
from evonnx_torch.checkpoint import Checkpoint
from evonnx_torch.feeding import accepted_chunk, activation_bytes, chunks
from evonnx_torch.module import OnnxModule
from evonnx_torch.objective import Objective
from evonnx_torch.renormalize import Renormalization, wanted
from evonnx_torch.runtime import (
    deterministic,
    is_memory_error,
    native_bfloat16,
    pick_device,
    release,
    roomy_heap,
)
from evonnx_torch.sensitivity import measure
from evonnx_torch.stepping import cuda_recorder
from evonnx_torch.teacher import Teacher
from evonnx_torch.training import Trainer
from evonnx_training.augmentation import read_augmentation
from evonnx_training.checkpoint import SECONDS, key_of
from evonnx_training.heads import Head, compares_values, loss_heads
from evonnx_training.remedies import SMALLEST_NORM_BATCH
from evonnx_training.requests import (
    INTEGER_WEIGHTS,
    check_masks,
    first_batch,
    is_quantized,
    masked,
    read_options,
    stored,
)
from evonnx_training.roles import is_bare_and_deep
from evonnx_training.settings import TEMPERATURE, choose_batch_size, resolve

_CHOICES = {
    "renormalize": ("auto", "on", "off"),
    "precision": ("auto", "fp32", "amp"),
    "device": ("auto", "cpu", "cuda"),
    "capture": ("auto", "on", "off"),
}
_WORTH_MIXING_ON_CUDA = 1_000_000
"""Parameters from which on mixed precision pays there; smaller networks are bound by launch times."""
_WORTH_MIXING_ON_CPU = 100_000_000
"""Multiply-accumulates of a batch's forward pass from which on it pays on a processor that has bfloat16;
below, converting takes what multiplying gains."""
_WORTH_CAPTURING = 20_000_000_000
"""Multiply-accumulates of a batch's forward pass up to which launching a step's kernels is taken to last
longer than running them: about a thousand launches of some microseconds each, at some 10^13 a second."""
_TEACHER_BATCH = 128
"""The batch for which the teacher's precision is chosen, whatever the students' batches are."""


def retrain(request: RetrainRequest, teachers: dict[object, object]) -> RetrainResult:
    """See `evonnx.adapter.Adapter.retrain`.

    Args:
        request: what to do.
        teachers: the ancestor's cached outputs, kept by the caller between requests.
    """
    device = _device(read_options(request, _CHOICES, "torch")["device"])
    with _running(request, device):
        return _retrain(request, teachers, device)


def sensitivities(request: RetrainRequest) -> dict[str, Array]:
    """See `evonnx.adapter.MeasuresSensitivities`. In float32: squares of small gradients need its range."""
    device = _device(read_options(request, _CHOICES, "torch")["device"])
    with _running(request, device):
        module = OnnxModule(load_model(request.model), device)
        check_masks(module.graph, request.masks)
        heads, chunk, batch_size = _fitted(module, request, device)
        given = request.budget.temperature
        temperature = TEMPERATURE if given is None else given
        return measure(module, heads, request, batch_size, chunk, temperature)


@contextmanager
def _running(request: RetrainRequest, device: torch.device) -> Iterator[None]:
    """Deterministic, with torch's own errors told as an adapter's."""
    release(device)
    with roomy_heap(), deterministic(request.seed, request.budget.threads, device):
        try:
            yield
        except RuntimeError as error:  # torch's own: out of memory, no deterministic form on this device, ...
            if is_memory_error(error):
                raise AdapterMemoryError(
                    f"PyTorch ran out of memory on {request.model.name}: {str(error).splitlines()[0]} Try a "
                    "smaller batch size, or `device=cpu`."
                ) from error
            raise AdapterError(
                f"PyTorch failed on {request.model.name}: {str(error).splitlines()[0]} "
                "Try a smaller batch size, or `device=cpu`."
            ) from error


def _fitted(
    module: OnnxModule, request: RetrainRequest, device: torch.device
) -> tuple[tuple[Head, ...], int | None, int]:
    """Mask the module and find what its loss reads, its largest forward pass and its batch size."""
    _apply_masks(module, request.masks)
    if device.type == "cpu":
        module.use_channels_last()
    heads = loss_heads(module.graph, request.task.loss)
    few = first_batch(request.task, max(4, 2 * (module.declared_batch or 1)))
    taps = tuple(head.tap for head in heads)
    chunk = accepted_chunk(module, few, taps)
    examples = request.task.size("train")
    return (
        heads,
        chunk,
        choose_batch_size(request.budget, examples, activation_bytes(module, few, chunk, taps)),
    )


def _retrain(request: RetrainRequest, teachers: dict[object, object], device: torch.device) -> RetrainResult:
    model = load_model(request.model)
    module = OnnxModule(model, device)
    check_masks(module.graph, request.masks)
    names = (*module.weights, *module.statistics)
    if request.budget.epochs == 0:
        return RetrainResult(masked(stored(module.graph, names), request.masks))
    if not module.weights and is_quantized(module.graph):
        return RetrainResult(masked(stored(module.graph, names), request.masks), notes=[INTEGER_WEIGHTS])
    trainer = make_trainer(request, model, module, teachers)
    trainer.run()
    return RetrainResult(
        masked(module.arrays(), request.masks), trainer.history, trainer.notes, trainer.faults
    )


def make_trainer(
    request: RetrainRequest, model: ir.Model, module: OnnxModule, teachers: dict[object, object]
) -> Trainer:
    """What retrains a model: every choice made, no step taken.

    Args:
        request: what to do.
        model: the one it names.
        module: made of it, and trained in place.
        teachers: as for `retrain`.
    """
    options, device = read_options(request, _CHOICES, "torch"), module.device
    heads, chunk, batch_size = _fitted(module, request, device)
    teacher = _teacher(request, teachers, options["precision"], device) if request.ancestor else None
    renormalization = _renormalize(module, request, options["renormalize"], batch_size, chunk)
    # A task may give smaller batches than it is asked for.
    first = first_batch(request.task, batch_size)
    settings = resolve(
        request.budget,
        batch_size,
        first.size,
        teacher=teacher is not None,
        values_only=compares_values(request.task.loss, heads),
        bare_and_deep=renormalization is None and is_bare_and_deep(module.graph),
    )
    objective = Objective(module, request.task.loss, teacher, settings.distill, settings.temperature)
    if teacher is not None and objective.share > 0:
        teacher.remember(request.task, read_augmentation(settings.augment))
    mixed = _is_mixed(model, batch_size, options["precision"], device)
    if mixed:
        module.use_channels_last()
    trainer = Trainer(
        module,
        objective,
        request.task,
        settings,
        request.masks,
        renormalization,
        first,
        chunk,
        request.seed,
        request.progress,
        _autocast(mixed, device),
        Checkpoint(request.checkpoint, _key(request), _seconds(request)),
        cuda_recorder(device) if _is_captured(model, batch_size, options["capture"], device) else None,
    )
    if options["capture"] == "on" and device.type != "cuda":
        trainer.notes.append("capturing steps was asked for, but that is a thing of CUDA devices")
    if options["precision"] == "amp" and not mixed:
        trainer.notes.append(
            "mixed precision was asked for, but this processor has no bfloat16 arithmetic; float32 is used"
        )
    if renormalization is not None:
        trainer.notes.append(
            f"normalisation was put back behind {len(renormalization.nodes)} convolutions for retraining, "
            "and folded again"
        )
    return trainer


def _key(request: RetrainRequest) -> str:
    return key_of(request, torch.__version__, torch.get_num_threads()) if request.checkpoint else ""


def _seconds(request: RetrainRequest) -> float:
    """Between places within an epoch that are kept."""
    text = request.options.get("checkpoint", str(SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise AdapterError(
            f"The torch adapter's option 'checkpoint' is {text!r}; it must be a number of seconds: how "
            "often progress is kept on disk within an epoch."
        )
    return seconds


def _device(option: str) -> torch.device:
    if option == "auto":
        return pick_device()
    if option == "cuda" and not torch.cuda.is_available():
        raise AdapterError(
            "The torch adapter was asked for CUDA, which PyTorch cannot use here. Use `device=auto`."
        )
    return torch.device(option)


@torch.no_grad()
def _apply_masks(module: OnnxModule, masks: Masks) -> None:
    for name, mask in masks.items():
        if name in module.weights:
            module.weights[name][torch.from_numpy(~mask).to(module.device)] = 0.0


def _teacher(
    request: RetrainRequest, teachers: dict[object, object], precision: str, device: torch.device
) -> Teacher:
    ancestor = Path(request.ancestor or "")
    found = ancestor.stat() if ancestor.exists() else None
    # All that its outputs depend on.
    key = (
        ancestor.absolute(),
        found and (found.st_mtime_ns, found.st_size),
        id(request.task),
        str(device),
        precision,
        torch.get_num_threads(),
    )
    known: Any = teachers.get(key)
    if known is None:
        model = load_model(ancestor)
        module = OnnxModule(model, device)
        # Whether it is mixed is for the ancestor alone to say: its outputs are kept while students shrink.
        mixed = _is_mixed(model, _TEACHER_BATCH, precision, device)
        if mixed or device.type == "cpu":
            module.use_channels_last()
        teacher = Teacher(module, loss_heads(module.graph, request.task.loss), _autocast(mixed, device))
        teachers.clear()
        # The task is kept with it, so that its id stays taken.
        teachers[key] = known = (teacher, request.task)
    kept: Teacher = known[0]
    return kept


def _renormalize(
    module: OnnxModule, request: RetrainRequest, option: str, batch_size: int, chunk: int | None
) -> Renormalization | None:
    nodes = wanted(module.graph, module.roles, option)
    if not nodes:
        return None
    rng = np.random.default_rng([request.seed, 1])
    part = next(chunks(module, next(iter(request.task.batches("train", batch_size, rng))), chunk))
    if part.size < SMALLEST_NORM_BATCH and option == "auto":
        return None
    return Renormalization(module, nodes, part.inputs)


def _is_mixed(model: ir.Model, batch_size: int, option: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16, weights and what is summed up staying in float32.

    A fixed rule, so that a resumed run decides alike.
    """
    if option == "fp32" or (device.type == "cpu" and not native_bfloat16()):
        return False
    if option == "amp":
        return True
    if device.type == "cuda":
        return stored_parameters(model) >= _WORTH_MIXING_ON_CUDA
    network = network_of(model, "the model")
    if any(weight.groups > 1 and weight.inputs_per_group == 1 for weight in network.weights.values()):
        # Gradients of depthwise convolutions take twice as long in bfloat16 (MobileNetV2: 1.4 times a step).
        return False
    macs = count(network).macs
    return macs is not None and macs * batch_size >= _WORTH_MIXING_ON_CPU


def _is_captured(model: ir.Model, batch_size: int, option: str, device: torch.device) -> bool:
    """Whether to replay steps as a CUDA graph. A fixed rule, so that a resumed run decides alike."""
    if option == "off" or device.type != "cuda":
        return False
    macs = count(network_of(model, "the model")).macs
    return option == "on" or (macs is not None and macs * batch_size <= _WORTH_CAPTURING)


def _autocast(mixed: bool, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    # bfloat16 has float32's range, so no loss scaling is needed.
    return partial(torch.autocast, device.type, dtype=torch.bfloat16) if mixed else nullcontext
