"""Compactions with a fault planted in the plan: what a proof must catch.

That a fault changes the function follows from how it is built, never from what the proof says of it: it hits
a channel that lives in the masked model, and puts other numbers in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
from graphs import GRAPHS

from evonnx.compaction import Compacted, Plan, apply_plan, plan_compaction
from evonnx.compaction.plan import AxisCut
from evonnx.dependency import Coupling, analyse
from evonnx.dependency.liveness import close
from evonnx.masking import apply_masks
from evonnx.masks import Mask, live_masks
from evonnx.network import Array, Network, network_of
from evonnx.onnx_io import set_array


@dataclass(frozen=True)
class Case:
    """A graph, some of whose channels are dead, and what becomes of it."""

    label: str
    ancestor: Network
    masked: Network
    coupling: Coupling
    plan: Plan
    compacted: Compacted


@dataclass(frozen=True)
class Fault:
    """A masked model beside a compact one that isn't its equal."""

    label: str
    masked: ir.Model
    compacted: Compacted


def make_case(name: str, seed: int, share: float = 0.35) -> Case:
    """Kill whole channels of a named graph, leaving every layer at least two of its outputs and inputs.

    A matrix behind a Flatten loses single inputs too, so that plans have Gathers.
    """
    return case_from(GRAPHS[name](), name, seed, share)


def case_from(model: onnx.ModelProto, name: str, seed: int, share: float = 0.35) -> Case:
    """As `make_case`, of any model."""
    rng = np.random.default_rng([seed, len(name)])
    ancestor = network_of(ir.from_proto(model), name)
    coupling = analyse(ancestor)
    dead = _killable(ancestor, coupling, rng, share)
    masks = _masks_without(ancestor, coupling, dead)
    for layer, weight in ancestor.weights.items():
        ids = coupling.weights[layer].input
        if weight.groups == 1 and weight.taps == 1 and np.unique(ids).size < ids.size:
            single = weight.to_canonical(masks[layer]) & (rng.random(ids.size) > 0.4)[:, None]
            masks[layer] = np.ascontiguousarray(weight.from_canonical(single))
    masked = network_of(apply_masks(ancestor, coupling, masks), name)
    return case_of(f"{name}-{seed}", ancestor, masked)


def case_of(label: str, ancestor: Network, masked: Network) -> Case:
    coupling = analyse(masked)
    plan = plan_compaction(masked, coupling)
    return Case(label, ancestor, masked, coupling, plan, apply_plan(masked, plan))


def faults(case: Case, rng: np.random.Generator) -> Iterator[Fault]:
    """Every kind of fault that can be planted in a case, one each."""
    kinds: tuple[Callable[[Case, np.random.Generator], Fault | None], ...] = (
        dropped,
        replaced,
        swapped,
        wrong_bias,
        bias_left_alive,
        wrong_gather,
    )
    for kind in kinds:
        fault = kind(case, rng)
        if fault is not None:
            yield fault


def dropped(case: Case, rng: np.random.Generator) -> Fault | None:
    """One live channel goes too, consistently everywhere: the plan is that of a model in which it is dead."""
    pinned = case.coupling.pinned()
    live = _live_classes(case)
    put_out = [ids.output for ids in case.coupling.weights.values()]
    for_values = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *put_out]))
    pinned |= ~np.isin(np.arange(pinned.size), for_values)  # a group as such has no values to lose
    for one in rng.permutation(np.flatnonzero(live & ~pinned)):
        dead = np.zeros(case.coupling.n_classes, dtype=np.bool_)
        dead[one] = True
        if not _keeps_two(case.masked, case.coupling, live & ~dead):
            continue
        fault = drop(case, int(one))
        if fault is not None:
            return fault
    return None


def drop(case: Case, one: int) -> Fault | None:
    """The given live class goes; None where the planner keeps it all the same."""
    dead = np.zeros(case.coupling.n_classes, dtype=np.bool_)
    dead[one] = True
    masks = _masks_without(case.masked, case.coupling, dead)
    other = network_of(apply_masks(case.masked, case.coupling, masks), case.masked.source)
    plan = plan_compaction(other, analyse(other))
    gone = [
        case.coupling.weights[cut.tensor].output[np.union1d(cut.unread, cut.silent)] for cut in plan.removals
    ]
    # Equal counts may keep it as padding in the place of another.
    if not gone or one not in np.concatenate(gone) or plan.describe() == case.plan.describe():
        return None
    label = f"{case.label}: class {one} dropped"
    return Fault(label, case.masked.model, apply_plan(case.masked, plan))


