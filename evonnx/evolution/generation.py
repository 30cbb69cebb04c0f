"""One generation: sample, screen, remove, prove, retrain, select."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.adapter import TrainingBudget
from evonnx.clusters import find_clusters
from evonnx.compaction import Compacted, apply_plan, plan_compaction
from evonnx.dependency import Coupling, analyse
from evonnx.environment import Budget
from evonnx.errors import ModelError
from evonnx.evaluation import evaluate
from evonnx.evolution.options import EvolveOptions, Observer
from evonnx.evolution.retraining import Trainer
from evonnx.genome import Encoding, encode
from evonnx.masking import apply_masks
from evonnx.masks import Masks
from evonnx.network import Network, load_network
from evonnx.onnx_io import check_file, save_model
from evonnx.proof import Proof, prove, require
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
from evonnx.synthesis import Sample, sample, solve
from evonnx.task import Task


@dataclass
class Stopwatch:
    """Seconds spent, by purpose: "retrain", "evaluate", and the whole."""

    seconds: dict[str, float] = field(default_factory=lambda: {"retrain": 0.0, "evaluate": 0.0})
    began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def timing(self, purpose: str) -> Iterator[None]:
        """Add the time of the block to a purpose."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[purpose] += time.perf_counter() - start

    def overhead(self) -> float:
        """Everything that was neither retraining nor evaluation."""
        return time.perf_counter() - self.began - sum(self.seconds.values())


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
    encoding: Encoding
    task: Task
    trainer: Trainer
    training: TrainingBudget
    ancestor: Resources
    score_ancestor: float
    """On test data: reported only."""
    score_validation_ancestor: float
    warnings_ancestor: frozenset[str]
    """What onnxruntime says when it loads the ancestor."""
    align: int
    observer: Observer


@dataclass(frozen=True)
class Offspring:
    """A compact, retrained candidate that waits in its own folder for selection."""

    folder: Path
    sample: Sample
    proof: Proof
    resources: Resources
    plan_notes: list[str]
    training: dict[str, Any]
    score_validation: float


def screen(
    setting: Setting,
    generation: int,
    network: Network,
    coupling: Coupling,
    samples: list[Sample],
    folder: Path,
    watch: Stopwatch,
) -> list[int]:
    """Order samples by validation score without retraining, fittest first; ties keep their order.

    With one sample there is nothing to choose, and nothing is evaluated.
    """
    if len(samples) == 1:
        return [0]
    candidate = folder / "screen.onnx"
    fitness: list[float] = []
    for index, one in enumerate(samples):
        setting.observer.stage(generation, f"screening {index + 1}/{len(samples)}")
        save_model(apply_masks(network, coupling, one.masks), candidate)
        with watch.timing("evaluate"):
            score = evaluate(candidate, setting.task, "validation", threads=setting.options.threads)
        fitness.append(score.value if setting.task.metric.higher_is_better else -score.value)
    candidate.unlink()
    return sorted(range(len(samples)), key=lambda index: -fitness[index])


def remove_physically(
    setting: Setting, network: Network, coupling: Coupling, masks: Masks, folder: Path, seed: int
) -> tuple[Compacted, Proof, list[str]]:
    """Write masked and compact offspring, proven equal.

    Raises:
        ProofError: they differ, or the proof has no power.
    """
    masked = apply_masks(network, coupling, masks)
    save_model(masked, folder / MASKED_FILE)
    masked_network = load_network(folder / MASKED_FILE, setting.options.input_shapes)
    plan = plan_compaction(masked_network, analyse(masked_network), align=setting.align)
    compacted = apply_plan(masked_network, plan)
    proof = prove(
        masked_network.model,
        compacted,
        input_shapes=setting.options.input_shapes or None,
        seed=seed,
        threads=setting.options.threads,
    )
    require(proof)
    save_model(compacted.model, folder / COMPACT_FILE)
    check_file(folder / COMPACT_FILE)
    return compacted, proof, list(plan.notes)


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


