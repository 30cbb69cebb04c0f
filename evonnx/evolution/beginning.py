"""Before the first generation: everything a run needs, found, checked and decided."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evonnx.adapter import TrainingBudget
from evonnx.alignment import measure_alignment
from evonnx.dependency import analyse
from evonnx.environment import EnvironmentFactor
from evonnx.errors import RunError
from evonnx.evolution.budgeting import budgeting_of, check_factors, factors_of
from evonnx.evolution.figures import figures
from evonnx.evolution.judging import Judge, check_examples, floor_of
from evonnx.evolution.options import EvolveOptions, Observer, Pressure, Selection
from evonnx.evolution.pacing import Pacing
from evonnx.evolution.pinning import pinned
from evonnx.evolution.remedies import Remedies
from evonnx.evolution.retraining import Trainer
from evonnx.evolution.setting import Setting
from evonnx.evolution.timings import Timings
from evonnx.faults import Ledger
from evonnx.genome import Encoding
from evonnx.latency import Setting as PilotSetting
from evonnx.latency import measure_latency
from evonnx.network import Network, load_network
from evonnx.plugins import get
from evonnx.resources import count
from evonnx.sessions import default_threads, load_warnings, working_providers
from evonnx.task import Task
from evonnx.tasks import find_task, find_task_file
from evonnx.trial import require_end, require_repeatable

DEFAULT_RECOVERY_EPOCHS = 5
_ALIGNMENT_SECONDS = 10.0
"""What timing the probes of `--align auto` may take, beside making them."""


@dataclass(frozen=True)
class Case:
    """What the user gave, read and checked; nothing is written yet."""

    model: Path
    """The ancestor."""
    task: Task
    task_file: Path | None
    how_found: str
    """Where the task came from, a sentence."""
    options: EvolveOptions
    """With the number of threads decided."""
    timing_threads: int
    providers: tuple[str, ...]
    """onnxruntime's names of where things are timed."""
    encoding: Encoding
    factors: dict[str, EnvironmentFactor]
    """What is budgeted, by name."""
    training: TrainingBudget
    recovery_epochs: int


def read_case(
    model: Path, task: str | Path | None, options: EvolveOptions, threads: int | None = None
) -> tuple[Case, Network]:
    """Read the model and the task, and decide what options and task file leave open.

    Args:
        model: the ancestor.
        task: as `evolve` takes it.
        options: what was asked for.
        threads: of training, scores and proofs, where `options` leave that open; None: all cores.

    Returns:
        All but the ancestor itself, which a run need not keep in memory; and the ancestor.

    Raises:
        EvonnxError: anything is wrong with them, or there is nothing to evolve.
    """
    network = load_network(model, options.input_shapes)
    if not network.weights:
        raise RunError(
            f"{model} has no convolution, Gemm or MatMul with constant weights, so there is nothing to "
            "evolve; `evonnx inspect` shows what was seen."
        )
    require_repeatable(network)
    require_end(network)
    the_task, how_found, defaults = find_task(model, network, task)
    check_examples(the_task, options.retraining.epochs)
    check_population(options.selection)
    get("adapters", options.retraining.adapter)  # a wrong name is told before anything is written
    recovery_epochs = options.retraining.recovery_epochs
    if recovery_epochs is None:
        recovery_epochs = int(defaults.get("recovery_epochs", DEFAULT_RECOVERY_EPOCHS))
    encoding = encoding_of(options.pressure)
    factors = factors_of(options.pressure)
    check_factors(factors, encoding, network)
    decided = replace(options, threads=options.threads or threads or default_threads())
    case = Case(
        model=model,
        task=the_task,
        task_file=find_task_file(model, task),
        how_found=how_found,
        options=decided,
        # One thread unless told otherwise: idle neighbours then change the figures least.
        timing_threads=options.threads or 1,
        providers=working_providers(options.provider),
        encoding=encoding,
        factors=factors,
        training=_training_budget(decided, defaults),
        recovery_epochs=recovery_epochs,
    )
    return case, network


def check_population(selection: Selection) -> None:
    """Refuse more parents than there will be offspring to choose them from.

    Raises:
        RunError: there are to be.
    """
    if not 1 <= selection.parents <= selection.offspring:
        raise RunError(
            f"A generation cannot be bred from {selection.parents} parents where {selection.offspring} "
            f"offspring are raised (--offspring): {selection.parents} of them would have to live. Ask for "
            f"`--offspring {max(selection.parents, 1)}` or more, or for fewer --parents."
        )


def encoding_of(pressure: Pressure) -> Encoding:
    """The named encoding, with what was asked for otherwise.

    Raises:
        PluginError: there is no such encoding.
    """
    encoding: Encoding = get("encodings", pressure.encoding)
    changes: dict[str, Any] = {
        "levels": pressure.levels,
        "cluster_share": pressure.cluster_share,
        "granularity": pressure.clusters,
    }
    return replace(encoding, **{name: value for name, value in changes.items() if value is not None})


def _training_budget(options: EvolveOptions, defaults: dict[str, Any]) -> TrainingBudget:
    """The command line's word, else the task file's, else the adapter's default (None)."""
    retraining = options.retraining
    known = {name: value for name, value in defaults.items() if name in TrainingBudget.__dataclass_fields__}
    given = {
        "epochs": retraining.epochs,
        "batch_size": retraining.batch_size,
        "learning_rate": retraining.learning_rate,
        "threads": options.threads,
    }
    return TrainingBudget(**{**known, **{name: value for name, value in given.items() if value is not None}})


