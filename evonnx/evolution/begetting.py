"""From a parent to masked offspring: encode, solve, sample, screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evonnx.clusters import Clusters, find_clusters
from evonnx.dependency import Coupling, analyse
from evonnx.environment import Budget, prices_of
from evonnx.evolution.screening import fitness_of, fitness_of_samples
from evonnx.evolution.setting import Setting
from evonnx.evolution.stopwatch import RETRAIN, Stopwatch
from evonnx.genome import Genome, encode, needs_gradients
from evonnx.genome import Parent as Inheritance
from evonnx.masking import apply_masks
from evonnx.masks import PackedMasks, live_masks
from evonnx.mating import mate
from evonnx.network import Array, Network, load_network, network_of
from evonnx.onnx_io import drop_weights
from evonnx.run_store import (
    MASKED_FILE,
    MASKS_FILE,
    save_masks,
)
from evonnx.sessions import give_back_memory
from evonnx.steps import write_checked
from evonnx.synthesis import Sample, Solution, sample, solve


@dataclass(frozen=True)
class Parent:
    """A model that offspring descend from."""

    generation: int
    """0: the ancestor."""
    model: Path
    lines: tuple[Path, ...] = ()
    """Of a joint network (`breeding.unite`): its parents in its graph, the fittest first."""


@dataclass(frozen=True)
class Line:
    """One network that a genome is read from."""

    network: Network
    sensitivities: Mapping[str, Array] | None
    """Where the encoding needs them."""


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
    at_hand: list[Network]
    """The masked model, where it is still in memory; whoever takes it uses it up."""


@dataclass(frozen=True)
class Brood:
    """What the offspring of one parent in one generation share."""

    setting: Setting
    generation: int
    parent: Path
    """Its file."""
    network: Network
    """What is in it."""
    coupling: Coupling
    budgets: tuple[Budget, ...]
    lines: tuple[Line, ...]
    """What the genome is read from: the parent, or each of those that were joined in it."""
    watch: Stopwatch

    def genome(self, clusters: Clusters, prices: Mapping[str, float] | None) -> Genome:
        """The parent's, or the mated one of several."""
        encoding = self.setting.encoding
        genomes = [
            encode(one.network, clusters, encoding, sensitivities=one.sensitivities, prices=prices)
            for one in self.lines
        ]
        joint = Inheritance(self.network, clusters, prices=prices)
        return mate(joint, genomes) if len(genomes) > 1 else genomes[0]


def screen(brood: Brood, samples: list[Drawn]) -> list[int]:
    """Order samples by validation score without retraining, fittest first; ties keep their order.

    With one sample there is nothing to choose, and nothing is evaluated.
    """
    if len(samples) == 1:
        return [0]
    setting = brood.setting
    masks = [one.masks for one in samples]
    if setting.crew is not None:
        fitness = fitness_of_samples(setting, brood.generation, brood.parent, masks, brood.watch)
    else:
        fitness = []
        for index, one in enumerate(masks):
            setting.observer.stage(brood.generation, f"screening {index + 1}/{len(samples)}")
            fitness.append(fitness_of(setting.judge, brood.network, brood.coupling, one, brood.watch))
    return sorted(range(len(samples)), key=lambda index: -fitness[index])


def nest(brood: Brood, one: Drawn, folder: Path, seed: int, *, alone: bool) -> Nest:
    """Write the masked offspring and its masks into a new folder; one that is `alone` stays in memory, as its
    parent will not."""
    folder.mkdir()
    with brood.watch.timing("mask"):
        masks = one.masks.unpack()
        model = apply_masks(brood.network, brood.coupling, masks)
    with brood.watch.timing("save"):
        write_checked(model, folder / MASKED_FILE, brood.setting.trainer.ancestor)
        save_masks(folder / MASKS_FILE, masks)
    at_hand: list[Network] = []
    if alone:
        with brood.watch.timing("load"):
            source, shapes = str(folder / MASKED_FILE), brood.setting.options.input_shapes
            at_hand.append(network_of(model, source, shapes))
    else:
        drop_weights(model)
    return Nest(folder, one.sample, seed, at_hand)


def draw(brood: Brood, seeds: np.random.SeedSequence, key: str) -> tuple[Solution, list[Drawn]]:
    """Encode the parent, solve the environment once, and sample what will be screened.

    Args:
        brood: what the samples share.
        seeds: of the samples.
        key: of what is measured for them.

    Raises:
        BudgetError: the bound is out of reach.
    """
    options, encoding = brood.setting.options, brood.setting.encoding
    with brood.watch.timing("encode"):
        clusters = find_clusters(brood.network, brood.coupling, encoding.granularity)
        encoded = brood.genome(clusters, prices_of(brood.network, brood.budgets))
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
                solution, key, lambda one: sample(one, np.random.default_rng(children[0]))
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
    easings: int = 0,
) -> tuple[Solution, list[Nest]]:
    """Sample a parent's offspring and write the fittest, each in a nest of its own, masked.

    Args:
        setting: of the run.
        generation: of the offspring.
        parent: theirs.
        seeds: give others each time.
        folder: for their nests.
        watch: told of stages.
        easings: how often what is taken from the parent was halved before, as a logarithm.

    The parent's weights are in memory until this returns, and no longer: the solution tells of bounds then,
    and cannot be drawn from.
    """
    with watch.timing("load"):
        network = load_network(parent.model, setting.options.input_shapes)
        joined = [load_network(one, setting.options.input_shapes) for one in parent.lines]
    fittest = joined[0] if joined else network
    budgets = setting.budgeting.bounds(fittest, generation, easings)
    if joined:
        budgets = tuple(of_joint(bound, fittest, network) for bound in budgets)
    sampling, training = seeds.spawn(2)
    lines = []
    for one, model in zip(joined or [network], parent.lines or [parent.model], strict=True):
        sensitivities = None
        if needs_gradients(setting.encoding):
            setting.observer.stage(generation, "measuring gradients")
            seed = int(sampling.generate_state(1)[0])
            with watch.timing(RETRAIN):
                sensitivities = setting.trainer.sensitivities(one, model, setting.training, seed)
        lines.append(Line(one, sensitivities))
    with watch.timing("analyse"):
        coupling = analyse(network)
    brood = Brood(setting, generation, parent.model, network, coupling, budgets, tuple(lines), watch)
    key = f"{generation} eased {easings}" if easings else f"{generation}"
    solution, samples = draw(brood, sampling, key)
    order = screen(brood, samples)
    children = training.spawn(setting.options.selection.offspring)
    nests = []
    for number, child in enumerate(children):
        home, seed = folder / f"candidate-{number}", int(child.generate_state(1)[0])
        alone = len(children) == 1 and setting.crew is None
        nests.append(nest(brood, samples[order[number]], home, seed, alone=alone))
    for one in (network, *joined):
        drop_weights(one.model)
    give_back_memory()
    return solution, nests


def of_joint(bound: Budget, fittest: Network, joint: Network) -> Budget:
    """A bound on what the fittest parent uses, as one on what the joint network uses: the same amount. So
    offspring of several parents are asked to be as small as those of the fittest alone."""
    factor = bound.factor
    assert not isinstance(factor, str)
    amounts = [factor.measure(one, live_masks(one)) for one in (fittest, joint)]
    return Budget(min(1.0, bound.share * amounts[0] / amounts[1]), factor)
