"""Scoring: a task's metric on the outputs of the ONNX file itself, run in onnxruntime, batch by batch.

A model whose batch dimension is fixed to B is fed B examples at a time (the last ones padded by repetition,
and the padding dropped), several such runs in parallel threads where B is 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.errors import ModelMemoryError, ScoreError, TaskError
from evonnx.network import Array
from evonnx.onnx_io import Detached
from evonnx.sessions import (
    CPU,
    InputSpec,
    concrete_shape,
    default_threads,
    input_specs,
    make_session,
    resolve_providers,
    run_session,
)
from evonnx.task import Batch, Detailed, NeedsAncestor, Split, Task

Run = Callable[[Mapping[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class Score:
    """What a model scored, and what that took."""

    value: float
    metric: str
    """The metric's name; direction and scale are in the task's `Metric`."""
    split: str
    examples: int
    seconds: float
    """Wall time of data, model and metric together."""
    provider: str
    details: Mapping[str, float] = field(default_factory=dict)
    """More figures by name, on the metric's scale, where the task has them (`task.Detailed`)."""
    batch_size: int = 0
    """Examples that were asked of the task at a time."""
    halvings: int = 0
    """How often there was not enough memory for more at a time."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON-able data."""
        return {**vars(self), "details": dict(self.details)}


def evaluate(
    model_path: str | Path | Detached,
    task: Task,
    split: Split = "test",
    *,
    threads: int | None = None,
    batch_size: int | None = None,
    providers: str | Sequence[str] = (CPU,),
    ancestor: str | Path | None = None,
) -> Score:
    """Score a model file on one split of a task.

    Args:
        model_path: the ONNX file, or a model in memory that no file is written of.
        task: data and metric; its inputs are matched to the graph's by name, or simply where both have one.
        split: which examples.
        threads: onnxruntime's threads; None: all cores of this process.
        batch_size: examples at a time where the model's batch dimension is dynamic; None: as many as make 16
            MiB of inputs, at most 256. Halved for as long as memory does not suffice.
        providers: as for `sessions.make_session`.
        ancestor: handed to a task that scores against it (`task.NeedsAncestor`), if given.

    Raises:
        TaskError: the split is empty, or inputs of task and model do not fit; the message names both.
        ScoreError: the score is not a number.
        ModelError: onnxruntime cannot load or run the model.
        ProviderError: the provider cannot run here.
    """
    start = time.perf_counter()
    if ancestor is not None and isinstance(task, NeedsAncestor):
        task.bind_ancestor(str(ancestor))
    if task.size(split) == 0:
        raise TaskError(f"Task {task.name!r} has no {split} examples, so nothing can be scored on them.")
    wanted = resolve_providers(providers)
    workers = threads or default_threads()
    session = make_session(model_path, threads=workers, providers=wanted)
    specs = input_specs(session)
    fixed = fixed_batch(specs)
    parallel = fixed == 1 and workers > 1 and wanted[0] == CPU
    if parallel:
        session = make_session(model_path, threads=1, providers=wanted)
    outputs = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return run_session(session, feeds, outputs)

    label = "the model" if isinstance(model_path, Detached) else str(model_path)
    seen = 0

    def results(step: int, pool: ThreadPoolExecutor) -> Iterator[tuple[Batch, Mapping[str, Array]]]:
        nonlocal seen
        seen = 0
        for batch in task.batches(split, step):
            feeds = feeds_of(batch, specs, label)
            seen += batch.size
            if fixed is None:
                yield batch, run(feeds)
            else:
                yield batch, _run_in_parts(run, feeds, batch.size, fixed, pool)

    step, halvings = batch_size or default_batch(specs), 0
    with ThreadPoolExecutor(workers if parallel else 1) as pool:
        while True:
            try:
                value, details = _judged(task, split, results(step, pool))
                break
            except ModelMemoryError:
                if step == 1 or fixed is not None:
                    raise
            step, halvings = step // 2, halvings + 1
    if not math.isfinite(value):
        raise ScoreError(
            f"The {task.metric.name} of {label} on {split} data is {value}: the model's outputs, or what the "
            "task makes of them, hold NaN or infinite values."
        )
    seconds = time.perf_counter() - start
    return Score(value, task.metric.name, split, seen, seconds, wanted[0], details, step, halvings)


