"""The generation loop: ancestor in, run directory out."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.durable import digest_of, is_storage_failure
from evonnx.errors import (
    AdapterDivergedError,
    AdapterError,
    AdapterHungError,
    AdapterMemoryError,
    BudgetError,
    EvonnxError,
    RunError,
    TaskError,
)
from evonnx.evolution.begetting import Parent
from evonnx.evolution.beginning import Case, choose, first_record, read_case, setting_of
from evonnx.evolution.breeding import parents_of
from evonnx.evolution.choices import recorded_choices
from evonnx.evolution.configuration import check_same, configuration_of
from evonnx.evolution.crew import opened, placing_of
from evonnx.evolution.fronts import points_of, to_json
from evonnx.evolution.generation import make_generation
from evonnx.evolution.options import EvolveOptions, Observer
from evonnx.evolution.recovery import choose_best, recover
from evonnx.evolution.setting import Setting
from evonnx.evolution.staffing import staffed
from evonnx.faults import Fault, Ledger
from evonnx.locking import locked
from evonnx.run_store import (
    BEST_FILE,
    COMPACT_FILE,
    RUN_FILE,
    Row,
    RunStore,
    check_rows,
    disk_error,
    is_blank,
    of_row,
    read_json,
    refuse_links,
)
from evonnx.speed import bench
from evonnx.task import NeedsAncestor

_KINDS: dict[type, str] = {
    AdapterMemoryError: "out of memory",
    AdapterDivergedError: "divergence",
    AdapterHungError: "no sign of progress",
}


@dataclass(frozen=True)
class Run:
    """A finished evolution."""

    folder: Path
    """The run directory."""
    record: dict[str, Any]
    """What run.json holds: "ancestor", "generations", "best", "bench", ..."""

    @property
    def best(self) -> Path:
        """The model to deploy."""
        return self.folder / BEST_FILE


def evolve(
    model: str | Path,
    task: str | Path | None = None,
    out: str | Path | None = None,
    options: EvolveOptions | None = None,
    *,
    generations: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    retrain_timeout: float | None = None,
    executor: str | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> Run:
    """Evolve a model.

    Args:
        model: the ancestor, an ONNX file.
        task: a task file; None: `<stem>.toml` beside the model, else data-free self-distillation.
        out: run directory; needed to resume. None: `runs/<stem>-<date-time>`.
        options: what to do; None: the defaults.
        generations: number of offspring; None: what the options say.
        seed: of every random choice; None: what the options say.
        resume: continue the run in `out` to the same result as an uninterrupted one.
        observer: hears of progress.
        retrain_timeout: seconds without a sign of progress after which an adapter counts as hanging; None:
            any time.
        executor: plugin that screens and raises offspring in processes of its own, such as "local" or "ray";
            None: this process does, one after another.
        workers: of the executor; None: as many as there are cores for.
        address: of what the executor is to connect to.

    Raises:
        EvonnxError: any reason the run cannot start or go on; complete generations stay on disk. A run that
            fails before its first generation is removed, unless a disk failed: then it can be resumed.
    """
    options, observer = options or EvolveOptions(), observer or Observer()
    options = replace(
        options,
        generations=options.generations if generations is None else generations,
        seed=options.seed if seed is None else seed,
    )
    folder = _run_folder(Path(model), out, resume)
    placing = placing_of(executor, workers, address)
    case, network = read_case(Path(model), task, options, placing.threads if placing else None)
    with _held(folder, resume) as goes_on, contextlib.ExitStack() as staff:
        observer.opened(folder)
        store, configuration = _open(case, folder, goes_on)
        ledger = Ledger()
        rows = store.rows()
        check_rows(rows, folder)
        if goes_on and (finished := _finished(store, rows)):
            for row in rows:
                with of_row(folder, row):
                    observer.generation_done(row)
            store.drop_checkpoints()  # killed just before
            observer.note("This run is finished; there is nothing left to do.")
            return Run(folder, finished)
        recorded = recorded_choices(store.read_run(), folder)  # outside: what is refused stays as it is
        try:
            if isinstance(case.task, NeedsAncestor):
                case.task.bind_ancestor(str(case.model))
            helpers = staff.enter_context(opened(placing, case.options.threads or 1))
            choices = recorded or choose(case, network, observer)
            setting = setting_of(
                case,
                network,
                choices,
                observer,
                lambda: store.record_choices(choices),
                ledger,
                store.checkpoints,
                retrain_timeout,
            )
            setting = staffed(setting, case, helpers, configuration)
            record = first_record(case, network, configuration, choices, setting)
            record["faults"] = store.read_run().get("faults", [])
            del network  # its weights are read again where they are needed
            record["generations"] = rows
            record["notes"] += [note for row in rows for note in _selected(row)]
            store.write_run(record)
            title = f"{case.model.name}: {case.task.describe()}"
            observer.started(title, case.options.generations, record["notes"])
            for row in rows:
                with of_row(folder, row):
                    observer.generation_done(row)
            if stopped := _generations(case, setting, store, record):
                record["notes"].append(stopped)
                observer.note(stopped)
            _finish(case, setting, store, record)
        except EvonnxError as error:
            if not is_storage_failure(error):
                store.abandon_if_empty()
                if isinstance(error, AdapterError | TaskError):
                    _record_faults(store, ledger, error)
            raise
        return Run(store.folder, record)


@contextlib.contextmanager
def _held(folder: Path, resume: bool) -> Iterator[bool]:
    """Keep other processes out of a run directory, which is made if it is not there; whether there is a run
    in it to go on with. A folder that is left empty is removed.

    Raises:
        RunError: there is a run and there should be none, or the other way round; somebody else writes it; or
            the disk failed.
    """
    if not resume or is_blank(folder):  # killed before it had written anything
        resume = False
        RunStore.prepare(folder)
    else:
        read_json(folder / RUN_FILE)  # no folder is locked that holds no run
        refuse_links(folder)  # the lock is a file too
    try:
        with locked(folder):
            try:
                yield resume
            finally:  # a signal may come after a workspace is made and before it is looked after
                with contextlib.suppress(RunError):
                    RunStore(folder).clear_partials()
    except OSError as error:
        raise disk_error(folder, error) from error
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _finished(store: RunStore, rows: list[Row]) -> dict[str, Any] | None:
    """run.json, if everything in it is there and nothing is missing."""
    run = store.read_run()
    best, model = run.get("best"), store.folder / BEST_FILE
    if "bench" not in run or not isinstance(best, dict) or not model.is_file():
        return None
    whole = run.get("generations") == rows and best.get("sha256") == digest_of(model)
    return run if whole else None


def _record_faults(store: RunStore, ledger: Ledger, error: AdapterError | TaskError) -> None:
    """For the report of a run that ended so; nothing where nothing of it is left."""
    if not store.began():
        return
    stage = "retraining" if isinstance(error, AdapterError) else "scoring"
    kind = _KINDS.get(type(error), "failure")
    ledger.add(Fault(stage, kind, str(error), "the run ended; --resume goes on"))
    record = store.read_run()
    store.write_run({**record, "faults": [*record.get("faults", []), *ledger.take()]})


def _run_folder(model: Path, out: str | Path | None, resume: bool) -> Path:
    if out is not None:
        return Path(out)
    if resume:
        raise RunError("--resume needs --out with the run directory to continue.")
    return Path("runs") / f"{model.stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _open(case: Case, folder: Path, resume: bool) -> tuple[RunStore, dict[str, Any]]:
    """A fresh run directory, or the one to continue; and the configuration that it holds or must hold."""
    configuration = configuration_of(case.model, case.task, case.options, case.encoding, case.training)
    if not resume:
        return RunStore.create(folder, {"configuration": configuration, "generations": []}), configuration
    store = RunStore.resume(folder)
    check_same(store.read_run().get("configuration"), configuration, folder)
    return store, configuration


def _seeds(case: Case) -> list[np.random.SeedSequence]:
    """One per generation, and one for recovery training: none depends on what happened before."""
    return np.random.SeedSequence(case.options.seed).spawn(case.options.generations + 1)


def _generations(case: Case, setting: Setting, store: RunStore, record: dict[str, Any]) -> str | None:
    """Make every generation that is still missing; return why the run stopped early, if it did."""
    seeds = _seeds(case)
    rows: list[Row] = record["generations"]
    while len(rows) < case.options.generations:
        if rows and (reason := _too_much_lost(setting, rows[-1])):
            return reason
        number = len(rows) + 1
        models = [case.model]
        if rows:
            with of_row(store.folder, rows[-1]):
                models = parents_of(rows[-1], store.generation_folder(len(rows)))
        parents = [Parent(len(rows), model) for model in models]
        try:
            with store.new_generation(number) as folder:
                row = make_generation(setting, number, parents, seeds[number - 1], folder)
        except BudgetError as error:
            if number == 1:
                raise
            return f"Stopped before generation {number}: {error}"
        rows.append(row)
        record["notes"] += _selected(row)
        store.write_run(record)
        setting.observer.generation_done(row)
        for note in _selected(row):
            setting.observer.note(note)
    return None


def _selected(row: Row) -> list[str]:
    """Why this offspring lives, where there were others."""
    selection = row.get("selection")
    return [f"Generation {row['generation']}: {selection['reason']}"] if selection else []


def _too_much_lost(setting: Setting, row: Row) -> str | None:
    drop, options = setting.validation_drop(row), setting.options
    if drop <= options.max_drop:
        return None
    return (
        f"Stopped after generation {row['generation']}: validation {setting.judge.metric.name} fell by "
        f"{drop:.4g}, more than --max-drop {options.max_drop:g}."
    )


def _finish(case: Case, setting: Setting, store: RunStore, record: dict[str, Any]) -> None:
    """Choose the best offspring, train it once more, time everything, and write the final run.json."""
    rows: list[Row] = record["generations"]
    budget = replace(setting.training, epochs=case.recovery_epochs)
    seed = int(_seeds(case)[-1].generate_state(1)[0])
    setting.observer.stage(0, "choosing the best offspring")
    chosen, selection = choose_best(setting, store, rows)
    best = recover(setting, store, chosen, budget, seed)
    record["notes"] += [f"best.onnx: {selection['reason']}", *best.pop("notes")]
    record["best"] = best | {"selection": selection, "faults": setting.ledger.take()}
    store.write_run(record)
    setting.observer.stage(0, "timing in onnxruntime")
    offspring = [store.generation_folder(row["generation"]) / COMPACT_FILE for row in rows]
    timed = bench(
        [case.model, *offspring, store.folder / BEST_FILE],
        batches=None,
        provider=case.options.provider,
        threads=case.timing_threads,
        seed=case.options.seed,
        input_shapes=case.options.input_shapes or None,
    )
    record["bench"] = timed.to_json()
    if case.options.selection.parents > 1:
        record["pareto"] = to_json(points_of(rows, record["best"], record["bench"]), setting.judge.metric)
    store.write_run(record)
    store.drop_checkpoints()  # not earlier: whoever is killed while timing need not train again
