"""The generation loop: ancestor in, run directory out."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.adapter import TrainingBudget
from evonnx.dependency import analyse
from evonnx.errors import BudgetError, EvonnxError, RunError
from evonnx.evaluation import evaluate
from evonnx.evolution.alignment import measure_alignment
from evonnx.evolution.generation import Parent, Setting, figures, make_generation
from evonnx.evolution.options import EvolveOptions, Observer
from evonnx.evolution.recovery import choose_best, recover
from evonnx.evolution.retraining import Trainer
from evonnx.genome import Encoding
from evonnx.network import Network, load_network
from evonnx.plugins import get
from evonnx.resources import count
from evonnx.run_store import COMPACT_FILE, Row, RunStore
from evonnx.sessions import load_warnings
from evonnx.speed import bench
from evonnx.task import NeedsAncestor, Task
from evonnx.tasks import find_task

PACKAGES = ("evonnx", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "torch")


def evolve(
    model: str | Path,
    task: str | Path | None = None,
    out: str | Path | None = None,
    options: EvolveOptions | None = None,
    *,
    resume: bool = False,
    observer: Observer | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Evolve a model; return the run directory and the run's document (what run.json holds).

    Args:
        model: the ancestor, an ONNX file.
        task: a task file; None: `<stem>.toml` beside the model, else data-free self-distillation.
        out: run directory; needed to resume.
        options: what to do; None: the defaults.
        resume: continue the run in `out` to the same result as an uninterrupted one.
        observer: hears of progress.

    Raises:
        EvonnxError: any reason the run cannot start or go on; complete generations stay on disk.
    """
    options, observer = options or EvolveOptions(), observer or Observer()
    model, store_folder = Path(model), _run_folder(Path(model), out, resume)
    network = load_network(model, options.input_shapes)
    if not network.weights:
        raise RunError(
            f"{model} has no convolution, Gemm or MatMul with constant weights, so there is nothing to "
            "evolve; `evonnx inspect` shows what was seen."
        )
    the_task, how_found, defaults = find_task(model, network, Path(task) if task is not None else None)
    encoding = _encoding(options)
    get("adapters", options.retraining.adapter)  # a wrong name is told before anything is written
    budget = _training_budget(options, defaults)
    configuration = _configuration(model, the_task, options, encoding, budget)
    if resume:
        store = RunStore.resume(store_folder)
        _check_same_configuration(store.read_run()["configuration"], configuration, store_folder)
    else:
        store = RunStore.create(store_folder, {"configuration": configuration, "generations": []})
    try:
        if isinstance(the_task, NeedsAncestor):
            the_task.bind_ancestor(str(model))
        choices = store.read_run().get("choices") or _choose(network, options, encoding, store, observer)
        setting = _setting(model, network, the_task, options, encoding, budget, choices["align"], observer)
        run = _head(model, network, the_task, how_found, configuration, choices, setting)
        store.write_run(run)
        observer.started(f"{model.name}: {the_task.describe()}", options.generations, run["notes"])
        if stopped := _generations(setting, store, run, model):
            run["notes"].append(stopped)
            observer.note(stopped)
    except EvonnxError:
        store.abandon_if_empty()
        raise
    _finish(setting, store, run, model, defaults)
    return store.folder, run


def _choose(
    network: Network, options: EvolveOptions, encoding: Encoding, store: RunStore, observer: Observer
) -> dict[str, Any]:
    """What depends on the machine, recorded so that a resumed run repeats it."""
    if options.pressure.align is not None:
        return {"align": options.pressure.align}
    observer.stage(0, "measuring channel alignments")
    workspace = store.workspace("alignment")
    try:
        return measure_alignment(
            network, analyse(network), encoding, workspace, options.threads, options.input_shapes
        )
    finally:
        store.discard(workspace)


def _generations(setting: Setting, store: RunStore, run: dict[str, Any], model: Path) -> str | None:
    """Make every generation that is still missing; return why the run stopped early, if it did."""
    options = setting.options
    seeds = np.random.SeedSequence(options.seed).spawn(options.generations + 1)
    rows = store.rows()
    for row in rows:
        setting.observer.generation_done(row)
    while True:
        run["generations"] = rows
        store.write_run(run)
        if rows and (reason := _stop_reason(setting, rows[-1])):
            return reason
        generation = len(rows) + 1
        if generation > options.generations:
            return None
        parent = Parent(len(rows), store.generation_folder(len(rows)) / COMPACT_FILE if rows else model)
        made: list[Row] = []

        def fill(
            folder: Path, generation: int = generation, parent: Parent = parent, made: list[Row] = made
        ) -> None:
            made.append(make_generation(setting, generation, [parent], seeds[generation - 1], folder))

        try:
            store.commit_generation(generation, fill)
        except BudgetError as error:
            if generation == 1:
                raise
            return f"Stopped before generation {generation}: {error}"
        rows.append(made[0])
        setting.observer.generation_done(made[0])


def _stop_reason(setting: Setting, row: Row) -> str | None:
    metric, options = setting.task.metric, setting.options
    drop = metric.drop(setting.score_validation_ancestor, row["score_validation"])
    if drop > options.max_drop and row["generation"] < options.generations:
        return (
            f"Stopped after generation {row['generation']}: validation {metric.name} fell by {drop:.4g}, "
            f"more than --max-drop {options.max_drop:g}."
        )
    return None


