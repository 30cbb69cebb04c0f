"""From masked offspring to retrained ones: remove, prove, retrain, score."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from evonnx.adapter import Progress, TrainingBudget
from evonnx.environment import EnvironmentFactor
from evonnx.errors import ModelError, ScoreError
from evonnx.evolution.begetting import Nest
from evonnx.evolution.judging import Judge
from evonnx.evolution.retraining import Trainer
from evonnx.evolution.selection import sizes
from evonnx.evolution.setting import Setting
from evonnx.evolution.stopwatch import EVALUATE, Stopwatch
from evonnx.network import Network, network_of
from evonnx.onnx_io import detach, stored_bytes
from evonnx.proof import Proof
from evonnx.resources import Resources, count
from evonnx.run_store import (
    COMPACT_FILE,
    LINEAGE_FILE,
    MASKED_FILE,
    save_lineage,
)
from evonnx.sessions import give_back_memory, load_warnings
from evonnx.steps import WrittenRemoval, compact_file
from evonnx.synthesis import Sample, rounds


@dataclass(frozen=True)
class Grown:
    """What is known of an offspring that was raised."""

    proof: Proof
    notes: tuple[str, ...]
    """Of its removal."""
    resources: Resources
    training: dict[str, Any]
    score_validation: float
    """NaN where it is not a number."""
    sizes: tuple[float, ...]
    """By which equals are told apart (`selection.sizes`)."""


@dataclass(frozen=True)
class Offspring(Grown):
    """A compact, retrained candidate that waits in its own folder for selection; its weights are there."""

    folder: Path
    sample: Sample


@dataclass(frozen=True)
class Nursery:
    """What it takes to raise offspring, in this process or in a worker."""

    judge: Judge
    trainer: Trainer
    training: TrainingBudget
    threads: int | None
    input_shapes: Mapping[str, tuple[int, ...]]
    align: int
    """Multiple of channels that removal keeps."""
    factor: EnvironmentFactor
    """By which equals are told apart."""
    warnings_ancestor: frozenset[str]

    @classmethod
    def of(cls, setting: Setting) -> Nursery:
        """This process's."""
        return cls(
            setting.judge,
            setting.trainer,
            setting.training,
            setting.options.threads,
            setting.options.input_shapes,
            kept_multiple(setting),
            setting.budgeting.leading,
            setting.warnings_ancestor,
        )


def kept_multiple(setting: Setting) -> int:
    """Of channels, by removal: samples of whole channels come in multiples already; others can only be
    padded."""
    return 1 if rounds(setting.encoding) else setting.align


def remove_physically(
    nursery: Nursery, masked: Path, folder: Path, seed: int, at_hand: Network | None, watch: Stopwatch
) -> WrittenRemoval:
    """Write the compact offspring, proven equal to the masked one.

    Raises:
        ProofError: they differ, or the proof has no power.
    """
    removal = compact_file(
        masked,
        folder / COMPACT_FILE,
        nursery.trainer.ancestor,
        input_shapes=nursery.input_shapes,
        align=nursery.align,
        seed=seed,
        threads=nursery.threads,
        timing=watch.timing,
        network=at_hand,
    )
    with watch.timing("save"):
        save_lineage(folder / LINEAGE_FILE, removal.lineage)
    return removal


def refuse_new_warnings(model: ir.Model, name: str, known: frozenset[str]) -> None:
    """Hold an offspring to its ancestor's silence.

    Raises:
        ModelError: onnxruntime warns where the ancestor did not.
    """
    new = [line for line in load_warnings(detach(model)) if line not in known]
    if new:
        raise ModelError(
            f"onnxruntime warns about {name} where it did not about the ancestor: {new[0]} "
            "This is a fault of evonnx; please report it with the model."
        )


def raise_offspring(
    nursery: Nursery,
    masked: Path,
    folder: Path,
    seed: int,
    watch: Stopwatch,
    stage: Callable[[str], None],
    progress: Callable[[Progress], None],
    at_hand: list[Network],
) -> Grown:
    """Remove, prove, retrain and score one masked offspring.

    Args:
        nursery: what it takes.
        masked: its file.
        folder: gets the compact model and the lineage.
        seed: of the proof and the training.
        watch: told of stages.
        stage: told what is being done.
        progress: told how the training goes.
        at_hand: the masked model where it is in memory, which is taken from there.
    """
    stage("removing and proving")
    removal = remove_physically(nursery, masked, folder, seed, at_hand.pop() if at_hand else None, watch)
    model, graph, validation = folder / COMPACT_FILE, removal.model, math.nan
    stage("retraining")
    training = nursery.trainer.retrain(model, model, nursery.training, seed, progress, watch.timing, graph)
    with watch.timing("load"):
        refuse_new_warnings(graph, model.name, nursery.warnings_ancestor)
        give_back_memory()
        network = network_of(graph, str(model), nursery.input_shapes)
        resources = count(replace(network, stored_bytes=stored_bytes(model, graph)))
    with watch.timing(EVALUATE), contextlib.suppress(ScoreError):
        validation = nursery.judge.validation(model)
    measured = sizes(nursery.factor, network, model)
    return Grown(removal.proof, removal.plan.notes, resources, training, validation, measured)


def make_offspring(setting: Setting, generation: int, home: Nest, watch: Stopwatch) -> Offspring:
    """Raise one in this process."""
    observer = setting.observer
    grown = raise_offspring(
        Nursery.of(setting),
        home.folder / MASKED_FILE,
        home.folder,
        home.seed,
        watch,
        lambda text: observer.stage(generation, text),
        lambda news: observer.training(generation, news),
        home.at_hand,
    )
    return Offspring(**vars(grown), folder=home.folder, sample=home.sample)
