"""Which parameter of a module is which tensor of the ancestor.

Exporters keep a parameter's name where they keep its numbers. They store matrices of linear layers
transposed, fold normalisations into what stands before them, and write equal tensors once, under names of
their own or under the old ones: so a name counts only with its numbers, and numbers alone are enough.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from evonnx.errors import PlanError
from evonnx.module_plan import ModulePlan, TensorPlan, is_same, sketch
from evonnx.module_plan.sketch import starts_like
from evonnx_torch.plans.layers import Pair, pairs_of, to_array

_SHOWN = 5


@dataclass(frozen=True)
class Direct:
    """A parameter or buffer that the ancestor stores as it is, or transposed."""

    tensor: str
    transposed: bool


@dataclass(frozen=True)
class Folded:
    """A layer and its normalisation that the ancestor stores as one layer."""

    pair: Pair
    layer: str
    norm: str
    """Names of both modules."""
    weight: str
    bias: str
    """Tensors of the ancestor."""


@dataclass
class Matches:
    """What was found; tensors are named as the ancestor does, parameters as the module does."""

    direct: dict[str, Direct] = field(default_factory=dict)
    folded: list[Folded] = field(default_factory=list)
    claimed: set[str] = field(default_factory=set)
    """Tensors that some parameter is."""
    made_up: list[str] = field(default_factory=list)
    """Vectors of the exporter's own, such as the ones that a group normalisation is scaled by."""


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """Floating-point parameters and buffers by name; what is shared comes under each of its names."""
    found = dict(module.named_parameters(remove_duplicate=False))
    named = {**found, **dict(module.named_buffers(remove_duplicate=False))}
    return {name: one for name, one in named.items() if one.is_floating_point() and one.ndim}


def match(module: nn.Module, plan: ModulePlan) -> Matches:
    """Find every tensor that a plan changes in the module.

    Raises:
        PlanError: one is not in it: another module, other weights, or an export that this does not undo.
    """
    parameters = parameters_of(module)
    found = Matches()
    taken = _match_pairs(module, plan, found)
    left = {name: one for name, one in parameters.items() if name not in taken}
    for name, parameter in left.items():
        if name in plan.tensors and name not in found.claimed and _is(plan.tensors[name], parameter):
            found.direct[name] = Direct(name, transposed=False)
            found.claimed.add(name)
    for name, parameter in left.items():
        if name not in found.direct and (by_value := _by_value(plan, parameter, found)) is not None:
            found.direct[name] = by_value
            found.claimed.add(by_value.tensor)
    missing = [name for name in plan.tensors if plan.affected(name) and name not in found.claimed]
    biases = {tensor.bias for tensor in plan.tensors.values()}
    found.made_up = [
        name
        for name in missing
        if name not in parameters and name not in biases and len(plan.tensors[name].shape) == 1
    ]
    if missing := [name for name in missing if name not in found.made_up]:
        raise PlanError(_unmatched(missing, parameters, plan))
    return found


def _match_pairs(module: nn.Module, plan: ModulePlan, found: Matches) -> set[str]:
    """Pairs that were folded; returns the names of their parameters."""
    taken: set[str] = set()
    norms: set[str] = set()
    for layer, candidates in pairs_of(module):
        for norm, pair in candidates:
            if norm in norms or f"{norm}.running_var" in plan.tensors:
                continue
            folded = _as_folded(layer, norm, pair, plan, found.claimed)
            if folded is not None:
                found.folded.append(folded)
                found.claimed |= {folded.weight, folded.bias}
                norms.add(norm)
                for name, one in ((layer, pair.layer), (norm, pair.norm)):
                    taken |= {f"{name}.{parameter}" for parameter in parameters_of(one)}
                break
    return taken


def _as_folded(layer: str, norm: str, pair: Pair, plan: ModulePlan, claimed: set[str]) -> Folded | None:
    weight, bias = pair.folded()
    own = f"{layer}.weight"
    for name in sorted(plan.tensors, key=lambda name: name != own):
        other = plan.tensors[name].bias
        if name in claimed or other is None or other not in plan.tensors:
            continue
        if _is(plan.tensors[name], weight) and _is(plan.tensors[other], bias):
            return Folded(pair, layer, norm, name, other)
    return None


def _by_value(plan: ModulePlan, parameter: Tensor, found: Matches) -> Direct | None:
    """A tensor of the same numbers, one that nothing else is if possible."""
    candidates = [
        Direct(name, transposed)
        for name, tensor in plan.tensors.items()
        for transposed in (False, True)
        if (not transposed or parameter.ndim == 2) and _is(tensor, parameter.T if transposed else parameter)
    ]
    return min(candidates, key=lambda one: one.tensor in found.claimed, default=None)


def _is(tensor: TensorPlan, parameter: Tensor) -> bool:
    """Whether numbers are the same; exporters give vectors axes of length one, to be broadcast."""
    shape = tuple(parameter.shape)
    if shape != tensor.shape and not (parameter.ndim == 1 and shape == _longer_than_one(tensor.shape)):
        return False
    array = to_array(parameter, tensor.dtype)
    return starts_like(tensor.sketch, array) and is_same(tensor.sketch, sketch(array))


def _longer_than_one(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size > 1)


def _unmatched(missing: list[str], parameters: dict[str, Tensor], plan: ModulePlan) -> str:
    """Why the plan cannot be applied, and what to do."""
    shown = ", ".join(map(repr, missing[:_SHOWN])) + (", ..." if len(missing) > _SHOWN else "")
    shapes = {tuple(sorted(one.shape)) for one in parameters.values()}
    strange = [name for name in missing if tuple(sorted(plan.tensors[name].shape)) not in shapes]
    if strange:
        shape = list(plan.tensors[strange[0]].shape)
        return (
            f"The plan is of another module than this one: {plan.ancestor} has {strange[0]!r} of shape "
            f"{shape}, and no parameter here has it ({len(missing)} of its tensors are missing: {shown}). "
            "Give the module that was exported."
        )
    changed = [name for name in missing if name in parameters and not _starts(plan, name, parameters[name])]
    why = (
        f"its weights have changed since {plan.ancestor} was exported"
        if changed
        else f"its weights have changed since {plan.ancestor} was exported, or the exporter rewrote them"
    )
    return (
        f"No parameter of the module has the numbers of {shown}: {why}. Load the weights that were exported. "
        "If the exporter computed with weights, export again with dynamo=False, do_constant_folding=False "
        "and training=torch.onnx.TrainingMode.PRESERVE, and evolve that."
    )


def _starts(plan: ModulePlan, name: str, parameter: Tensor) -> bool:
    array = to_array(parameter, plan.tensors[name].dtype)
    return bool(np.size(array)) and starts_like(plan.tensors[name].sketch, array)
