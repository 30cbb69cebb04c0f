"""What every parameter of a module is to hold, at full width, and which classes its axes follow.

Algebra: own = the ancestor's numbers as the module has them; offspring = the compact model's, where it has
any; masked = mask * (offspring where there is one, else own). Cut to the classes that stay, every parameter
fits every other; what stays and is dead holds zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evonnx.module_plan import ModulePlan, TensorPlan
from evonnx.module_plan.plan import ClassIds, Flags
from evonnx.network import Array
from evonnx_torch.plans.layers import NORM_VECTORS, NORMS, keeps_widths, output_classes
from evonnx_torch.plans.matching import Folded, Matches, parameters_of

LaidOut = Mapping[str, tuple[Array, NDArray[np.bool_]]]
"""From `module_plan.lay_out`."""


@dataclass(frozen=True)
class Part:
    """A parameter or buffer to be."""

    value: Tensor
    """At full width."""
    axes: Mapping[int, ClassIds] = field(default_factory=dict)
    """As `TensorPlan.axes`."""

    @property
    def groups(self) -> int:
        """Of a grouped convolution's weight; 1 for all else."""
        return next((ids.shape[0] for ids in self.axes.values() if ids.ndim == 2), 1)

    def is_cut(self, flags: Flags) -> bool:
        """Whether it gets smaller."""
        return any(not flags[ids].all() for ids in self.axes.values())

    def cut(self, flags: Flags) -> tuple[Tensor, int]:
        """What is left of it where classes are flagged, and in how many groups."""
        if self.groups > 1:
            return self._cut_groups(flags)
        value = self.value
        for axis, ids in self.axes.items():
            value = value.index_select(axis, torch.from_numpy(np.flatnonzero(flags[ids])))
        return value, 1

    def fits(self, flags: Flags) -> bool:
        """Whether groups that stay are alike."""
        if self.groups == 1:
            return True
        rows, columns = self._grouped(flags)
        stay = rows.any(axis=1)
        counts = {tuple(pair) for pair in np.stack([rows.sum(1), columns.sum(1)], axis=1)[stay].tolist()}
        return bool(np.array_equal(stay, columns.any(axis=1))) and len(counts) == 1

    def _grouped(self, flags: Flags) -> tuple[Flags, Flags]:
        return flags[self.axes[0]].reshape(self.groups, -1), flags[self.axes[1]]

    def _cut_groups(self, flags: Flags) -> tuple[Tensor, int]:
        rows, columns = self._grouped(flags)
        parts = [
            group[torch.from_numpy(row)][:, torch.from_numpy(column)]
            for group, row, column in zip(self.value.chunk(self.groups), rows, columns, strict=True)
            if row.any()
        ]
        return torch.cat(parts), len(parts)


def parts_of(
    module: nn.Module, plan: ModulePlan, matches: Matches, laid_out: LaidOut | None
) -> tuple[dict[str, Part], dict[str, ClassIds]]:
    """Every parameter and buffer that the ancestor knows, by name; and what layers put out, by layer.

    Args:
        module: with the ancestor's weights.
        plan: to carry out.
        matches: which parameter is which tensor.
        laid_out: the offspring's weights; None: the module's own.
    """
    parameters = parameters_of(module)
    found: dict[str, Part] = {}
    for name, direct in matches.direct.items():
        tensor, own = plan.tensors[direct.tensor], parameters[name].detach().cpu()
        value = masked(tensor, own.T if direct.transposed else own.reshape(tensor.shape), laid_out)
        if direct.transposed:
            found[name] = Part(value.T, {1 - axis: ids for axis, ids in tensor.axes.items()})
        elif own.shape == value.shape:
            found[name] = Part(value, tensor.axes)
        else:  # a vector that the ancestor broadcasts
            along = [ids for ids in tensor.axes.values() if ids.size == own.numel()]
            found[name] = Part(value.reshape(own.shape), dict(enumerate(along[:1])))
    for folded in matches.folded:
        found |= dict(_folded_parts(folded, plan, laid_out))
    outputs = _outputs(module, plan, matches, found)
    for name, parameter in parameters.items():
        layer = name.rpartition(".")[0]
        # What the ancestor does not know goes with what stands beside it: statistics, biases of folded pairs.
        if name not in found and layer in outputs and parameter.ndim == 1:
            found[name] = Part(parameter.detach().cpu(), {0: outputs[layer]})
    return found, outputs


def _outputs(
    module: nn.Module, plan: ModulePlan, matches: Matches, found: Mapping[str, Part]
) -> dict[str, ClassIds]:
    """Classes of layers' outputs, by name of the layer."""
    outputs: dict[str, ClassIds] = {}
    for folded in matches.folded:
        ids = output_classes(folded.pair.layer, plan.tensors[folded.weight], transposed=False)
        outputs |= {} if ids is None else {folded.layer: ids, folded.norm: ids}
    for name, owner in module.named_modules():
        if name in outputs:
            continue
        if isinstance(owner, NORMS):
            vectors = (found.get(f"{name}.{one}") for one in NORM_VECTORS)
            ids = next((one.axes[0] for one in vectors if one is not None and 0 in one.axes), None)
            outputs |= {} if ids is None else {name: ids}
        elif (direct := matches.direct.get(f"{name}.weight")) is not None:
            ids = output_classes(owner, plan.tensors[direct.tensor], transposed=direct.transposed)
            outputs |= {} if ids is None else {name: ids}
    return outputs


def masked(tensor: TensorPlan, own: Tensor, laid_out: LaidOut | None) -> Tensor:
    """A tensor of the ancestor with the offspring's numbers, where it has any, and the dead ones zero."""
    value = own
    if laid_out is not None:
        numbers, there = laid_out[tensor.name]
        value = torch.where(
            torch.from_numpy(there), torch.from_numpy(numbers.astype(np.float64)).to(own.dtype), own
        )
    if tensor.mask is not None:
        value = torch.where(torch.from_numpy(tensor.mask), value, torch.zeros_like(value))
    return value


def _folded_parts(folded: Folded, plan: ModulePlan, laid_out: LaidOut | None) -> Iterator[tuple[str, Part]]:
    weight, bias = folded.pair.folded()
    tensor = plan.tensors[folded.weight]
    names = {id(folded.pair.layer): folded.layer, id(folded.pair.norm): folded.norm}
    outputs = output_classes(folded.pair.layer, tensor, transposed=False)
    along = {} if outputs is None else {0: outputs}
    whole = masked(tensor, weight, laid_out), masked(plan.tensors[folded.bias], bias, laid_out)
    for owner, name, value in folded.pair.unfolded(*whole):
        axes = tensor.axes if owner is folded.pair.layer else along
        yield f"{names[id(owner)]}.{name}", Part(value, axes)


def widened(module: nn.Module, parts: Mapping[str, Part], flags: Flags) -> tuple[Flags, tuple[str, ...]]:
    """Flags with all that torch's layers cannot do without, and why."""
    flags, reasons = flags.copy(), []
    owners = dict(module.named_modules())
    while True:
        before = int(flags.sum())
        for name, part in parts.items():
            owner = owners[name.rpartition(".")[0]]
            if part.is_cut(flags) and keeps_widths(owner):
                reasons.append(f"{name}: {type(owner).__name__} keeps its widths")
            elif not part.fits(flags):
                reasons.append(f"{name}: its groups would become unequal")
            else:
                continue
            for ids in part.axes.values():
                flags[ids] = True
        if int(flags.sum()) == before:
            return flags, tuple(reasons)
