"""One generation: beget offspring, raise them, select the fittest."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.errors import ScoreError
from evonnx.evolution.begetting import Nest, Parent, beget
from evonnx.evolution.breeding import choose_population, raised, sibling_folder, unite
from evonnx.evolution.figures import figures
from evonnx.evolution.fostering import raise_by_crew
from evonnx.evolution.judging import score_columns
from evonnx.evolution.raising import Offspring, make_offspring
from evonnx.evolution.selection import Candidate, fittest, tolerance
from evonnx.evolution.setting import Setting
from evonnx.evolution.stopwatch import EVALUATE, RETRAIN, Stopwatch
from evonnx.faults import Fault
from evonnx.run_store import (
    COMPACT_FILE,
    METRICS_FILE,
    Row,
    write_json,
)
from evonnx.synthesis import Solution

_EASINGS = 2
"""How often less is taken from a parent whose offspring collapse."""


@dataclass(frozen=True)
class Selected:
    """Who lives, and why."""

    fittest: Offspring
    choice: dict[str, Any] | None
    """For the row why it was chosen; None where it was the only one."""
    columns: dict[str, Any]
    """More of the row, where the next generation may have several parents."""
    notes: tuple[str, ...]


def grow(
    setting: Setting,
    generation: int,
    parent: Parent,
    seeds: np.random.SeedSequence,
    folder: Path,
    watch: Stopwatch,
) -> tuple[Solution, Selected]:
    """Beget and raise offspring; where all collapse, less is taken from the parent and others are sampled.

    Returns:
        The solution that the fittest was sampled from, and itself.

    Raises:
        ScoreError: not even the last of them has a score.
    """
    for easings in range(_EASINGS + 1):
        setting.observer.stage(generation, "sampling")
        solution, nests = beget(setting, generation, parent, seeds, folder, watch, easings)
        grown = raise_all(setting, generation, nests, watch)
        scored = [one for one in grown if not math.isnan(one.score_validation)]
        living = [one for one in scored if not setting.collapsed(one.score_validation)]
        if easings == _EASINGS:
            living = living or scored
        for one in grown:
            if one not in living:
                shutil.rmtree(one.folder)
        if living:
            with watch.timing("select"):
                return solution, select(setting, generation, living, folder)
        setting.ledger.add(_collapse(setting, grown, easings))
    raise ScoreError(
        f"No offspring of generation {generation} has a {setting.judge.metric.name} that is a number, though "
        f"less was taken from its parent {_EASINGS} times. Retrain more gently (--learning-rate), or ask for "
        "more generations."
    )


def raise_all(setting: Setting, generation: int, nests: list[Nest], watch: Stopwatch) -> list[Offspring]:
    """Raise offspring: by the run's crew, else here, one after another."""
    if setting.crew is not None:
        return raise_by_crew(setting, generation, nests, watch)
    return [make_offspring(setting, generation, home, watch) for home in nests]


def _collapse(setting: Setting, grown: list[Offspring], easings: int) -> Fault:
    metric = setting.judge.metric
    scores = ", ".join(f"{one.score_validation:.4g}" for one in grown)
    floor = "no number" if setting.floor is None else f"beyond the floor of {setting.floor:.4g}"
    return Fault(
        "selection",
        "collapse",
        f"Validation {metric.name} {scores} is {floor}; the ancestor has "
        f"{setting.score_validation_ancestor:.4g}.",
        "discarded" if easings == _EASINGS else "discarded, and sampled again with half of the step taken",
    )


def select(setting: Setting, generation: int, offspring: list[Offspring], folder: Path) -> Selected:
    """Keep the files of the fittest and of its siblings that the next generation is bred from, and drop the
    others'."""
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
    population = choose_population(setting, offspring, choice.index)
    columns: dict[str, Any] = {}
    if options.selection.parents > 1:
        columns["siblings"] = [candidates[index].name for index in population.siblings]
        columns["raised"] = raised(setting, generation, offspring, choice.index, population)
    for number, index in enumerate(population.siblings, 1):
        offspring[index].folder.rename(sibling_folder(folder, number))
    for file in chosen.folder.iterdir():
        file.rename(folder / file.name)
    for index, one in enumerate(offspring):
        if index not in population.siblings:
            shutil.rmtree(one.folder)
    why = choice.to_json(candidates) if len(offspring) > 1 else None
    return Selected(chosen, why, columns, population.notes)


def family(
    setting: Setting, generation: int, parents: list[Parent], folder: Path, watch: Stopwatch
) -> tuple[Parent, dict[str, Any], list[str]]:
    """Whom offspring are bred from: the only parent, or the joint network of several.

    Returns:
        It; for the row what the parents have in common; and what the user should know.
    """
    if len(parents) == 1:
        return parents[0], {}, []
    setting.observer.stage(generation, f"mating {len(parents)} parents")
    with watch.timing("mate"):
        joined = unite(setting, parents, folder / "joint")
    if isinstance(joined, list):
        return parents[0], {}, [*joined, "The fittest is the only parent."]
    columns = {"overlap": joined.record["overlap"], "mating": joined.record}
    return Parent(parents[0].generation, joined.model, joined.lines), columns, joined.notes


def make_generation(
    setting: Setting, generation: int, parents: list[Parent], seeds: np.random.SeedSequence, folder: Path
) -> Row:
    """Fill `folder` with the next generation's files and return its row of figures.

    Args:
        setting: what stays the same during the run.
        generation: number of the offspring, from 1.
        parents: whom it descends from, the fittest first.
        seeds: this generation's own; every random choice below is spawned from it.
        folder: an empty folder.
    """
    options, watch = setting.options, Stopwatch()
    parent, mating, notes = family(setting, generation, parents, folder, watch)
    solution, selected = grow(setting, generation, parent, seeds, folder, watch)
    best = selected.fittest
    if parent.lines:
        shutil.rmtree(parent.model.parent)
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
        "parents": [one.generation for one in (parents if mating else parents[:1])],
        **mating,
        "seed": options.seed,
        **figures(best.resources, setting.ancestor, best.resources.bytes),
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
        "selection": selected.choice,
        **selected.columns,
        "training": best.training,
        "faults": setting.ledger.take(),
        "notes": [*notes, *best.sample.notes, *best.notes, *best.training["notes"], *selected.notes],
        "retrain_seconds": watch.seconds[RETRAIN],
        "evaluate_seconds": watch.seconds[EVALUATE],
        "overhead_seconds": sum(stages.values()),
        "stage_seconds": stages,
    }
    write_json(folder / METRICS_FILE, row)
    return row