def _finish(
    setting: Setting, store: RunStore, run: dict[str, Any], model: Path, defaults: dict[str, Any]
) -> None:
    """Choose the best offspring, train it once more, time everything, and write the final run.json."""
    rows: list[Row] = run["generations"]
    if not rows:
        store.write_run(run)
        return
    recovery_epochs = setting.options.retraining.recovery_epochs
    if recovery_epochs is None:
        recovery_epochs = int(defaults.get("recovery_epochs", 5))
    chosen = choose_best(setting, rows)
    seed = int(
        np.random.SeedSequence(setting.options.seed)
        .spawn(setting.options.generations + 1)[-1]
        .generate_state(1)[0]
    )
    run["best"] = recover(setting, store, chosen, replace(setting.training, epochs=recovery_epochs), seed)
    run["notes"] += run["best"].pop("notes")
    setting.observer.stage(0, "timing in onnxruntime")
    models = [model, *(store.generation_folder(row["generation"]) / COMPACT_FILE for row in rows)]
    models.append(store.folder / "best.onnx")
    # One thread unless told otherwise: idle neighbours then change the figures least.
    threads = setting.options.threads or 1
    run["bench"] = bench(models, batches=None, threads=threads, seed=setting.options.seed).to_json()
    store.write_run(run)


def _run_folder(model: Path, out: str | Path | None, resume: bool) -> Path:
    if out is not None:
        return Path(out)
    if resume:
        raise RunError("--resume needs --out with the run directory to continue.")
    import datetime

    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{model.stem}-{stamp}"


def _encoding(options: EvolveOptions) -> Encoding:
    encoding: Encoding = get("encodings", options.pressure.encoding)
    pressure = options.pressure
    changes: dict[str, Any] = {
        "levels": pressure.levels,
        "cluster_share": pressure.cluster_share,
        "granularity": pressure.clusters,
    }
    return replace(encoding, **{name: value for name, value in changes.items() if value is not None})


def _training_budget(options: EvolveOptions, defaults: dict[str, Any]) -> TrainingBudget:
    retraining = options.retraining
    known = {name: value for name, value in defaults.items() if name in TrainingBudget.__dataclass_fields__}
    given = {
        "epochs": retraining.epochs,
        "batch_size": retraining.batch_size,
        "learning_rate": retraining.learning_rate,
        "threads": options.threads,
    }
    return TrainingBudget(**{**known, **{name: value for name, value in given.items() if value is not None}})


def _setting(
    model: Path,
    network: Network,
    task: Task,
    options: EvolveOptions,
    encoding: Encoding,
    budget: TrainingBudget,
    align: int,
    observer: Observer,
) -> Setting:
    observer.stage(0, "scoring the ancestor")
    adapter = get("adapters", options.retraining.adapter)()
    trainer = Trainer(adapter, task, model, dict(options.retraining.adapter_options))
    return Setting(
        options=options,
        encoding=encoding,
        task=task,
        trainer=trainer,
        training=budget,
        ancestor=count(network),
        score_ancestor=evaluate(model, task, "test", threads=options.threads).value,
        score_validation_ancestor=evaluate(model, task, "validation", threads=options.threads).value,
        warnings_ancestor=frozenset(load_warnings(model)),
        align=align,
        observer=observer,
    )


def _configuration(
    model: Path, task: Task, options: EvolveOptions, encoding: Encoding, budget: TrainingBudget
) -> dict[str, Any]:
    """What must be equal for a run to be continued."""
    return {
        "model": model.name,
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "task": task.describe(),
        "options": options.to_json(),
        "encoding": {**vars(encoding), "strength": encoding.strength.name},
        "training": budget.__dict__,
        "versions": _versions(),
        "threads": options.threads,
    }


def _check_same_configuration(recorded: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    import json

    plain = json.loads(json.dumps(now))
    differing = sorted(_differences(recorded, plain))
    if differing:
        raise RunError(
            f"The run in {folder} was begun differently: {'; '.join(differing)}. "
            "Resume it with the same options, model and versions, or start a new run."
        )


def _differences(recorded: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(recorded, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted({*recorded, *now})
            for line in _differences(recorded.get(key), now.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if recorded == now else [f"{path} was {recorded!r} and is {now!r}"]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _head(
    model: Path,
    network: Network,
    task: Task,
    how_found: str,
    configuration: dict[str, Any],
    choices: dict[str, Any],
    setting: Setting,
) -> dict[str, Any]:
    """run.json before the first generation."""
    metric = task.metric
    ancestor: dict[str, Any] = {
        "generation": 0,
        "parents": [],
        "seed": setting.options.seed,
        **figures(setting.ancestor, setting.ancestor, model.stat().st_size),
        "score": setting.score_ancestor,
        "score_ancestor": setting.score_ancestor,
        "score_validation": setting.score_validation_ancestor,
    }
    return {
        "configuration": configuration,
        "seed": setting.options.seed,
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "choices": choices,
        "task": {
            "found": how_found,
            "description": task.describe(),
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
            "unit": metric.unit,
            "examples": {split: task.size(split) for split in _splits()},
        },
        "notes": [how_found, *network.notes, *(f"{left.name}: {left.reason}" for left in network.unprunable)],
        "ancestor": ancestor,
        "generations": [],
    }


def _splits() -> Sequence[Any]:
    return ("train", "validation", "test")
