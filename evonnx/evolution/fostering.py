"""Offspring raised by a crew: what a worker does, and how its answers come together."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evonnx.adapter import Progress
from evonnx.errors import EvonnxError
from evonnx.evolution.begetting import Nest
from evonnx.evolution.crew import Circumstances, upbringing
from evonnx.evolution.judging import Judge
from evonnx.evolution.raising import Grown, Nursery, Offspring, raise_offspring
from evonnx.evolution.remedies import Remedies
from evonnx.evolution.retraining import Trainer
from evonnx.evolution.screening import forget_parents
from evonnx.evolution.setting import Setting
from evonnx.evolution.stopwatch import Stopwatch
from evonnx.executors import Call, Shared, Tell, gather
from evonnx.faults import Fault, Ledger, lost_worker
from evonnx.run_store import MASKED_FILE, write_atomic

_NEWS_EVERY = 0.1
"""Seconds between two words about a training."""
_SCRATCH = "raising"


@dataclass(frozen=True)
class Raising:
    """An offspring to be raised."""

    circumstances: Circumstances
    masked: Shared
    """Its file, `MASKED_FILE`."""
    seed: int
    remedies: dict[str, dict[str, Any]]
    """As run.json has them, when a worker is asked."""
    checkpoints: Path | None
    """Where an unfinished training is kept; None: it begins again where a worker is lost."""
    scratch: Path | None
    """For files that go when the worker is done; None: where its system has them."""


@dataclass(frozen=True)
class Raised:
    """What came of it."""

    grown: Grown
    files: Mapping[str, bytes]
    """By name: the compact model and its lineage."""
    faults: tuple[Fault, ...]
    seconds: Mapping[str, float]
    """By purpose."""


@dataclass(frozen=True)
class Stage:
    """A worker's word: what it is doing."""

    text: str


@dataclass(frozen=True)
class Remedied:
    """A worker's word: what it tries next where the adapter failed, for run.json."""

    entries: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Faulted:
    """A worker's last word before it fails."""

    faults: tuple[Fault, ...]


def foster(job: Raising, tell: Tell) -> Raised:
    """In a worker: what `raising.make_offspring` does."""
    told, watch, ledger = job.circumstances, Stopwatch(), Ledger()
    forget_parents()
    brought_up = upbringing(told)
    known = dict(job.remedies)
    trainer = Trainer(
        brought_up.adapter,
        brought_up.task,
        brought_up.ancestor,
        dict(told.adapter_options),
        job.checkpoints,
        told.timeout,
        Remedies(known, lambda: tell(Remedied(dict(known)))),
        ledger,
    )
    nursery = Nursery(
        Judge(brought_up.task, told.threads, ledger),
        trainer,
        told.training,
        told.threads,
        told.input_shapes,
        told.align,
        brought_up.factor,
        told.warnings_ancestor,
    )
    if job.scratch is not None:
        job.scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="evonnx-", dir=job.scratch) as name:
        folder, masked = Path(name), job.masked.folder() / MASKED_FILE
        try:
            grown = raise_offspring(
                nursery,
                masked,
                folder,
                job.seed,
                watch,
                lambda text: tell(Stage(text)),
                now_and_then(tell),
                [],
            )
        except EvonnxError:
            tell(Faulted(_taken(ledger)))
            raise
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    grown = replace(grown, notes=(*grown.notes, *brought_up.notes))
    return Raised(grown, files, _taken(ledger), watch.spent())


def _taken(ledger: Ledger) -> tuple[Fault, ...]:
    return tuple(Fault(**one) for one in ledger.take())


def now_and_then(tell: Tell, clock: Callable[[], float] = time.monotonic) -> Callable[[Progress], None]:
    """Pass on what is worth a message: some news a second, and the end of each epoch.

    Args:
        tell: sends a message.
        clock: seconds.
    """
    last = -_NEWS_EVERY

    def progress(news: Progress) -> None:
        nonlocal last
        now = clock()
        if now - last >= _NEWS_EVERY or news.step == news.steps:
            last = now
            tell(news)

    return progress


def raise_by_crew(setting: Setting, generation: int, nests: list[Nest], watch: Stopwatch) -> list[Offspring]:
    """Have the crew raise offspring, and put what comes back into their nests.

    Args:
        setting: of a run with a crew.
        generation: theirs.
        nests: their homes.
        watch: told of the workers' seconds.

    Raises:
        EvonnxError: as a worker met it.
        ExecutorError: too many workers were lost.
    """
    crew, observer, remedies = setting.crew, setting.observer, setting.trainer.remedies
    assert crew is not None
    calls = [
        Call(
            foster,
            Raising(
                crew.circumstances,
                crew.share_model(home.folder / MASKED_FILE),
                home.seed,
                remedies.recorded,
                crew.checkpoints,
                home.folder / _SCRATCH if crew.executor.same_disk else None,
            ),
        )
        for home in nests
    ]

    def heard(number: int, word: object) -> None:
        if isinstance(word, Progress):
            observer.training(generation, replace(word, offspring=number + 1))
        elif isinstance(word, Stage):
            observer.stage(generation, f"offspring {number + 1}: {word.text}")
        elif isinstance(word, Remedied):
            remedies.adopt(word.entries)
        elif isinstance(word, Faulted):
            setting.ledger.add(*word.faults)

    def lost(number: int, reason: str) -> None:
        setting.ledger.add(lost_worker("raising", f"offspring {number + 1}", reason))
        observer.stage(generation, f"offspring {number + 1}: its worker was lost, begun again")

    def done(number: int) -> None:
        observer.stage(generation, f"offspring {number + 1}: raised")

    with watch.waiting():
        results: list[Raised] = gather(crew.executor, calls, heard, lost, done)
    grown = []
    with watch.timing("save"):
        for home, result in zip(nests, results, strict=True):
            shutil.rmtree(home.folder / _SCRATCH, ignore_errors=True)
            for name, content in result.files.items():
                write_atomic(home.folder / Path(name).name, content)
            setting.ledger.add(*result.faults)
            grown.append(Offspring(**vars(result.grown), folder=home.folder, sample=home.sample))
    for result in results:
        watch.add(result.seconds)
    return grown
