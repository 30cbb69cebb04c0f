"""Samples scored by a crew: what a worker does, and how its answers come together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evonnx.dependency import Coupling, analyse
from evonnx.evolution.crew import Circumstances, upbringing
from evonnx.evolution.judging import Judge
from evonnx.evolution.setting import Setting
from evonnx.evolution.stopwatch import EVALUATE, Stopwatch
from evonnx.executors import Call, Shared, Tell, gather
from evonnx.faults import Fault, Ledger, lost_worker
from evonnx.masking import apply_masks
from evonnx.masks import PackedMasks
from evonnx.network import Network, load_network
from evonnx.onnx_io import detach


@dataclass(frozen=True)
class Screening:
    """A sample to be scored without retraining."""

    circumstances: Circumstances
    parent: Shared
    parent_name: str
    """Of its file."""
    masks: PackedMasks


@dataclass(frozen=True)
class Scored:
    """What came of it."""

    fitness: float
    """As `Judge.fitness`."""
    faults: tuple[Fault, ...]
    seconds: Mapping[str, float]
    """By purpose."""


_parents: dict[Path, tuple[Network, Coupling]] = {}
"""In a worker: the last one, by its file."""


def forget_parents() -> None:
    """In a worker: let go of what is kept between samples of one parent."""
    _parents.clear()


def fitness_of(
    judge: Judge, network: Network, coupling: Coupling, masks: PackedMasks, watch: Stopwatch
) -> float:
    """Of one sample, in this process: as `Judge.fitness`."""
    with watch.timing("screen"):
        candidate = detach(apply_masks(network, coupling, masks.unpack()))
    with watch.timing(EVALUATE):
        return judge.fitness(candidate)


def score_sample(job: Screening, tell: Tell) -> Scored:
    """In a worker: what `begetting.screen` does of one sample."""
    watch, ledger, brought_up = Stopwatch(), Ledger(), upbringing(job.circumstances)
    judge = Judge(brought_up.task, job.circumstances.threads, ledger)
    with watch.timing("screen"):
        network, coupling = _parent(job)
    fitness = fitness_of(judge, network, coupling, job.masks, watch)
    return Scored(fitness, tuple(Fault(**one) for one in ledger.take()), watch.spent())


def _parent(job: Screening) -> tuple[Network, Coupling]:
    path = job.parent.folder() / job.parent_name
    if path not in _parents:
        forget_parents()
        network = load_network(path, job.circumstances.input_shapes)
        _parents[path] = network, analyse(network)
    return _parents[path]


def fitness_of_samples(
    setting: Setting, generation: int, parent: Path, samples: Sequence[PackedMasks], watch: Stopwatch
) -> list[float]:
    """Have the crew score samples of one parent, and give their fitness in order.

    Args:
        setting: of a run with a crew.
        generation: of the samples.
        parent: its file.
        samples: their masks.
        watch: told of the workers' seconds.
    """
    crew = setting.crew
    assert crew is not None
    shared = crew.share_model(parent)
    calls = [Call(score_sample, Screening(crew.circumstances, shared, parent.name, one)) for one in samples]
    count = 0

    def done(number: int) -> None:
        nonlocal count
        count += 1
        setting.observer.stage(generation, f"screening {count}/{len(samples)}")

    def lost(number: int, reason: str) -> None:
        setting.ledger.add(lost_worker("screening", f"sample {number + 1}", reason))

    with watch.waiting():
        scored: list[Scored] = gather(crew.executor, calls, lambda number, word: None, lost, done)
    for one in scored:
        watch.add(one.seconds)
        setting.ledger.add(*one.faults)
    return [one.fitness for one in scored]
