"""The generation loop: ancestor in, run directory out."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.adapter import TrainingBudget
from evonnx.dependency import analyse
from evonnx.errors import BudgetError, EvonnxError, RunError
from evonnx.evolution.alignment import measure_alignment
from evonnx.evolution.configuration import check_same, configuration_of
from evonnx.evolution.generation import Parent, Setting, figures, make_generation
from evonnx.evolution.judging import Judge, check_examples
from evonnx.evolution.options import EvolveOptions, Observer
from evonnx.evolution.recovery import choose_best, recover
from evonnx.evolution.retraining import Trainer
from evonnx.genome import Encoding
from evonnx.network import Network, load_network
from evonnx.plugins import get
from evonnx.resources import count
from evonnx.run_store import COMPACT_FILE, Row, RunStore
from evonnx.sessions import default_threads, load_warnings
from evonnx.speed import bench
from evonnx.task import NeedsAncestor, Task
from evonnx.tasks import find_task, find_task_file

NO_TEST_DATA = "There is no test data: the score reported is the validation score."


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
    # One thread for timing unless told otherwise: idle neighbours then change the figures least.
    timing_threads = options.threads or 1
    options = replace(options, threads=options.threads or default_threads())
    model, store_folder = Path(model), _run_folder(Path(model), out, resume)
    network = load_network(model, options.input_shapes)
    if not network.weights:
        raise RunError(
            f"{model} has no convolution, Gemm or MatMul with constant weights, so there is nothing to "
            "evolve; `evonnx inspect` shows what was seen."
        )
    the_task, how_found, defaults = find_task(model, network, Path(task) if task is not None else None)
    check_examples(the_task, options.retraining.epochs)
    encoding = _encoding(options)
    get("adapters", options.retraining.adapter)  # a wrong name is told before anything is written
    budget = _training_budget(options, defaults)
    configuration = configuration_of(model, the_task, options, encoding, budget)
    if resume:
        store = RunStore.resume(store_folder)
        check_same(store.read_run()["configuration"], configuration, store_folder)
    else:
        store = RunStore.create(store_folder, {"configuration": configuration, "generations": []})
    try:
        if isinstance(the_task, NeedsAncestor):
            the_task.bind_ancestor(str(model))
        choices = store.read_run().get("choices") or _choose(
            network, options, encoding, timing_threads, store, observer
        )
        task_file = find_task_file(model, task)
        setting = _setting(
            model, network, the_task, options, encoding, budget, choices["align"], task_file, observer
        )
        run = _head(model, network, the_task, how_found, configuration, choices, setting)
        store.write_run(run)
        observer.started(f"{model.name}: {the_task.describe()}", options.generations, run["notes"])
        if stopped := _generations(setting, store, run, model):
            run["notes"].append(stopped)
            observer.note(stopped)
    except EvonnxError:
        store.abandon_if_empty()
        raise
    _finish(setting, store, run, model, defaults, timing_threads)
    return store.folder, run


def _choose(
    network: Network,
    options: EvolveOptions,
    encoding: Encoding,
    threads: int,
    store: RunStore,
    observer: Observer,
) -> dict[str, Any]:
    """What depends on the machine, recorded so that a resumed run repeats it."""
    if options.pressure.align is not None:
        return {"align": options.pressure.align}
    observer.stage(0, "measuring channel alignments")
    workspace = store.workspace("alignment")
    try:
        return measure_alignment(
            network, analyse(network), encoding, workspace, threads, options.input_shapes
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
    metric, options = setting.judge.metric, setting.options
    drop = metric.drop(setting.score_validation_ancestor, row["score_validation"])
    if drop > options.max_drop and row["generation"] < options.generations:
        return (
            f"Stopped after generation {row['generation']}: validation {metric.name} fell by {drop:.4g}, "
            f"more than --max-drop {options.max_drop:g}."
        )
    return None


def _finish(
    setting: Setting,
    store: RunStore,
    run: dict[str, Any],
    model: Path,
    defaults: dict[str, Any],
    threads: int,
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
    task_file: Path | None,
    observer: Observer,
) -> Setting:
    observer.stage(0, "scoring the ancestor")
    adapter = get("adapters", options.retraining.adapter)()
    adapter_options = dict(options.retraining.adapter_options)
    if task_file is not None:
        adapter_options["task"] = str(task_file)
    trainer = Trainer(adapter, task, model, adapter_options)
    judge = Judge(task, options.threads or default_threads())
    return Setting(
        options=options,
        encoding=encoding,
        judge=judge,
        trainer=trainer,
        training=budget,
        ancestor=count(network),
        score_ancestor=judge.reported(model),
        score_validation_ancestor=judge.validation(model),
        warnings_ancestor=frozenset(load_warnings(model)),
        align=align,
        observer=observer,
    )


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
        "notes": [
            how_found,
            *(
                []
                if task.size("test")
                else ["There is no test data: the score reported is the validation score."]
            ),
            *network.notes,
            *(f"{left.name}: {left.reason}" for left in network.unprunable),
        ],
        "ancestor": ancestor,
        "generations": [],
    }


def _splits() -> Sequence[Any]:
    return ("train", "validation", "test")
