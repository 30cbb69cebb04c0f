"""One generation: sample, screen, remove, prove, retrain, select."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from evonnx.adapter import TrainingBudget
from evonnx.clusters import find_clusters
from evonnx.dependency import Coupling, analyse
from evonnx.environment import Budget
from evonnx.errors import ModelError
from evonnx.evolution.budgeting import Budgeting
from evonnx.evolution.figures import figures
from evonnx.evolution.judging import Judge, score_columns
from evonnx.evolution.options import EvolveOptions, Observer
from evonnx.evolution.pacing import Pacing
from evonnx.evolution.retraining import Trainer
from evonnx.evolution.selection import Candidate, fittest, sizes, tolerance
from evonnx.evolution.stopwatch import EVALUATE, RETRAIN, Stopwatch
from evonnx.evolution.timings import Timings
from evonnx.genome import Encoding, encode, needs_gradients
from evonnx.masking import apply_masks
from evonnx.masks import PackedMasks
from evonnx.network import Array, Network, load_network, network_of
from evonnx.onnx_io import detach, drop_weights, load_model, stored_bytes
from evonnx.proof import Proof
from evonnx.resources import Resources, count
from evonnx.run_store import (
    COMPACT_FILE,
    LINEAGE_FILE,
    MASKED_FILE,
    MASKS_FILE,
    METRICS_FILE,
    Row,
    save_lineage,
    save_masks,
    write_json,
)
from evonnx.sessions import give_back_memory, load_warnings
from evonnx.steps import WrittenRemoval, compact_file, write_checked
from evonnx.synthesis import Sample, Solution, rounds, sample, solve


@dataclass(frozen=True)
class Parent:
    """A model that offspring descend from."""

    generation: int
    """0: the ancestor."""
    model: Path


@dataclass(frozen=True)
class Setting:
    """What is the same for every generation of a run."""

    options: EvolveOptions
    budgeting: Budgeting
    encoding: Encoding
    judge: Judge
    trainer: Trainer
    training: TrainingBudget
    ancestor: Resources
    score_ancestor: float
    """On test data: reported only."""
    details_ancestor: dict[str, float]
    """More figures beside it, where the task has them."""
    score_validation_ancestor: float
    warnings_ancestor: frozenset[str]
    """What onnxruntime says when it loads the ancestor."""
    align: int
    """Wanted multiple of channels."""
    observer: Observer
    timings: Timings
    pacing: Pacing | None = None
    """Where latency is budgeted."""

    def validation_drop(self, row: Row) -> float:
        """How much an offspring lost on validation data, in the metric's own unit."""
        return self.judge.metric.drop(self.score_validation_ancestor, row["score_validation"])

    def within(self, score: float) -> bool:
        """Whether a validation score is within the accuracy bound."""
        return self.judge.metric.drop(self.score_validation_ancestor, score) <= self.options.max_drop


@dataclass(frozen=True)
class Drawn:
    """A sample that may be chosen."""

    sample: Sample
    """Without its masks."""
    masks: PackedMasks

    @classmethod
    def of(cls, sample: Sample) -> Drawn:
        """Masks of 16 samples would take as much memory as four models."""
        return cls(replace(sample, masks={}), PackedMasks.of(sample.masks))


@dataclass(frozen=True)
class Nest:
    """Where an offspring grows up: a folder with its masked model, nothing removed yet."""

    folder: Path
    sample: Sample
    """Without its masks."""
    seed: int


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
    sizes: tuple[float, ...]
    """By which equals are told apart (`selection.sizes`)."""


@dataclass(frozen=True)
class Brood:
    """What the offspring of one parent in one generation share."""

    setting: Setting
    generation: int
    network: Network
    """The parent."""
    coupling: Coupling
    budgets: tuple[Budget, ...]
    sensitivities: Mapping[str, Array] | None
    """Of the parent, where the encoding needs them."""
    watch: Stopwatch