def make_offspring(
    setting: Setting,
    generation: int,
    network: Network,
    coupling: Coupling,
    one: Sample,
    folder: Path,
    seed: int,
    watch: Stopwatch,
) -> Offspring:
    """Remove, prove, retrain and score one sampled offspring in `folder`."""
    observer = setting.observer
    observer.stage(generation, "removing and proving")
    compacted, proof, plan_notes = remove_physically(setting, network, coupling, one.masks, folder, seed)
    save_masks(folder / MASKS_FILE, one.masks)
    save_lineage(folder / LINEAGE_FILE, compacted.lineage)
    compact = folder / COMPACT_FILE
    observer.stage(generation, "retraining")
    with watch.timing("retrain"):
        training = setting.trainer.retrain(
            compact, compact, setting.training, seed, lambda news: observer.training(generation, news)
        )
    refuse_new_warnings(compact, setting.warnings_ancestor)
    with watch.timing("evaluate"):
        validation = evaluate(compact, setting.task, "validation", threads=setting.options.threads)
    resources = count(load_network(compact, setting.options.input_shapes))
    return Offspring(folder, one, proof, resources, plan_notes, training, validation.value)


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
    options, observer, watch = setting.options, setting.observer, Stopwatch()
    parent = parents[0]
    observer.stage(generation, "sampling")
    network = load_network(parent.model, options.input_shapes)
    coupling = analyse(network)
    encoding = setting.encoding
    genome = encode(network, find_clusters(network, coupling, encoding.granularity), encoding)
    keep = options.pressure.bound(options.generations)
    budget = Budget(share=keep)
    solution = solve(
        network,
        coupling,
        genome,
        budget,
        levels=encoding.levels,
        cluster_share=encoding.cluster_share,
        best_effort=options.pressure.best_effort,
    )
    sampling, training = seeds.spawn(2)
    samples = [
        sample(solution, np.random.default_rng(child))
        for child in sampling.spawn(max(options.selection.screen, options.selection.offspring))
    ]
    order = screen(setting, generation, network, coupling, samples, folder, watch)
    candidates: list[Offspring] = []
    for place, child in zip(
        order[: options.selection.offspring], training.spawn(options.selection.offspring), strict=True
    ):
        candidate_folder = folder / f"candidate-{len(candidates)}"
        candidate_folder.mkdir()
        seed = int(child.generate_state(1)[0])
        candidates.append(
            make_offspring(
                setting, generation, network, coupling, samples[place], candidate_folder, seed, watch
            )
        )
    best = candidates[0]
    for candidate in candidates[1:]:
        if setting.task.metric.better(candidate.score_validation, best.score_validation):
            best = candidate
    for file in best.folder.iterdir():
        file.rename(folder / file.name)
    for candidate in candidates:
        for file in candidate.folder.iterdir():
            file.unlink()
        candidate.folder.rmdir()
    with watch.timing("evaluate"):
        score = evaluate(folder / COMPACT_FILE, setting.task, "test", threads=options.threads)
    row: Row = {
        "generation": generation,
        "parents": [one.generation for one in parents],
        "seed": options.seed,
        **figures(best.resources, setting.ancestor, (folder / COMPACT_FILE).stat().st_size),
        "score": score.value,
        "score_ancestor": setting.score_ancestor,
        "score_validation": best.score_validation,
        "proof": best.proof.to_json(),
        "budget": keep,
        "achieved": best.sample.achieved_share,
        "expected": best.sample.expected_share,
        "screened": len(samples),
        "training": best.training,
        "notes": [*best.sample.notes, *best.plan_notes, *best.training["notes"]],
        "retrain_seconds": watch.seconds["retrain"],
        "evaluate_seconds": watch.seconds["evaluate"],
        "overhead_seconds": watch.overhead(),
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