def choose(case: Case, network: Network, observer: Observer) -> dict[str, Any]:
    """What depends on the machine, recorded so that a resumed run repeats it."""
    encoding, threads = case.encoding, case.timing_threads
    coupling = analyse(network)
    choices: dict[str, Any] = {"align": case.options.pressure.align}
    if choices["align"] is None:
        observer.stage(0, "measuring channel alignments")
        choices = measure_alignment(
            network, coupling, encoding, threads, seconds=_ALIGNMENT_SECONDS, providers=case.providers
        )
    if "latency" in case.factors:
        observer.stage(0, "measuring what layers cost")
        choices["latency"] = measure_latency(
            network, coupling, encoding, choices["align"], threads, providers=case.providers
        )
    return choices


def timings_of(case: Case, choices: dict[str, Any], save: Callable[[], None]) -> Timings:
    """What choices by the clock are made with; what it measures goes into `choices`."""
    recorded = choices.setdefault("timings", {})
    options = case.options
    return Timings(case.timing_threads, options.provider, options.seed, options.input_shapes, recorded, save)


def setting_of(
    case: Case,
    network: Network,
    choices: dict[str, Any],
    observer: Observer,
    save: Callable[[], None],
    ledger: Ledger,
    checkpoints: Path | None = None,
    timeout: float | None = None,
) -> Setting:
    """Score the ancestor and gather what stays the same for every generation.

    Args:
        case: what the user gave.
        network: the ancestor.
        choices: from `choose`; further choices by the clock are added.
        observer: hears of progress.
        save: keeps `choices` on disk.
        ledger: is told of what goes wrong.
        checkpoints: folder of the adapter's.
        timeout: seconds that the adapter may be silent.
    """
    budgeting = budgeting_of(
        case.options.pressure, case.options.generations, network, case.factors, choices.get("latency")
    )
    observer.stage(0, "scoring the ancestor")
    adapter_options = dict(case.options.retraining.adapter_options)
    if case.task_file is not None:
        adapter_options["task"] = str(case.task_file)
    judge = Judge(case.task, case.options.threads or default_threads(), ledger)
    reported, validation = judge.reported(case.model), judge.validation(case.model)
    floor = case.options.floor
    return Setting(
        options=case.options,
        budgeting=budgeting,
        encoding=case.encoding,
        judge=judge,
        trainer=Trainer(
            get("adapters", case.options.retraining.adapter)(),
            case.task,
            case.model,
            adapter_options,
            checkpoints,
            timeout,
            Remedies(choices.setdefault("remedies", {}), save),
            ledger,
        ),
        training=case.training,
        ancestor=count(network),
        score_ancestor=reported.value,
        details_ancestor=dict(reported.details),
        score_validation_ancestor=validation,
        warnings_ancestor=frozenset(load_warnings(case.model)),
        align=choices["align"],
        observer=observer,
        timings=timings_of(case, choices, save),
        ledger=ledger,
        floor=floor_of(judge.metric, validation, case.options.max_drop) if floor is None else floor,
        pacing=_pacing(case, network, choices, save),
    )


def _pacing(case: Case, network: Network, choices: dict[str, Any], save: Callable[[], None]) -> Pacing | None:
    """Where latency is budgeted."""
    record = choices.get("latency")
    if record is None:
        return None
    corrections = record.setdefault("corrections", {})
    how = PilotSetting(network, case.timing_threads, case.providers)
    return Pacing(how, case.model, record["ancestor_ms"], corrections, save)


def first_record(
    case: Case, network: Network, configuration: dict[str, Any], choices: dict[str, Any], setting: Setting
) -> dict[str, Any]:
    """run.json before the first generation."""
    task = case.task
    no_test = ["There is no test data: the score reported is the validation score."]
    return {
        "configuration": configuration,
        "seed": case.options.seed,
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        **({"executor": setting.crew.to_json()} if setting.crew else {}),
        "choices": choices,
        "task": {
            "found": case.how_found,
            "description": task.describe(),
            "metric": task.metric.name,
            "higher_is_better": task.metric.higher_is_better,
            "unit": task.metric.unit,
            "examples": {
                "train": task.size("train"),
                "validation": task.size("validation"),
                "test": task.size("test"),
            },
        },
        "notes": [
            case.how_found,
            *([setting.crew.describe()] if setting.crew else []),
            *([] if task.size("test") else no_test),
            *network.notes,
            *(f"{left.name}: {left.reason}" for left in network.unprunable),
        ],
        "ancestor": {
            "generation": 0,
            "parents": [],
            "seed": case.options.seed,
            **figures(setting.ancestor, setting.ancestor, setting.ancestor.bytes),
            "score": setting.score_ancestor,
            **({"details": setting.details_ancestor} if setting.details_ancestor else {}),
            "score_ancestor": setting.score_ancestor,
            "score_validation": setting.score_validation_ancestor,
            "faults": setting.ledger.take(),
            "pinned": pinned(network),
        },
        "generations": [],
    }