def screen(brood: Brood, samples: list[Drawn]) -> list[int]:
    """Order samples by validation score without retraining, fittest first; ties keep their order.

    With one sample there is nothing to choose, and nothing is evaluated.
    """
    if len(samples) == 1:
        return [0]
    setting = brood.setting
    fitness: list[float] = []
    for index, one in enumerate(samples):
        setting.observer.stage(brood.generation, f"screening {index + 1}/{len(samples)}")
        with brood.watch.timing("screen"):
            candidate = detach(apply_masks(brood.network, brood.coupling, one.masks.unpack()))
        with brood.watch.timing(EVALUATE):
            score = setting.judge.validation(candidate)
        fitness.append(score if setting.judge.metric.higher_is_better else -score)
    return sorted(range(len(samples)), key=lambda index: -fitness[index])


def nest(brood: Brood, one: Drawn, folder: Path, seed: int) -> Nest:
    """Write the masked offspring and its masks into a new folder."""
    folder.mkdir()
    with brood.watch.timing("mask"):
        masks = one.masks.unpack()
        model = apply_masks(brood.network, brood.coupling, masks)
    with brood.watch.timing("save"):
        write_checked(model, folder / MASKED_FILE, brood.setting.trainer.ancestor)
        save_masks(folder / MASKS_FILE, masks)
    drop_weights(model)
    return Nest(folder, one.sample, seed)


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
    model = home.folder / COMPACT_FILE
    with watch.timing("load"):
        graph = load_model(model)
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
    with watch.timing(EVALUATE):
        validation = setting.judge.validation(model)
    measured = sizes(setting.budgeting.leading, network, model)
    return Offspring(
        home.folder, home.sample, removal.proof, removal.plan.notes, resources, training, validation, measured
    )


def draw(brood: Brood, seeds: np.random.SeedSequence) -> tuple[Solution, list[Drawn]]:
    """Encode the parent, solve the environment once, and sample what will be screened.

    Raises:
        BudgetError: the bound is out of reach.
    """
    options, encoding = brood.setting.options, brood.setting.encoding
    with brood.watch.timing("encode"):
        clusters = find_clusters(brood.network, brood.coupling, encoding.granularity)
        encoded = encode(brood.network, clusters, encoding, sensitivities=brood.sensitivities)
    wanted = max(options.selection.screen, options.selection.offspring)
    with brood.watch.timing("sample"):
        solution = solve(
            brood.network,
            brood.coupling,
            encoded,
            brood.budgets[0],
            also=brood.budgets[1:],
            best_effort=options.pressure.best_effort,
            align=brood.setting.align,
        )
    children = seeds.spawn(wanted)
    if brood.setting.pacing is not None:
        brood.setting.observer.stage(brood.generation, "measuring pilots")
        with brood.watch.timing("pilot"):
            solution = brood.setting.pacing.corrected(
                solution, brood.generation, lambda one: sample(one, np.random.default_rng(children[0]))
            )
    with brood.watch.timing("sample"):
        return solution, [Drawn.of(sample(solution, np.random.default_rng(child))) for child in children]


def beget(
    setting: Setting,
    generation: int,
    parent: Parent,
    seeds: np.random.SeedSequence,
    folder: Path,
    watch: Stopwatch,
) -> tuple[Solution, list[Nest]]:
    """Sample a parent's offspring and write the fittest, each in a nest of its own, masked.

    The parent's weights are in memory until this returns, and no longer: the solution tells of bounds then,
    and cannot be drawn from.
    """
    with watch.timing("load"):
        network = load_network(parent.model, setting.options.input_shapes)
    budgets = setting.budgeting.bounds(network, generation)
    sampling, training = seeds.spawn(2)
    sensitivities = None
    if needs_gradients(setting.encoding):
        setting.observer.stage(generation, "measuring gradients")
        seed = int(sampling.generate_state(1)[0])
        with watch.timing(RETRAIN):
            sensitivities = setting.trainer.sensitivities(network, parent.model, setting.training, seed)
    with watch.timing("analyse"):
        coupling = analyse(network)
    brood = Brood(setting, generation, network, coupling, budgets, sensitivities, watch)
    solution, samples = draw(brood, sampling)
    order = screen(brood, samples)
    children = training.spawn(setting.options.selection.offspring)
    nests = [
        nest(brood, samples[order[number]], folder / f"candidate-{number}", int(child.generate_state(1)[0]))
        for number, child in enumerate(children)
    ]
    drop_weights(network.model)
    give_back_memory()
    return solution, nests


