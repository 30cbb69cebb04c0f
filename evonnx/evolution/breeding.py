"""Several parents as one: the population that a generation leaves, and the joint network that the next is
bred from.

A generation leaves its fittest in `gen-NN` and the other parents of the next one in `gen-NN/sibling-1`,
`sibling-2` ...: masked and compact model, masks and lineage, renamed into place with the generation. Who they
are follows from scores and live clusters alone, never from a clock. The joint network is made anew from their
files whenever offspring are to be bred, and is gone when they are; so a run that was killed has nothing of it
to put right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.clusters import find_clusters
from evonnx.dependency import Coupling, analyse
from evonnx.errors import EvonnxError, RunError
from evonnx.evolution.begetting import Parent
from evonnx.evolution.raising import Offspring
from evonnx.evolution.selection import tolerance
from evonnx.evolution.setting import Setting
from evonnx.masks import live_masks
from evonnx.mating import Lifted, Refusal, choose_mates, join, lift, live_clusters, overlap
from evonnx.network import Network, load_network
from evonnx.onnx_io import detach
from evonnx.run_store import COMPACT_FILE, Row, generation_name
from evonnx.sessions import input_specs, make_session, random_array, run_session
from evonnx.steps import write_checked

SIBLING = "sibling-"
"""Folders of parents beside the fittest are named so, with a number from 1."""
_TOLERANCE, _TOLERANCE_OF_HALVES = 1e-3, 2e-2
"""Largest difference of an output between a parent and itself in the ancestor's shapes, as a share of the
largest value: sums in another order, and no more."""


@dataclass(frozen=True)
class Cradle:
    """The ancestor, in whose shapes parents are compared and mated."""

    network: Network
    coupling: Coupling

    @classmethod
    def of(cls, setting: Setting) -> Cradle:
        """Read it again; a run does not keep it in memory."""
        network = load_network(setting.trainer.ancestor, setting.options.input_shapes)
        return cls(network, analyse(network))

    def lifted(self, model: Path) -> Lifted | Refusal:
        """A compact model in the ancestor's shapes, whose outputs are the same."""
        shapes = self.network.input_shapes
        try:
            descendant = load_network(model, shapes)
            found = lift(self.network, self.coupling, descendant)
            if isinstance(found, Refusal):
                return found
            return _differs(descendant, found.network) or found
        except EvonnxError as error:
            return Refusal(f"it cannot be laid out in the ancestor's shapes: {error}")


def _differs(one: Network, other: Network) -> Refusal | None:
    """Hold a parent against itself in other shapes, on random inputs."""
    sessions = [make_session(detach(network.model), threads=1, optimize=False) for network in (one, other)]
    rng = np.random.default_rng(0)
    feeds = {
        spec.name: random_array(spec, one.input_shapes[spec.name], rng) for spec in input_specs(sessions[0])
    }
    before, after = (run_session(session, feeds) for session in sessions)
    for name, array in before.items():
        if array.dtype.kind != "f" or not array.size:
            continue
        wide, found = array.astype(np.float64), after[name].astype(np.float64)
        allowed = _TOLERANCE_OF_HALVES if array.dtype == np.float16 else _TOLERANCE
        most = allowed * float(np.abs(wide).max())
        if wide.shape != found.shape or not float(np.abs(wide - found).max()) <= most:
            return Refusal(f"its output {name!r} is another in the ancestor's shapes")
    return None


@dataclass(frozen=True)
class Population:
    """Who is left of a generation."""

    siblings: tuple[int, ...]
    """Beside the fittest, by index, in the order of their folders."""
    notes: tuple[str, ...]
    """Why there are fewer than were asked for, one sentence each."""


def choose_population(setting: Setting, offspring: Sequence[Offspring], fittest: int) -> Population:
    """Choose the parents of the next generation.

    The fittest is one of them. Those within one standard error of the best validation score (of errors
    without an end: with the same one) and within the accuracy bound come next, by least overlap of live
    clusters; then other ones within the bound, by score. Where even the best is beyond the bound, nobody is
    held to it.

    Args:
        setting: of the run.
        offspring: those that were raised and did not collapse.
        fittest: which of them was selected.
    """
    most = setting.options.selection.parents
    if most == 1:
        return Population((), ())
    if len(offspring) == 1:
        return Population((), ("One offspring lives, and is the only parent of the next generation.",))
    cradle, metric = Cradle.of(setting), setting.judge.metric
    clusters = find_clusters(cradle.network, cradle.coupling, setting.encoding.granularity)
    notes, alive = [], {}
    for index, one in enumerate(offspring):
        found = cradle.lifted(one.folder / COMPACT_FILE)
        if isinstance(found, Refusal):
            notes.append(f"Offspring {index + 1} cannot be mated: {found.reason}.")
        else:
            alive[index] = live_clusters(found.network, clusters)
    if fittest not in alive:
        return Population((), tuple(notes))
    scores = [one.score_validation for one in offspring]
    best = (max if metric.higher_is_better else min)(scores)
    equal = tolerance(metric, best, setting.judge.task.size("validation"), metric.scale)
    bounded = [index for index in alive if setting.within(scores[index]) or not setting.within(best)]
    bounded.sort(key=lambda index: (metric.drop(best, scores[index]), index))
    fit = [index for index in bounded if metric.drop(best, scores[index]) <= equal]
    others = [index for index in bounded if index not in fit]
    chosen = choose_mates(fittest, fit, others, alive, most)
    if len(chosen) < most:
        notes.append(f"{len(chosen)} of {most} parents: no other offspring is within the accuracy bound.")
    return Population(tuple(chosen[1:]), tuple(notes))