def _judged(
    task: Task, split: Split, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]
) -> tuple[float, dict[str, float]]:
    """The score, and what else the task has to say of the same outputs.

    Raises:
        TaskError: a task with details leaves its score out of them.
    """
    if not isinstance(task, Detailed):
        return float(task.score(split, outputs)), {}
    figures = {name: float(value) for name, value in task.details(split, outputs).items()}
    if task.metric.name not in figures:
        raise TaskError(
            f"The details of task {task.name!r} are {', '.join(figures) or 'none'}; its score "
            f"{task.metric.name!r} must be among them."
        )
    value = figures.pop(task.metric.name)
    return value, figures


def fixed_batch(specs: Sequence[InputSpec]) -> int | None:
    """The batch size that a model's first input demands; None where it is dynamic or there is no axis."""
    if not specs or not specs[0].shape:
        return None
    first = specs[0].shape[0]
    return first if isinstance(first, int) else None


def default_batch(specs: Sequence[InputSpec]) -> int:
    """Examples that make 16 MiB of inputs (dynamic dimensions counted as 1), at least 1 and at most 256."""
    size = sum(spec.dtype.itemsize * int(np.prod(concrete_shape(spec)[1:])) for spec in specs)
    return max(1, min(256, 2**24 // max(1, size)))


def feeds_of(batch: Batch, specs: Sequence[InputSpec], model: str) -> dict[str, Array]:
    """A batch's inputs under the graph's names and in its dtypes.

    Args:
        batch: from a task.
        specs: what the session must be fed.
        model: the file, for messages.

    Raises:
        TaskError: names or shapes do not fit.
    """
    given = dict(batch.inputs)
    if len(given) == len(specs) == 1:
        given = {specs[0].name: next(iter(given.values()))}
    missing = [spec.name for spec in specs if spec.name not in given]
    unknown = sorted(set(given) - {spec.name for spec in specs})
    if missing or unknown:
        raise TaskError(
            f"The task's inputs {sorted(batch.inputs)} do not fit the inputs of {model}: "
            f"{[spec.name for spec in specs]}. Name the task's arrays after the graph's inputs."
        )
    return {spec.name: _fitting(np.asarray(given[spec.name]), spec, model) for spec in specs}


def _fitting(array: Array, spec: InputSpec, model: str) -> Array:
    # A fixed batch axis is met by feeding in parts, so axis 0 is free here.
    fits = array.ndim == len(spec.shape) and all(
        not isinstance(dim, int) or dim == size
        for dim, size in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        shown = ", ".join("?" if dim is None else str(dim) for dim in spec.shape)
        raise TaskError(
            f"The task gives input {spec.name!r} with shape {list(array.shape)}, but {model} takes "
            f"[{shown}]. Reshape the data, or name the task's arrays after the graph's inputs."
        )
    return array.astype(spec.dtype, copy=False)


def _run_in_parts(
    run: Run, feeds: Mapping[str, Array], size: int, fixed: int, pool: ThreadPoolExecutor
) -> dict[str, Array]:
    """Feed `size` examples `fixed` at a time and put the outputs together, in order."""
    starts = range(0, size, fixed)
    parts = list(pool.map(lambda start: run(_part(feeds, start, fixed)), starts))
    return {name: _join([part[name] for part in parts], size, fixed) for name in parts[0]}


def _part(feeds: Mapping[str, Array], start: int, fixed: int) -> dict[str, Array]:
    part = {}
    for name, array in feeds.items():
        rows = array[start : start + fixed] if array.ndim else array
        if array.ndim and len(rows) < fixed:
            rows = np.concatenate([rows, np.repeat(rows[-1:], fixed - len(rows), axis=0)])
        part[name] = rows
    return part


def _join(parts: Sequence[Array], size: int, fixed: int) -> Array:
    """One array with examples along axis 0.

    An output without a batch axis belongs to its run; with one example a run those are stacked, as objects
    where their shapes differ (detections). With several examples a run it can't be told apart by example.
    """
    if all(part.ndim > 0 and len(part) == fixed for part in parts):
        return np.concatenate(parts)[:size]
    if fixed != 1:
        raise TaskError(
            f"The model takes {fixed} examples at a time and has an output of shape {list(parts[0].shape)}, "
            f"which has no batch axis of {fixed}; export it with a dynamic batch or a batch of 1."
        )
    if len({part.shape for part in parts}) == 1:
        return np.stack(parts)
    mixed = np.empty(len(parts), dtype=object)
    mixed[:] = parts
    return mixed