def select(
    setting: Setting, generation: int, offspring: list[Offspring], folder: Path
) -> tuple[Offspring, dict[str, Any] | None]:
    """Keep the files of the fittest, and drop the others'.

    Returns:
        The fittest, and for the row why it was chosen; None where it was the only one.
    """
    options = setting.options
    metric, examples = setting.judge.metric, setting.judge.task.size("validation")
    candidates = [
        Candidate(f"offspring {number}", one.folder / COMPACT_FILE, one.score_validation, one.sizes)
        for number, one in enumerate(offspring, 1)
    ]
    best = (max if metric.higher_is_better else min)(one.score for one in candidates)
    # All generations together can't give away more than the accuracy bound.
    equal = tolerance(metric, best, examples, options.max_drop / options.generations)
    choice = fittest(candidates, metric, setting.within, equal, setting.timings, str(generation))
    chosen = offspring[choice.index]
    for file in chosen.folder.iterdir():
        file.rename(folder / file.name)
    for one in offspring:
        shutil.rmtree(one.folder)
    return chosen, choice.to_json(candidates) if len(offspring) > 1 else None


def make_generation(
    setting: Setting, generation: int, parents: list[Parent], seeds: np.random.SeedSequence, folder: Path
) -> Row:
    """Fill `folder` with the next generation's files and return its row of figures.

    Args:
        setting: what stays the same during the run.
        generation: number of the offspring, from 1.
        parents: whom it descends from (one for now).
        seeds: this generation's own; every random choice below is spawned from it.
        folder: an empty folder.
    """
    options, watch = setting.options, Stopwatch()
    setting.observer.stage(generation, "sampling")
    solution, nests = beget(setting, generation, parents[0], seeds, folder, watch)
    grown = [make_offspring(setting, generation, home, watch) for home in nests]
    with watch.timing("select"):
        best, selection = select(setting, generation, grown, folder)
    with watch.timing(EVALUATE):
        score = setting.judge.reported(folder / COMPACT_FILE)
    latency = None
    if setting.pacing is not None:
        with watch.timing("pilot"):
            compact_model, key = folder / COMPACT_FILE, f"latency {generation}"
            latency = setting.pacing.row(solution, best.sample, compact_model, setting.timings, key)
    stages = watch.stages()
    row: Row = {
        "generation": generation,
        "parents": [one.generation for one in parents],
        "seed": options.seed,
        **figures(best.resources, setting.ancestor, (folder / COMPACT_FILE).stat().st_size),
        **score_columns(score),
        "score_ancestor": setting.score_ancestor,
        "score_validation": best.score_validation,
        "proof": best.proof.to_json(),
        "budget": solution.budget.share,
        "budget_factor": solution.factor.name,
        "achieved": best.sample.achieved_share,
        "expected": best.sample.expected_share,
        "budgets": [
            {"factor": bound.factor.name, "unit": bound.factor.unit, "share": bound.budget.share}
            | {"achieved": share, "amount": share * bound.parent_amount}
            for bound, share in zip(solution.bounds, best.sample.achieved, strict=True)
        ],
        "alignment": reached.to_json() if (reached := best.sample.alignment) else None,
        "screened": max(options.selection.screen, options.selection.offspring),
        **({"latency": latency} if latency else {}),
        "selection": selection,
        "training": best.training,
        "notes": [*best.sample.notes, *best.notes, *best.training["notes"]],
        "retrain_seconds": watch.seconds[RETRAIN],
        "evaluate_seconds": watch.seconds[EVALUATE],
        "overhead_seconds": sum(stages.values()),
        "stage_seconds": stages,
    }
    write_json(folder / METRICS_FILE, row)
    return row
