"""Factors priced by widths, several budgets at once, and what samples make of them."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
from genetics_support import convolutions, named
from hypothesis import given
from hypothesis import strategies as st
from removal_support import network as network_of_proto
from removal_support import random_masks
from strategies import small_models

from evonnx.clusters import find_clusters
from evonnx.compaction import apply_plan, plan_compaction
from evonnx.dependency import analyse, close
from evonnx.encodings import adaptive
from evonnx.environment import Budget, ByteBudget, LatencyBudget, MacBudget, SynapseBudget
from evonnx.environment.latency import cost_to_json, table_from_json
from evonnx.environment.pressure import expected_synapses, survival
from evonnx.environment.widths import (
    Costs,
    LayerCost,
    Widths,
    live_widths,
    measured_widths,
    stored_widths,
    width_amount,
)
from evonnx.errors import BudgetError
from evonnx.genome import encode
from evonnx.masking import apply_masks
from evonnx.masks import live_masks
from evonnx.network import network_of
from evonnx.onnx_io import to_bytes
from evonnx.synthesis import sample, solve
from evonnx.synthesis.amounts import WidthAmounts
from evonnx.testing import EnvironmentFactorContract
from evonnx.testing.models import tiny_classifier

NAMES = 700
"""Bytes that lineage and names may add to a model of a few hundred."""
CHANNELS = replace(adaptive, levels="clusters")
seeds = st.integers(0, 2**32 - 1)


def some_costs(network, seed=0) -> Costs:
    """A table with every kind of cost in it, no two layers alike."""
    rng = np.random.default_rng(seed)
    layers = {name: LayerCost(*rng.uniform(0.001, 0.1, 4).tolist()) for name in network.weights}
    return Costs(0.3, layers)


@functools.cache
def wide():
    """Four convolutions that are wide enough for shares to be met closely."""
    rng = np.random.default_rng(0)
    widths = (3, 32, 48, 64, 10)
    return convolutions(
        *(rng.standard_normal((o, i, 3, 3)).astype(np.float32) for i, o in itertools.pairwise(widths))
    )


def genome_of(network, coupling, encoding=CHANNELS):
    return encode(network, find_clusters(network, coupling, encoding.granularity), encoding)


def compacted(network, coupling, masks):
    masked = network_of(apply_masks(network, coupling, masks), network.source, network.input_shapes)
    model = apply_plan(masked, plan_compaction(masked, analyse(masked))).model
    return network_of(model, network.source, network.input_shapes)


class TestBytes(EnvironmentFactorContract):
    @pytest.fixture
    def factor(self):
        return ByteBudget()


class TestLatency(EnvironmentFactorContract):
    @pytest.fixture
    def factor(self):
        network = network_of_proto(tiny_classifier(), "model.onnx")
        return LatencyBudget(table=some_costs(network), calibration=1.2)


@given(proto=small_models(), seed=seeds)
def test_widths_under_masks_are_those_of_the_compact_model(proto, seed):
    network = network_of_proto(proto)
    coupling = analyse(network)
    drawn = random_masks(network, coupling, "channel", np.random.default_rng(seed))
    masks = dict(close(network, coupling, drawn).masks)
    left = compacted(network, coupling, masks)
    for name, weight in network.weights.items():
        mine = live_widths(weight, weight.to_canonical(masks[name]))
        if name in left.weights and masks[name].any():
            stored = stored_widths(left.weights[name])
            # What is pinned stays although it is dead.
            assert mine.inputs <= stored.inputs
            assert mine.outputs <= stored.outputs
            assert mine.slices <= stored.slices


def test_widths_of_groups_and_columns():
    network, _ = named("grouped")
    for name, weight in network.weights.items():
        everything = live_widths(weight, weight.to_canonical(live_masks(network)[name]))
        assert everything == stored_widths(weight)
    name, weight = next((n, w) for n, w in network.weights.items() if w.groups > 1)
    mask = np.ones((weight.outputs, weight.inputs_per_group, weight.taps), dtype=np.bool_)
    mask[: weight.outputs // weight.groups] = False
    left = live_widths(weight, mask)
    whole = stored_widths(weight)
    assert left.slices == whole.slices * (weight.groups - 1) / weight.groups
    assert left.inputs == whole.inputs - weight.inputs_per_group


def test_a_layer_without_inputs_or_outputs_costs_nothing():
    cost = LayerCost(1.0, 2.0, 3.0, 4.0)
    assert cost.of(replace(stored_of(2, 3), inputs=0)) == 0
    assert cost.of(replace(stored_of(2, 3), outputs=0)) == 0
    assert cost.of(stored_of(2, 3)) == 1 + 2 * 2 + 3 * 3 + 4 * 6


def stored_of(inputs, outputs):
    return Widths(inputs, outputs, inputs * outputs)


@pytest.mark.parametrize("model", ["lenet", "residual_bn", "depthwise", "grouped", "concat_fire"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_compact_model_is_no_larger_than_its_budget_on_bytes(model, share):
    network, coupling = named(model)
    genome = genome_of(network, coupling)
    solution = solve(network, coupling, genome, Budget(share, ByteBudget()), best_effort=True)
    one = sample(solution, np.random.default_rng(0))
    stored = len(to_bytes(compacted(network, coupling, one.masks).model))
    said = one.achieved_share * solution.bounds[0].parent_amount
    # Of a residual branch that goes, nodes go too.
    assert 0.5 * said < stored < 1.01 * said + NAMES


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_table_is_a_budget_that_samples_come_close_to_from_below(share):
    network, coupling = wide()
    factor = LatencyBudget(table=some_costs(network))
    solution = solve(network, coupling, genome_of(network, coupling), Budget(share, factor))
    for seed in range(5):
        one = sample(solution, np.random.default_rng(seed))
        assert share * 0.9 < one.achieved_share <= share
        assert factor.measure(network, one.masks) == pytest.approx(
            one.achieved_share * solution.bounds[0].parent_amount
        )


def test_what_is_expensive_goes_first():
    """Two layers alike but for what their channels cost: the expensive one keeps fewer."""
    network, coupling = wide()
    names = list(network.weights)
    cheap = {name: LayerCost(per_slice=1.0) for name in names}
    dear = cheap | {names[1]: LayerCost(per_slice=30.0)}
    kept = {}
    for label, layers in (("cheap", cheap), ("dear", dear)):
        factor = LatencyBudget(table=Costs(0.0, layers))
        solution = solve(network, coupling, genome_of(network, coupling), Budget(0.5, factor))
        masks = [sample(solution, np.random.default_rng(seed)).masks for seed in range(4)]
        kept[label] = np.mean([mask[names[1]].mean() / mask[names[3]].mean() for mask in masks])
    assert kept["dear"] < 0.8 * kept["cheap"]


@given(seed=seeds)
def test_amounts_by_class_agree_with_amounts_by_mask(seed):
    network, coupling = named("residual_bn")
    rng = np.random.default_rng(seed)
    costs = some_costs(network, seed)
    genome = genome_of(network, coupling)
    masks = dict(close(network, coupling, random_masks(network, coupling, "channel", rng)).masks)
    canonical = {name: weight.to_canonical(masks[name]) for name, weight in network.weights.items()}
    alive = ~close(network, coupling, masks).dead_classes
    amounts = WidthAmounts(genome.parent, costs, alive)
    assert amounts.total(alive) == pytest.approx(width_amount(costs, network, canonical))
    assert measured_widths(costs, network, masks) == pytest.approx(width_amount(costs, network, canonical))
    each = amounts.of_each(alive)
    assert (each >= 0).all()
    assert (each[~alive] == 0).all()


def test_the_death_of_a_class_saves_about_what_it_is_said_to():
    network, coupling = wide()
    costs = Costs(0.0, {name: LayerCost(0.0, 1.0, 2.0, 3.0) for name in network.weights})
    genome = genome_of(network, coupling)
    alive = np.ones(coupling.n_classes, dtype=np.bool_)
    amounts = WidthAmounts(genome.parent, costs, alive)
    each = amounts.of_each(alive)
    for one in range(0, coupling.n_classes, 7):
        without = alive.copy()
        without[one] = False
        assert each[one] == pytest.approx(amounts.total(alive) - amounts.total(without))


@pytest.mark.parametrize(
    "shares",
    [
        {"synapses": 0.5, "macs": 0.3},
        {"macs": 0.7, "bytes": 0.35},
        {"bytes": 0.6, "synapses": 0.2, "macs": 0.4},
        {"latency": 0.5, "synapses": 0.15},
    ],
)
@pytest.mark.parametrize("levels", ["clusters", "both"])
def test_several_budgets_are_all_kept_and_the_tightest_is_used(shares, levels):
    network, coupling = wide()
    factors = {
        "synapses": SynapseBudget(),
        "macs": MacBudget(),
        "bytes": ByteBudget(),
        "latency": LatencyBudget(table=some_costs(network)),
    }
    budgets = [Budget(share, factors[name]) for name, share in shares.items()]
    encoding = replace(adaptive, levels=levels)
    solution = solve(network, coupling, genome_of(network, coupling, encoding), budgets[0], also=budgets[1:])
    for seed in range(3):
        one = sample(solution, np.random.default_rng(seed))
        used = [achieved / budget.share for achieved, budget in zip(one.achieved, budgets, strict=True)]
        assert max(used) <= 1 + 1e-9
        assert max(used) > 0.85


def test_expected_synapses_are_the_mean_over_draws():
    network, coupling = wide()
    genome = genome_of(network, coupling, replace(adaptive, levels="both"))
    solution = solve(network, coupling, genome, Budget(0.4))
    said = expected_synapses(genome, solution.pressure)
    assert sum(said.values()) / sum(genome.live.values()) == pytest.approx(0.4, rel=0.02)
    drawn = [sample(solution, np.random.default_rng(seed), trim=False).survivors for seed in range(30)]
    assert np.mean(drawn) == pytest.approx(sum(said.values()), rel=0.05)
    assert all(survival(genome, solution.pressure, genome.parent.block(n, slice(0, 1))).size for n in said)


@pytest.mark.parametrize("levels", ["synapses"])
def test_widths_need_whole_channels_to_go(levels):
    network, coupling = wide()
    encoding = replace(adaptive, levels=levels)
    with pytest.raises(BudgetError, match="whole channels"):
        solve(network, coupling, genome_of(network, coupling, encoding), Budget(0.5, "bytes"))


def test_an_unmeasured_or_foreign_table_is_refused():
    network, coupling = wide()
    genome = genome_of(network, coupling)
    with pytest.raises(BudgetError, match="cost table"):
        solve(network, coupling, genome, Budget(0.5, "latency"))
    foreign = LatencyBudget(table=Costs(0.0, {"other": LayerCost(1.0)}))
    with pytest.raises(BudgetError, match="another network"):
        solve(network, coupling, genome, Budget(0.5, foreign))


def test_a_bound_below_what_no_removal_saves_names_the_lowest_share():
    network, coupling = wide()
    factor = LatencyBudget(table=Costs(100.0, {name: LayerCost(per_slice=1e-3) for name in network.weights}))
    genome = genome_of(network, coupling)
    with pytest.raises(BudgetError, match="needs a share of") as caught:
        sample(solve(network, coupling, genome, Budget(0.5, factor)), np.random.default_rng(0))
    lowest = float(str(caught.value).split("share of ")[1].split(".  ")[0].split(" ")[0].rstrip("."))
    again = solve(network, coupling, genome, Budget(min(1.0, lowest), factor))
    assert sample(again, np.random.default_rng(0)).achieved_share <= lowest


def test_a_table_survives_json():
    costs = some_costs(named("lenet")[0])
    record = {
        "constant_ms": costs.constant,
        "layers": {name: {"cost_ms": cost_to_json(cost)} for name, cost in costs.layers.items()},
    }
    assert table_from_json(record) == costs