def sibling_folder(generation: Path, number: int) -> Path:
    """Where a parent beside the fittest lives, from 1 on."""
    return generation / f"{SIBLING}{number}"


def parents_of(row: Row, folder: Path) -> list[Path]:
    """Compact models that a generation left to breed from, the fittest first.

    Args:
        row: its figures; files are named by how many siblings there are, never by what it says of them.
        folder: where it lives.

    Raises:
        RunError: one is missing.
    """
    siblings = [sibling_folder(folder, number) for number in range(1, len(row.get("siblings", ())) + 1)]
    models = [folder / COMPACT_FILE, *(one / COMPACT_FILE for one in siblings)]
    for model in models:
        if not model.is_file():
            raise RunError(
                f"{model} is missing, though {folder.name} was complete once. Remove {folder} and the "
                "generations after it, and they are made again."
            )
    return models


def raised(
    setting: Setting, generation: int, offspring: Sequence[Offspring], fittest: int, population: Population
) -> list[dict[str, Any]]:
    """Figures of every offspring, for the row; each is timed against the ancestor while its file is there.

    Args:
        setting: of the run.
        generation: theirs.
        offspring: those that did not collapse.
        fittest: which of them was selected.
        population: who else is kept.
    """
    models = [one.folder / COMPACT_FILE for one in offspring]
    timings = setting.timings(f"raised {generation}", [setting.trainer.ancestor, *models])[1:]
    home = Path(generation_name(generation))
    places = [home, *(sibling_folder(home, number + 1) for number in range(len(population.siblings)))]
    kept = dict(zip((fittest, *population.siblings), places, strict=True))
    return [
        {
            "name": f"offspring {index + 1}",
            "kept": kept[index].as_posix() if index in kept else None,
            "score_validation": one.score_validation,
            "synapses": one.resources.synapses,
            "macs": one.resources.macs,
            "bytes": one.resources.bytes,
            "latency_share": 1 / timing.ratio,
            "latency_share_low": 1 / timing.ratio_high,
            "latency_share_high": 1 / timing.ratio_low,
        }
        for index, (one, timing) in enumerate(zip(offspring, timings, strict=True))
    ]


@dataclass(frozen=True)
class Joined:
    """Files of a joint network."""

    model: Path
    lines: tuple[Path, ...]
    """Its parents in its graph, the fittest first."""
    record: dict[str, Any]
    """For the row: whose it is, and what they have in common."""
    notes: list[str]
    """Why somebody is missing."""


def unite(setting: Setting, parents: Sequence[Parent], folder: Path) -> Joined | list[str]:
    """Write the joint network of several parents.

    Args:
        setting: of the run.
        parents: compact models, the fittest first.
        folder: to make, and write into.

    Returns:
        The files; or, where fewer than two parents can be lifted, why.
    """
    cradle, ancestor = Cradle.of(setting), setting.trainer.ancestor
    lifted: list[Lifted] = []
    mated, notes = [], []
    for parent in parents:
        name, found = _name(parent.model), cradle.lifted(parent.model)
        if isinstance(found, Refusal):
            notes.append(f"{name} was not mated: {found.reason}.")
        else:
            lifted.append(found)
            mated.append(name)
    if len(lifted) < 2:
        return notes
    clusters = find_clusters(cradle.network, cradle.coupling, setting.encoding.granularity)
    alive = [live_clusters(one.network, clusters) for one in lifted]
    overlaps = [[overlap(one, other) for other in alive] for one in alive]
    pairs = [overlaps[one][other] for one in range(len(alive)) for other in range(one)]
    joint = join(cradle.network, lifted)
    folder.mkdir()
    lines = []
    for number, line in enumerate(joint.parents, 1):
        lines.append(folder / f"parent-{number}.onnx")
        write_checked(line.model, lines[-1], ancestor)
    write_checked(joint.network.model, folder / "joint.onnx", ancestor)
    record = {
        "parents": mated,
        "overlaps": overlaps,
        "overlap": sum(pairs) / len(pairs),
        "synapses_of_parents": [_synapses(one) for one in joint.parents],
        "synapses": _synapses(joint.network),
    }
    return Joined(folder / "joint.onnx", tuple(lines), record, notes)


def _name(model: Path) -> str:
    """Of a parent: `gen-03`, `gen-03/sibling-1`."""
    home = model.parent
    return f"{home.parent.name}/{home.name}" if home.name.startswith(SIBLING) else home.name


def _synapses(network: Network) -> int:
    return sum(int(np.count_nonzero(mask)) for mask in live_masks(network).values())