def replaced(case: Case, rng: np.random.Generator) -> Fault | None:
    """One constant keeps the slice of a dead channel in the place of a live one's."""
    return _one_cut(case, rng, "replaced", lambda cut: True, _replace)


def wrong_bias(case: Case, rng: np.random.Generator) -> Fault | None:
    """The same in a bias or another parameter per channel."""
    names = {vector.name for vector in case.coupling.vectors}
    return _one_cut(case, rng, "wrong bias", lambda cut: cut.tensor in names, _replace)


def swapped(case: Case, rng: np.random.Generator) -> Fault | None:
    """One constant keeps two live channels in the wrong order."""
    return _one_cut(case, rng, "swapped", lambda cut: True, _swap)


def bias_left_alive(case: Case, rng: np.random.Generator) -> Fault | None:
    """The masked model still adds the bias of a channel that the plan takes away, and reads it.

    Only where bias is all the channel has, so that a positive one passes every activation.
    """
    removed = ~_live_classes(case)
    vectors = case.coupling.vectors
    for vector in rng.permutation(np.array(vectors, dtype=object)):
        classes = case.coupling.axes.get((vector.name, vector.axis))
        if vector.role != "bias" or classes is None:
            continue
        cuts = [cut for cut in case.plan.cuts if (cut.tensor, cut.axis) == (vector.name, vector.axis)]
        gone = np.setdiff1d(np.arange(len(classes)), cuts[0].kept) if cuts else np.array([], dtype=np.int64)
        for index in gone[removed[classes[gone]]]:
            one = classes[index]
            roles = {
                other.role for other in vectors if one in case.coupling.axes.get((other.name, other.axis), ())
            }
            readers = [name for name, ids in case.coupling.weights.items() if (ids.input == one).any()]
            # A depthwise reader produces the same class, and would still hold the bias back.
            through = any((case.coupling.weights[name].output == one).any() for name in readers)
            if roles != {"bias"} or not readers or through:
                continue
            model = case.masked.model.clone()
            restored = [_restore(case, model, name, int(one)) for name in readers]
            if not any(restored):
                continue
            bias = case.masked.array(vector.name).copy()
            bias[index] = 1.0
            set_array(model, vector.name, bias)
            network = network_of(model, case.masked.source)
            label = f"{case.label}: bias {vector.name}[{index}] left alive"
            return Fault(label, model, apply_plan(network, case.plan))
    return None


def wrong_gather(case: Case, rng: np.random.Generator) -> Fault | None:
    """A Gather before a matrix picks a dead input in the place of a live one."""
    for gather in case.plan.gathers:
        others = np.setdiff1d(np.arange(gather.length), gather.kept)
        if not others.size:
            continue
        kept = gather.kept.copy()
        kept[rng.integers(kept.size)] = rng.choice(others)
        wrong = tuple(replace(one, kept=kept) if one is gather else one for one in case.plan.gathers)
        plan = replace(case.plan, gathers=wrong)
        label = f"{case.label}: wrong gather before {gather.weight}"
        return Fault(label, case.masked.model, apply_plan(case.masked, plan))
    return None


def _replace(cut: AxisCut, alive: Array, rng: np.random.Generator) -> Array | None:
    gone = np.setdiff1d(np.arange(cut.length), cut.kept)
    if not alive.size or not gone.size:
        return None
    kept = cut.kept.copy()
    kept[rng.choice(alive)] = rng.choice(gone)
    return kept


def _swap(cut: AxisCut, alive: Array, rng: np.random.Generator) -> Array | None:
    if alive.size < 2:
        return None
    one, other = rng.choice(alive, 2, replace=False)
    kept = cut.kept.copy()
    kept[[one, other]] = kept[[other, one]]
    return kept


