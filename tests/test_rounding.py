"""Rounding: equal counts and alignment of samples, what is given back to the bound, and what is reported."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from genetics_support import dense, named
from graph_builder import Builder
from hypothesis import given, settings
from hypothesis import strategies as st
from removal_support import assert_same, built, compact, network
from strategies import small_models

from evonnx import alignment as measuring
from evonnx.clusters import find_clusters
from evonnx.dependency import Coupling, analyse, close
from evonnx.dependency.coupling import EqualCount, Pin, WeightClasses
from evonnx.dependency.groups import channel_groups
from evonnx.encodings import adaptive
from evonnx.environment import Budget
from evonnx.errors import ModelError
from evonnx.genome import encode
from evonnx.masking import apply_masks
from evonnx.network import Network, network_of
from evonnx.synthesis import Sample, Solution, rounds, sample, solve
from evonnx.synthesis.giving_back import give_back
from evonnx.synthesis.layout import Family, Kind, divisor, find_layout
from evonnx.synthesis.rounding import FURTHER, LAST, UNDO, Fit, Step
from evonnx.synthesis.stacks import Drawn

CHANNELS = replace(adaptive, levels="clusters")
NO_LINES = np.zeros(0, dtype=np.int64)


def coupling_of(
    n_classes: int, outputs: list[list[int]], equal: tuple[EqualCount, ...] = (), pins=()
) -> Coupling:
    """Weights that put out these classes, and nothing else."""
    weights = {
        f"w{number}": WeightClasses(np.array(ids), np.zeros((1, 0), dtype=np.int64))
        for number, ids in enumerate(outputs)
    }
    return Coupling(n_classes, {}, weights, (), tuple(pins), equal)


def equal(rows, *lines) -> EqualCount:
    ids = np.asarray(rows)
    return EqualCount(ids, "node", "reason", tuple(None if one is None else np.asarray(one) for one in lines))


# --- groups


def test_groups_are_connected_over_output_axes() -> None:
    found = channel_groups(coupling_of(9, [[5, 6], [0, 1], [6, 2], [7]]))
    assert [group.tolist() for group in found] == [[2, 5, 6], [0, 1], [7]]
    residual, coupling = named("residual_folded")
    groups = channel_groups(coupling)
    put_out = np.concatenate([weight.output for weight in coupling.weights.values()])
    assert sorted(np.concatenate(groups).tolist()) == sorted(set(put_out.tolist()))
    assert len(groups) < len(residual.weights)


# --- layout


def layout(coupling: Coupling, align: int = 1) -> tuple[Family, ...]:
    return find_layout(coupling, np.ones(coupling.n_classes, dtype=np.bool_), align).families


def test_plain_channels_are_one_family_per_set_of_outputs() -> None:
    families = layout(coupling_of(6, [[0, 1, 2, 3], [0, 1], [4, 4, 5, 5]]), align=4)
    found = {tuple(kind.members[0].tolist()): kind.wanted for family in families for kind in family.kinds}
    assert found == {(0, 1): 4, (2, 3): 4, (4, 5): 2}, "two of each class fill a multiple of 4"
    assert all(family.plain for family in families)


def test_groups_of_a_convolution_are_lines_with_two_kinds() -> None:
    inputs, outputs, lines = np.arange(8).reshape(4, 2), np.arange(8, 20).reshape(4, 3), np.arange(20, 24)
    coupling = coupling_of(
        24, [inputs.ravel(), outputs.ravel()], (equal(inputs, lines), equal(outputs, lines))
    )
    (family,) = layout(coupling, align=2)
    assert [kind.members.shape for kind in family.kinds] == [(4, 2), (4, 3)]
    assert family.lines[:, 0].tolist() == lines.tolist()
    assert all(kind.line.tolist() == [0, 1, 2, 3] for kind in family.kinds)
    pinned = replace(coupling, pins=(Pin(lines, "node", "reason"),))
    assert layout(pinned)[0].lines.size == 0, "what is pinned cannot go"


def test_grouped_convolutions_in_a_row_lose_groups_together() -> None:
    """The channels between them are members of two constraints, each with lines of its own."""
    ids = np.arange(24).reshape(3, 4, 2)
    first, second = np.arange(24, 28), np.arange(28, 32)
    constraints = (equal(ids[0], first), equal(ids[1], first), equal(ids[1], second), equal(ids[2], second))
    (family,) = layout(coupling_of(32, list(ids.reshape(3, 8)), constraints))
    assert len(family.kinds) == 3
    assert family.lines.tolist() == [[24, 28], [25, 29], [26, 30], [27, 31]]


def test_lines_along_several_axes_go_along_one() -> None:
    """Queries (key heads, queries per head, dims): a key head can go, or none."""
    queries, keys = np.arange(24).reshape(3, 2, 4), np.arange(24, 36).reshape(3, 4)
    heads, repeats = np.arange(36, 39), np.arange(39, 41)
    (family,) = layout(coupling_of(41, [range(24)], (equal(queries, heads, repeats), equal(keys, heads))))
    assert family.lines[:, 0].tolist() == heads.tolist()


def test_rows_that_cross_are_even_by_atoms() -> None:
    """Two groupings of the same 12 channels, as a shuffle between two grouped convolutions leaves them."""
    ids = np.arange(12)
    first, second = ids.reshape(2, 6), ids.reshape(6, 2).T
    (family,) = layout(coupling_of(12, [ids], (equal(first), equal(second))))
    (kind,) = family.kinds
    assert kind.members.shape == (4, 3)
    for members in kind.members:
        assert len(set(members // 6)) == len(set(members % 2)) == 1


def test_kinds_that_share_one_tensor_keep_the_same_number() -> None:
    """(3, heads, dims): queries and keys are multiplied, so they share classes; values have others."""
    shared, values = np.arange(8).reshape(2, 4), np.arange(8, 16).reshape(2, 4)
    grid = np.stack([shared, shared, values])
    pins = (Pin(np.array([18, 19, 20]), "node", "picked by number"),)
    coupling = coupling_of(21, [grid.ravel()], (equal(grid, [18, 19, 20], [16, 17]),), pins)
    (family,) = layout(coupling, align=4)
    assert family.lines.tolist() == [[16], [17]]
    assert [kind.tie for kind in family.kinds] == [0, 0]
    assert [kind.wanted for kind in family.kinds] == [2, 4]


def test_constraints_that_no_numbers_satisfy_are_tangled() -> None:
    coupling = coupling_of(6, [range(6)], (equal([[0, 1, 2], [3, 4, 5]]), equal([[0, 1], [2, 3]])))
    (family,) = layout(coupling)
    assert len(family.tangled) == 2
    assert not family.kinds


# --- numbers


def drawn(alive, log_p=None, forced=(), dead=()) -> Drawn:
    alive = np.array(alive, dtype=np.bool_)
    log_p = np.linspace(-1, -1.001, alive.size) if log_p is None else np.array(log_p, dtype=np.float64)
    must, may = np.zeros_like(alive), np.ones_like(alive)
    must[list(forced)], may[list(dead)] = True, False
    order = np.empty(alive.size, dtype=np.int64)
    order[np.lexsort((log_p, alive, must))] = np.arange(alive.size)
    return Drawn(alive & may, may, must, log_p, order)


@pytest.mark.parametrize(
    ("size", "alive", "wanted", "upwards", "expected", "relaxed"),
    [
        (64, 33, 16, True, 48, False),
        (64, 32, 16, True, 32, False),
        (64, 33, 16, False, 32, False),
        (60, 50, 16, True, 60, False),  # all that the parent has
        (60, 60, 16, False, 60, False),
        (24, 13, 16, True, 16, False),
        (24, 17, 16, True, 24, False),  # steps of 8 end at the full size
        (40, 21, 16, True, 32, False),
        (20, 11, 16, True, 16, False),
        (20, 17, 16, False, 16, False),
        (20, 7, 16, True, 16, False),  # steps of 8, since 20 has one of 16 only
        (64, 3, 16, True, 8, True),
        (64, 1, 16, False, 1, True),
        (64, 0, 16, True, 0, False),
        (6, 4, 16, True, 4, True),
        (3, 2, 8, True, 2, True),
        (64, 37, 1, True, 37, False),
    ],
)
def test_plain_numbers(
    size: int, alive: int, wanted: int, upwards: bool, expected: int, relaxed: bool
) -> None:
    kind = Kind(np.arange(size)[None], np.full(1, -1), wanted, size)
    start = drawn(np.arange(size) < alive)
    choice = Fit(Family((kind,), NO_LINES), start).choose(upwards=upwards)
    assert len(choice.living) == expected
    assert (choice.reason is not None) == relaxed
    assert set(choice.living) >= set(range(min(alive, expected))), "what was drawn stays before others"


G, M = 8, 4
ROWS = np.arange(G)[:, None]
COLUMNS = np.arange(M)[None, :]
FLAT = np.zeros((G, M))
FAMOUS_GROUPS = np.where(ROWS < 4, 0.0, -3.0) + FLAT
FAMOUS_MEMBERS = np.where(COLUMNS < 2, 0.0, -3.0) + FLAT
FEW_GROUPS = np.where(ROWS < 2, 0.0, -9.0) + FLAT


@dataclass(frozen=True)
class Grouped:
    """Draws of a convolution with 8 groups, 4 channels each in and out."""

    name: str
    log_p: np.ndarray
    inputs: int
    outputs: int
    expected: tuple[int, int, int]
    """Groups, inputs and outputs per group."""
    align: int = 1
    lines: bool = True
    dead: tuple[int, ...] = ()
    forced: tuple[int, ...] = ()


GROUPED = [
    Grouped("half, some groups matter", FAMOUS_GROUPS, 16, 16, (4, 4, 4)),
    Grouped("half, some members matter", FAMOUS_MEMBERS, 16, 16, (8, 2, 2)),
    Grouped("half, groups cannot go", FAMOUS_GROUPS, 16, 16, (8, 2, 2), lines=False),
    Grouped("more inputs than outputs", FAMOUS_GROUPS, 16, 8, (4, 4, 2)),
    Grouped("a quarter", FEW_GROUPS, 8, 8, (2, 4, 4)),
    Grouped("a quarter, groups cannot go", FEW_GROUPS, 8, 8, (8, 1, 1), lines=False),
    Grouped("fewer than groups, which cannot go", FEW_GROUPS, 3, 3, (8, 1, 1), lines=False),
    Grouped("hardly any", FEW_GROUPS, 1, 1, (1, 1, 1)),
    Grouped("all", FLAT, 32, 32, (8, 4, 4)),
    Grouped("an odd number, aligned", FAMOUS_GROUPS, 15, 17, (4, 4, 4), align=8),
    Grouped("aligned, groups cannot go", FAMOUS_MEMBERS, 21, 13, (8, 3, 2), align=8, lines=False),
    Grouped("a group that the parent lacks", FLAT, 28, 28, (7, 4, 4), dead=(0, 1, 2, 3)),
    Grouped("a forced channel of a group that would go", FAMOUS_GROUPS, 16, 16, (5, 3, 3), forced=(31,)),
]


@pytest.mark.parametrize("case", GROUPED, ids=lambda case: case.name)
def test_groups_and_members_come_near_to_the_draw(case: Grouped) -> None:
    inputs, outputs = np.arange(G * M).reshape(G, M), np.arange(G * M, 2 * G * M).reshape(G, M)
    line = np.arange(G) if case.lines else np.full(G, -1)
    kinds = tuple(
        Kind(ids, line, case.align, G * M - len(np.intersect1d(ids, case.dead)), tie)
        for tie, ids in enumerate((inputs, outputs))
    )
    lines = np.arange(2 * G * M, 2 * G * M + G)[:, None] if case.lines else NO_LINES
    log_p = np.concatenate([case.log_p.ravel(), case.log_p.ravel(), np.full(G, -np.inf)])
    alive = np.zeros(log_p.size, dtype=np.bool_)
    for ids, number in ((inputs, case.inputs), (outputs, case.outputs)):
        may = np.setdiff1d(ids.ravel(), case.dead)
        alive[may[np.argsort(-log_p[may], kind="stable")[:number]]] = True
    alive[list(case.forced)] = True
    fit = Fit(Family(kinds, lines), drawn(alive, log_p, case.forced, case.dead))
    living = np.zeros_like(alive)
    living[fit.choose(upwards=True).living] = True
    counts = [living[ids].sum(axis=1) for ids in (inputs, outputs)]
    for per_group, number in zip(counts, case.expected[1:], strict=True):
        assert sorted(set(per_group.tolist()) - {0}) == [number]
        assert np.array_equal(per_group > 0, counts[0] > 0), "a group goes with its inputs and its outputs"
    assert np.count_nonzero(counts[0]) == case.expected[0]
    assert not living[list(case.dead)].any()
    assert living[list(case.forced)].all()
    # Every step down keeps what rounding is for, down to nothing.
    steps = list(fit.give_back(np.ones(living.size)))
    assert [step.tier for step in steps] == sorted(step.tier for step in steps)
    for step in steps:
        assert living[step.classes].all()
        living[step.classes] = False
        for ids in (inputs, outputs):
            per_group = living[ids].sum(axis=1)
            assert len(set(per_group.tolist()) - {0}) <= 1
            assert int(per_group.sum()) % case.align == 0
    assert living.any() == bool(case.forced)


def test_what_rounding_up_added_is_given_back_first() -> None:
    kind = Kind(np.arange(64)[None], np.full(1, -1), 16, 64)
    fit = Fit(Family((kind,), NO_LINES), drawn(np.arange(64) < 33))
    assert len(fit.choose(upwards=True).living) == 48
    steps = list(fit.give_back(np.ones(64)))
    assert [len(step.classes) for step in steps] == [16, 16, 16]
    assert steps[0].tier == UNDO
    assert steps[-1].tier == LAST


@dataclass(frozen=True)
class Linear:
    """Amounts that hang on each class alone."""

    weights: np.ndarray

    def total(self, alive: np.ndarray) -> float:
        return float(self.weights @ alive)

    def of_each(self, alive: np.ndarray) -> np.ndarray:
        return self.weights


@dataclass(frozen=True)
class Chain:
    """A family with these steps."""

    steps: tuple[Step, ...]

    def give_back(self, amount: np.ndarray) -> Iterator[Step]:
        yield from self.steps


def one_each(
    weights: Sequence[float], log_p: Sequence[float], tiers: Sequence[int]
) -> tuple[Linear, list[Chain]]:
    """Families of one step with one class."""
    steps = [Step(np.array([i]), tier, p) for i, (p, tier) in enumerate(zip(log_p, tiers, strict=True))]
    return Linear(np.array(weights, dtype=np.float64)), [Chain((step,)) for step in steps]


@pytest.mark.parametrize(
    ("weights", "log_p", "excess", "gone"),
    [
        ([10, 10, 10], [-1, -3, -2], 10, {1}),
        ([10, 10, 10], [-1, -3, -2], 11, {1, 2}),
        ([10, 20, 10], [-2.1, -1.9, -2], 19, {1}),  # per amount saved
        ([2, 2, 50], [-1, -1, 0], 3, {0, 1}),  # two small losses rather than a large one
        ([100, 2, 2, 500], [-5, -1, -1, 5], 3, {1, 2}),  # more probable, but the bound is used
        ([3, 30, 500], [-9, -8.5, 5], 30, {1}),  # the small one fits in again
        ([5, 5], [-1, -1], 50, {0, 1}),
    ],
)
def test_steps_go_that_lose_and_waste_least(weights, log_p, excess: float, gone: set[int]) -> None:
    amounts, families = one_each(weights, log_p, [UNDO] * len(weights))
    alive = np.ones(len(weights), dtype=np.bool_)
    left = give_back(families, amounts, alive, excess, np.random.default_rng(0))
    assert set(np.flatnonzero(~left).tolist()) == gone
    assert alive.all()


@given(st.integers(0, 2**32 - 1))
def test_steps_go_in_their_order_and_down_to_the_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chains = []
    for family in range(int(rng.integers(1, 6))):
        tiers = np.sort(rng.integers(0, 3, size=int(rng.integers(1, 5))))
        first = 4 * family
        chains.append(
            Chain(
                tuple(
                    Step(np.array([first + i]), int(tier), float(rng.normal()))
                    for i, tier in enumerate(tiers)
                )
            )
        )
    amounts = Linear(rng.uniform(0.5, 20, size=20))
    alive = np.ones(20, dtype=np.bool_)
    excess = float(rng.uniform(0, 60))
    left = give_back(chains, amounts, alive, excess, rng)
    flags = [left[[int(step.classes[0]) for step in chain.steps]] for chain in chains]
    assert all(np.array_equal(one, np.sort(one)) for one in flags), "first steps go first"
    if any(one.any() for one in flags):
        assert amounts.total(left) <= amounts.total(alive) - excess
    offered = np.concatenate([[int(step.classes[0]) for step in chain.steps] for chain in chains])
    assert left[np.setdiff1d(np.arange(20), offered)].all()


def test_undoing_stops_at_the_draw() -> None:
    amounts, families = one_each([5, 5, 5], [0, 0, 0], [UNDO, FURTHER, LAST])
    left = give_back(
        families, amounts, np.ones(3, dtype=np.bool_), 15, np.random.default_rng(0), undo_only=True
    )
    assert left.tolist() == [False, True, True]


@given(
    seed=st.integers(0, 2**16),
    grids=st.lists(st.tuples(st.integers(2, 4), st.integers(2, 5)), min_size=1, max_size=3),
)
def test_tangled_rows_are_evened_out(seed: int, grids: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(seed)
    ids = [rng.permutation(20)[: rows * members].reshape(rows, members) for rows, members in grids]
    start = drawn(rng.random(20) < 0.6, rng.normal(size=20))
    choice = Fit(Family((), NO_LINES, tuple(ids)), start).choose(upwards=True)
    living = np.zeros(20, dtype=np.bool_)
    living[choice.living] = True
    for grid in ids:
        assert len(set(living[grid].sum(axis=1).tolist())) == 1


@given(st.integers(1, 64), st.integers(0, 64))
def test_divisor(number: int, most: int) -> None:
    found = divisor(number, most)
    assert number % found == 0
    assert found <= max(most, 1)
    assert not any(number % larger == 0 for larger in range(found + 1, min(most, number) + 1))


# --- samples of whole networks


def grouped_network(groups: int, inputs: int, outputs: int, seed: int = 0, side: int = 4) -> Builder:
    """conv -> grouped conv -> grouped conv -> conv, with a residual around the grouped ones."""
    builder = Builder([1, 3, side, side], seed=seed)
    width = groups * outputs
    start = builder.conv("x", 3, width, 3)
    y = builder.node("Relu", builder.conv(start, width, groups * inputs, 1))
    y = builder.node("Relu", builder.conv(y, groups * inputs, width, 3, group=groups))
    y = builder.node("Relu", builder.conv(y, width, width, 3, group=groups))
    y = builder.node("Add", builder.conv(y, width, width, 1), start)
    y = builder.conv(builder.node("Relu", y), width, 20, 1)
    builder.output(builder.conv(builder.node("Relu", y), 20, 5, 1), [1, 5, side, side], "y")
    return builder


@functools.cache
def analysed(groups: int, inputs: int, outputs: int) -> tuple[Network, Coupling]:
    net = built(grouped_network(groups, inputs, outputs))
    return net, analyse(net)


def solved(pair: tuple[Network, Coupling], share: float, align: int, levels="clusters") -> Solution:
    net, coupling = pair
    genome = encode(net, find_clusters(net, coupling, "channel"), adaptive)
    return solve(net, coupling, genome, Budget(share), levels=levels, best_effort=True, align=align)


def count_uneven(coupling: Coupling, alive: np.ndarray) -> int:
    """Constraints of which some rows that are kept keep more than others; a line is kept while it has a
    member."""
    kept = np.zeros(coupling.n_classes, dtype=np.bool_)
    for constraint in coupling.equal_counts:
        for axis, line in enumerate(constraint.lines):
            if line is not None:
                lives = np.moveaxis(alive[constraint.classes], axis, 0).reshape(line.size, -1)
                kept[line[lives.any(axis=1)]] = True
    found = 0
    for constraint in coupling.equal_counts:
        rows = alive[constraint.classes].sum(axis=-1)
        found += len(set(rows[constraint.kept_rows(kept)].tolist())) > 1
    return found


def check(net: Network, coupling: Coupling, one: Sample, share: float, align: int) -> None:
    """Bound, dead stays dead, equal counts and alignment, or why not."""
    assert one.alignment is not None
    if not any("out of reach" in note for note in one.notes):
        assert one.survivors <= share * one.parent_synapses
    closure = close(net, coupling, one.masks)
    alive = ~closure.dead_classes
    parent = ~close(net, coupling, {}).dead_classes
    for name, mask in one.masks.items():
        assert np.array_equal(mask, closure.masks[name]), "removal has run to its fixed point"
        assert not np.any(mask & ~net.live(name)), "dead stays dead"
    assert count_uneven(coupling, alive) <= len(one.alignment.uneven)
    explained = {relaxed.weight: relaxed for relaxed in one.alignment.relaxed}
    assert all(relaxed.reason for relaxed in explained.values())
    groups = channel_groups(coupling)
    for name, weight in coupling.weights.items():
        count, before = (int(np.count_nonzero(flags[weight.output])) for flags in (alive, parent))
        mates = next(group for group in groups if weight.output[0] in group)
        excused = any(np.isin(coupling.weights[other].output, mates).any() for other in explained)
        assert count % align == 0 or count == before or excused, name


@settings(max_examples=30)
@given(
    groups=st.sampled_from([(2, 8, 8), (4, 4, 2), (8, 4, 4), (5, 3, 4)]),
    share=st.sampled_from([0.15, 0.4, 0.75]),
    align=st.sampled_from([1, 2, 4, 8]),
    levels=st.sampled_from(["clusters", "both"]),
    seed=st.integers(0, 2**16),
)
def test_samples_of_grouped_convolutions(groups, share: float, align: int, levels: str, seed: int) -> None:
    net, coupling = analysed(*groups)
    solution = solved((net, coupling), share, align, levels)
    one = sample(solution, np.random.default_rng(seed))
    check(net, coupling, one, share, align)
    again = sample(solution, np.random.default_rng(seed))
    assert all(np.array_equal(again.masks[name], mask) for name, mask in one.masks.items())
    assert again.alignment == one.alignment
    masked, plan, compacted = compact(net, coupling, one.masks)
    assert one.alignment.uneven or not any("equally" in pad.reason for pad in plan.padding)
    for name in net.weights:
        before, after = net.array(name), masked.array(name)
        assert np.array_equal(after, np.where(one.masks[name], before, 0)), "no weight changes"
    assert_same(masked, compacted, np.random.default_rng(seed))


@settings(max_examples=30)
@given(
    proto=small_models(),
    share=st.sampled_from([0.3, 0.6, 0.9]),
    align=st.sampled_from([1, 2, 4]),
    levels=st.sampled_from(["clusters", "both"]),
    seed=st.integers(0, 2**16),
)
def test_samples_of_any_small_model(
    proto: onnx.ModelProto, share: float, align: int, levels: str, seed: int
) -> None:
    net = network(proto)
    coupling = analyse(net)
    one = sample(solved((net, coupling), share, align, levels), np.random.default_rng(seed))
    check(net, coupling, one, share, align)


def test_what_an_earlier_generation_lost_does_not_come_back() -> None:
    """The parent is masked, not compact: some groups of a grouped convolution have fewer channels left."""
    net, coupling = analysed(8, 4, 4)
    rng = np.random.default_rng(0)
    masks = {}
    for name, weight in net.weights.items():
        keep = rng.random((weight.outputs, 1, 1)) < 0.7
        masks[name] = weight.from_canonical(np.broadcast_to(keep, net.canonical(name).shape).copy())
    parent = network_of(apply_masks(net, coupling, masks), "masked.onnx", net.input_shapes)
    pair = parent, analyse(parent)
    for seed in range(6):
        for align in (1, 4):
            check(*pair, sample(solved(pair, 0.6, align), np.random.default_rng(seed)), 0.6, align)


@pytest.mark.parametrize("align", [1, 8, 16])
def test_the_bound_is_used_up_to_a_step(align: int) -> None:
    """What is given back is little more than what must go."""
    pair = dense((40, 256, 128, 256, 10))
    for seed in range(6):
        one = sample(solved(pair, 0.5, align), np.random.default_rng(seed))
        bare = sample(solved(pair, 0.5, align), np.random.default_rng(seed), trim=False)
        assert one.achieved_share <= 0.5
        assert one.achieved_share >= min(0.5, bare.achieved_share) - 0.02 - align / 256 * 0.2
        assert one.alignment.aligned == one.alignment.groups == 3


def test_numbers_are_chosen_only_where_whole_channels_live_or_die() -> None:
    net, coupling = named("lenet")
    for encoding in (CHANNELS, replace(adaptive, levels="synapses"), replace(adaptive, granularity="kernel")):
        genome = encode(net, find_clusters(net, coupling, encoding.granularity), encoding)
        one = sample(solve(net, coupling, genome, Budget(0.5), align=4), np.random.default_rng(0))
        assert (one.alignment is not None) == rounds(encoding) == (encoding is CHANNELS)
    with pytest.raises(ValueError, match="align"):
        solved(named("lenet"), 0.5, 0)


def test_the_report_names_what_is_relaxed_and_why() -> None:
    one = sample(solved(analysed(5, 3, 4), 0.4, 16), np.random.default_rng(1))
    document = one.alignment.to_json()
    assert document["requested"] == 16
    assert document["aligned"] + len(document["relaxed"]) == document["groups"]
    assert document["relaxed"], "15 and 20 channels have no two multiples of 16"
    for relaxed in document["relaxed"]:
        assert relaxed["weight"] in one.masks
        assert 0 < relaxed["channels"] < relaxed["of"]
        assert relaxed["reason"] in str(one.alignment)
    assert f"{document['aligned']} of {document['groups']} channel groups" in str(one.alignment)


# --- measured alignment


def test_the_choice_is_speed_per_multiply_accumulate(monkeypatch: pytest.MonkeyPatch) -> None:
    net, coupling = named("lenet")
    costs = iter([100, 100, 50, 100, 100])
    monkeypatch.setattr(measuring, "_cost", lambda network, masks: next(costs))
    # 8 is fastest because it does half as much; 16 does more per second; 32 is not clearly better than 16.
    times = np.array([[1.0, 0.98, 0.6, 0.8, 0.78]] * 5)
    monkeypatch.setattr(measuring, "_take_turns", lambda probes, seconds, clock: times)
    found = measuring.measure_alignment(net, coupling, CHANNELS, 1, seconds=1)
    assert found["align"] == 16
    assert found["speedup"]["8"] == pytest.approx(0.5 / 0.6)
    assert found["kept"]["8"] == 50


def test_probes_take_turns_until_time_is_up() -> None:
    net, coupling = named("lenet")
    ticks = iter(range(10**6))
    found = measuring.measure_alignment(
        net, coupling, CHANNELS, 1, seconds=200, clock=lambda: 1.0 * next(ticks)
    )
    assert set(found["milliseconds"]) == {"1", "4", "8", "16", "32"}
    assert all(one == 1000 for one in found["milliseconds"].values())
    assert 150 < next(ticks) < 250


def test_nothing_is_measured_where_nothing_can_go_or_run(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder([1, 4])
    builder.output(builder.gemm("x", 4, 4), [1, 4], "y")
    net = network_of(ir.serde.deserialize_model(builder.model()), "one.onnx")
    assert measuring.measure_alignment(net, analyse(net), CHANNELS, 1, seconds=1) == {"align": 1}

    def refuse(*args, **options):
        raise ModelError("onnxruntime refuses it.")

    monkeypatch.setattr(measuring, "make_session", refuse)
    found = measuring.measure_alignment(*named("lenet"), CHANNELS, 1, seconds=1)
    assert found["align"] == 1
    assert "refuses" in found["note"]
    monkeypatch.setattr(measuring, "_LARGEST_BYTES", 1000)
    found = measuring.measure_alignment(*named("lenet"), CHANNELS, 1, seconds=1)
    assert found["align"] == 1
    assert "--align N" in found["note"]
