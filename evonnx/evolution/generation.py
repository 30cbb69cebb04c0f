"""One generation: sample, screen, remove, prove, retrain, select."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.adapter import TrainingBudget
from evonnx.clusters import find_clusters
from evonnx.dependency import Coupling, analyse
from evonnx.environment import Budget
from evonnx.errors import ModelError
from evonnx.evolution.budgeting import Budgeting
from evonnx.evolution.judging import Judge, score_columns
from evonnx.evolution.options import EvolveOptions, Observer
from evonnx.evolution.pacing import Pacing
from evonnx.evolution.retraining import Trainer
from evonnx.evolution.selection import Candidate, fittest, sizes, tolerance
from evonnx.evolution.stopwatch import EVALUATE, RETRAIN, Stopwatch
from evonnx.evolution.timings import Timings
from evonnx.genome import Encoding, encode, needs_gradients
from evonnx.masking import apply_masks
from evonnx.masks import Masks
from evonnx.network import Array, Network, load_network
from evonnx.onnx_io import save_model
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
from evonnx.sessions import load_warnings
from evonnx.steps import Removal, compact, write_checked
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
class Offspring:
    """A compact, retrained candidate that waits in its own folder for selection."""

    folder: Path
    sample: Sample
    removal: Removal
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


def screen(brood: Brood, samples: list[Sample], folder: Path) -> list[int]:
    """Order samples by validation score without retraining, fittest first; ties keep their order.

    With one sample there is nothing to choose, and nothing is evaluated.
    """
    if len(samples) == 1:
        return [0]
    setting = brood.setting
    candidate = folder / "screen.onnx"
    fitness: list[float] = []
    for index, one in enumerate(samples):
        setting.observer.stage(brood.generation, f"screening {index + 1}/{len(samples)}")
        with brood.watch.timing("screen"):
            save_model(apply_masks(brood.network, brood.coupling, one.masks), candidate)
        with brood.watch.timing(EVALUATE):
            score = setting.judge.validation(candidate)
        fitness.append(score if setting.judge.metric.higher_is_better else -score)
    candidate.unlink()
    return sorted(range(len(samples)), key=lambda index: -fitness[index])


def remove_physically(brood: Brood, masks: Masks, folder: Path, seed: int) -> Removal:
    """Write masked and compact offspring, proven equal.

    Raises:
        ProofError: they differ, or the proof has no power.
    """
    setting, timing = brood.setting, brood.watch.timing
    ancestor = setting.trainer.ancestor
    with timing("mask"):
        model = apply_masks(brood.network, brood.coupling, masks)
    with timing("save"):
        write_checked(model, folder / MASKED_FILE, ancestor)
    with timing("load"):
        masked = load_network(folder / MASKED_FILE, setting.options.input_shapes)
    # Samples of whole channels come in multiples already; others can only be padded.
    padding = 1 if rounds(setting.encoding) else setting.align
    removal = compact(masked, align=padding, seed=seed, threads=setting.options.threads, timing=timing)
    with timing("save"):
        write_checked(removal.compacted.model, folder / COMPACT_FILE, ancestor)
    return removal


def refuse_new_warnings(model: Path, known: frozenset[str]) -> None:
    """Hold an offspring to its ancestor's silence.

    Raises:
        ModelError: onnxruntime warns where the ancestor did not.
    """
    new = [line for line in load_warnings(model) if line not in known]
    if new:
        raise ModelError(
            f"onnxruntime warns about {model.name} where it did not about the ancestor: {new[0]} "
            "This is a fault of evonnx; please report it with the model."
        )


def make_offspring(brood: Brood, one: Sample, folder: Path, seed: int) -> Offspring:
    """Remove, prove, retrain and score one sampled offspring in `folder`."""
    setting, generation, observer = brood.setting, brood.generation, brood.setting.observer
    observer.stage(generation, "removing and proving")
    removal = remove_physically(brood, one.masks, folder, seed)
    with brood.watch.timing("save"):
        save_masks(folder / MASKS_FILE, one.masks)
        save_lineage(folder / LINEAGE_FILE, removal.compacted.lineage)
    model = folder / COMPACT_FILE
    observer.stage(generation, "retraining")
    with brood.watch.timing(RETRAIN):
        training = setting.trainer.retrain(
            model, model, setting.training, seed, lambda news: observer.training(generation, news)
        )
    refuse_new_warnings(model, setting.warnings_ancestor)
    with brood.watch.timing(EVALUATE):
        validation = setting.judge.validation(model)
    network = load_network(model, setting.options.input_shapes)
    measured = sizes(setting.budgeting.leading, network, model)
    return Offspring(folder, one, removal, count(network), training, validation, measured)


def draw(brood: Brood, seeds: np.random.SeedSequence) -> tuple[Solution, list[Sample]]:
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
        return solution, [sample(solution, np.random.default_rng(child)) for child in children]


def rear(
    brood: Brood, samples: list[Sample], seeds: np.random.SeedSequence, folder: Path
) -> Iterator[Offspring]:
    """Make offspring of the fittest samples, each in a folder of its own."""
    order = screen(brood, samples, folder)
    for number, child in enumerate(seeds.spawn(brood.setting.options.selection.offspring)):
        nest = folder / f"candidate-{number}"
        nest.mkdir()
        yield make_offspring(brood, samples[order[number]], nest, int(child.generate_state(1)[0]))


def select(brood: Brood, offspring: list[Offspring], folder: Path) -> tuple[Offspring, dict[str, Any] | None]:
    """Keep the files of the fittest, and drop the others'.

    Returns:
        The fittest, and for the row why it was chosen; None where it was the only one.
    """
    setting, options = brood.setting, brood.setting.options
    metric, examples = setting.judge.metric, setting.judge.task.size("validation")
    candidates = [
        Candidate(f"offspring {number}", one.folder / COMPACT_FILE, one.score_validation, one.sizes)
        for number, one in enumerate(offspring, 1)
    ]
    best = (max if metric.higher_is_better else min)(one.score for one in candidates)
    # All generations together can't give away more than the accuracy bound.
    equal = tolerance(metric, best, examples, options.max_drop / options.generations)
    choice = fittest(candidates, metric, setting.within, equal, setting.timings, str(brood.generation))
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
    with watch.timing("load"):
        network = load_network(parents[0].model, options.input_shapes)
    budgets = setting.budgeting.bounds(network, generation)
    sampling, training = seeds.spawn(2)
    sensitivities = None
    if needs_gradients(setting.encoding):
        setting.observer.stage(generation, "measuring gradients")
        seed = int(sampling.generate_state(1)[0])
        with watch.timing(RETRAIN):
            sensitivities = setting.trainer.sensitivities(network, parents[0].model, setting.training, seed)
    with watch.timing("analyse"):
        coupling = analyse(network)
    brood = Brood(setting, generation, network, coupling, budgets, sensitivities, watch)
    solution, samples = draw(brood, sampling)
    reared = list(rear(brood, samples, training, folder))
    with watch.timing("select"):
        best, selection = select(brood, reared, folder)
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
        "proof": best.removal.proof.to_json(),
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
        "screened": len(samples),
        **({"latency": latency} if latency else {}),
        "selection": selection,
        "training": best.training,
        "notes": [*best.sample.notes, *best.removal.plan.notes, *best.training["notes"]],
        "retrain_seconds": watch.seconds[RETRAIN],
        "evaluate_seconds": watch.seconds[EVALUATE],
        "overhead_seconds": sum(stages.values()),
        "stage_seconds": stages,
    }
    write_json(folder / METRICS_FILE, row)
    return row


def figures(resources: Resources, ancestor: Resources, file_bytes: int) -> dict[str, Any]:
    """Sizes of a model beside the ancestor's (design: section 2); efficiencies are ancestor's / model's."""
    by_name = {layer.name: layer for layer in resources.layers}
    layers: list[dict[str, Any]] = []
    for before in ancestor.layers:
        now = by_name.get(before.name)
        layers.append(
            {
                "name": before.name,
                "op_type": before.op_type,
                "synapses": now.synapses if now else 0,
                "synapses_ancestor": before.synapses,
                "kernels": now.kernels if now else 0,
                "kernels_ancestor": before.kernels,
                "filters": now.filters if now else 0,
                "filters_ancestor": before.filters,
            }
        )
    return {
        "synapses": resources.synapses,
        "synapses_ancestor": ancestor.synapses,
        "architectural_efficiency": ancestor.synapses / max(resources.synapses, 1),
        "kernels": resources.kernels,
        "kernels_ancestor": ancestor.kernels,
        "cluster_efficiency": ancestor.kernels / resources.kernels if resources.kernels else None,
        "filters": resources.filters,
        "filters_ancestor": ancestor.filters,
        "parameters": resources.parameters,
        "macs": resources.macs,
        "bytes": file_bytes,
        "layers": layers,
    }