def _one_cut(
    case: Case,
    rng: np.random.Generator,
    label: str,
    eligible: Callable[[AxisCut], bool],
    change: Callable[[AxisCut, Array, np.random.Generator], Array | None],
) -> Fault | None:
    live = _live_classes(case)
    for cut in rng.permutation(np.array(case.plan.cuts, dtype=object)):
        classes = case.coupling.axes.get((cut.tensor, cut.axis))
        if not eligible(cut) or classes is None or len(classes) != cut.length:
            continue
        before = _planned(case, cut.tensor, case.plan)
        slices = np.moveaxis(before, cut.axis, 0).reshape(cut.kept.size, -1)
        alive = np.flatnonzero(live[classes[cut.kept]] & np.any(slices != 0, axis=1))
        kept = change(cut, alive, rng)
        if kept is None:
            continue
        plan = replace(
            case.plan, cuts=tuple(replace(one, kept=kept) if one is cut else one for one in case.plan.cuts)
        )
        if np.array_equal(before, _planned(case, cut.tensor, plan)):
            continue
        name = f"{case.label}: {label} in {cut.tensor} axis {cut.axis}"
        return Fault(name, case.masked.model, apply_plan(case.masked, plan))
    return None


def _planned(case: Case, tensor: str, plan: Plan) -> Array:
    """What a plan makes of one constant that is only cut along axes."""
    values = case.masked.array(tensor)
    if any(fold.tensor == tensor for fold in plan.folds):
        for step in case.masked.weights[tensor].uses[0].relayouts:
            values = (
                values.reshape(step.argument) if step.kind == "reshape" else values.transpose(step.argument)
            )
    for cut in plan.cuts:
        if cut.tensor == tensor:
            values = values.take(cut.kept, cut.axis)
    return values


def _live_classes(case: Case) -> Mask:
    """Shape (n_classes,): True where the masked model still has a live channel."""
    return ~close(case.masked, case.coupling, live_masks(case.masked)).dead_classes


def _killable(network: Network, coupling: Coupling, rng: np.random.Generator, share: float) -> Mask:
    """Shape (n_classes,): a random choice that leaves every layer two outputs and two inputs."""
    dead = np.zeros(coupling.n_classes, dtype=np.bool_)
    sides = _sides(network, coupling)
    touched: dict[int, list[Array]] = {}
    for ids in sides:
        for one in ids:
            touched.setdefault(int(one), []).append(ids)
    for one in rng.permutation(np.flatnonzero(~coupling.pinned())):
        dead[one] = rng.random() < share
        if dead[one] and any((~dead[ids]).sum() < 2 for ids in touched.get(int(one), ())):
            dead[one] = False
    return dead


def _keeps_two(network: Network, coupling: Coupling, live: Mask) -> bool:
    return all(live[ids].sum() >= 2 for ids in _sides(network, coupling))


def _sides(network: Network, coupling: Coupling) -> list[Array]:
    """The classes of every layer's outputs and of its inputs, where there are at least two."""
    found = [
        np.unique(ids)
        for name in network.weights
        for ids in (coupling.weights[name].output, coupling.weights[name].input)
    ]
    return [ids for ids in found if ids.size >= 2]


def _masks_without(network: Network, coupling: Coupling, dead: Mask) -> dict[str, Mask]:
    """Masks in which the rows and columns of dead classes are dead."""
    masks = {}
    for name, weight in network.weights.items():
        ids = coupling.weights[name]
        mask = weight.to_canonical(network.live(name)).copy()
        mask[dead[ids.output]] = False
        columns = np.repeat(~dead[ids.input], weight.outputs // weight.groups, axis=0)
        masks[name] = np.ascontiguousarray(weight.from_canonical(mask & columns[:, :, None]))
    return masks


def _restore(case: Case, model: ir.Model, name: str, one: int) -> bool:
    """Give live outputs of a layer the ancestor's weights for the channels of a class back."""
    weight, ids = case.masked.weights[name], case.coupling.weights[name]
    columns = np.repeat(ids.input == one, weight.outputs // weight.groups, axis=0)
    back = columns & _live_classes(case)[ids.output][:, None]
    values = np.where(back[:, :, None], case.ancestor.canonical(name), case.masked.canonical(name))
    set_array(model, name, np.ascontiguousarray(weight.from_canonical(values)))
    return bool(np.any(values != case.masked.canonical(name)))
