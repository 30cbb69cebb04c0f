"""From masked offspring to retrained ones: remove, prove, retrain, score."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from evonnx.errors import ModelError, ScoreError
from evonnx.evolution.begetting import Nest
from evonnx.evolution.selection import sizes
from evonnx.evolution.setting import Setting
from evonnx.evolution.stopwatch import EVALUATE, Stopwatch
from evonnx.network import network_of
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
class Offspring:
    """A compact, retrained candidate that waits in its own folder for selection; its weights are there."""

    folder: Path
    sample: Sample
    proof: Proof
    notes: tuple[str, ...]
    """Of its removal."""
    resources: Resources
    training: dict[str, Any]
    score_validation: float
    """NaN where it is not a number."""
    sizes: tuple[float, ...]
    """By which equals are told apart (`selection.sizes`)."""


def remove_physically(setting: Setting, home: Nest, watch: Stopwatch) -> WrittenRemoval:
    """Write the compact offspring, proven equal to the masked one.

    Raises:
        ProofError: they differ, or the proof has no power.
    """
    removal = compact_file(
        home.folder / MASKED_FILE,
        home.folder / COMPACT_FILE,
        setting.trainer.ancestor,
        input_shapes=setting.options.input_shapes,
        # Samples of whole channels come in multiples already; others can only be padded.
        align=1 if rounds(setting.encoding) else setting.align,
        seed=home.seed,
        threads=setting.options.threads,
        timing=watch.timing,
        network=home.at_hand.pop() if home.at_hand else None,
    )
    with watch.timing("save"):
        save_lineage(home.folder / LINEAGE_FILE, removal.lineage)
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


def make_offspring(setting: Setting, generation: int, home: Nest, watch: Stopwatch) -> Offspring:
    """Remove, prove, retrain and score one masked offspring."""
    observer = setting.observer
    observer.stage(generation, "removing and proving")
    removal = remove_physically(setting, home, watch)
    model, graph, validation = home.folder / COMPACT_FILE, removal.model, math.nan
    observer.stage(generation, "retraining")
    training = setting.trainer.retrain(
        model,
        model,
        setting.training,
        home.seed,
        lambda news: observer.training(generation, news),
        watch.timing,
        graph,
    )
    with watch.timing("load"):
        refuse_new_warnings(graph, model.name, setting.warnings_ancestor)
        give_back_memory()
        network = network_of(graph, str(model), setting.options.input_shapes)
        resources = count(replace(network, stored_bytes=stored_bytes(model, graph)))
    with watch.timing(EVALUATE), contextlib.suppress(ScoreError):
        validation = setting.judge.validation(model)
    measured = sizes(setting.budgeting.leading, network, model)
    return Offspring(
        home.folder, home.sample, removal.proof, removal.plan.notes, resources, training, validation, measured
    )
