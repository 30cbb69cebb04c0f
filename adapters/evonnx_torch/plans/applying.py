"""From a plan and a module to the module masked or shrunk, proven; or left as it was, with the reason."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch import Tensor, nn

from evonnx.errors import PlanError
from evonnx.module_plan import ModulePlan, lay_out, load_plan
from evonnx.module_plan.plan import ClassIds, Flags
from evonnx.network import load_network
from evonnx_torch.plans.changing import Attribute, Changes, numbers_to_change, put_back_on_error
from evonnx_torch.plans.layers import output_axis
from evonnx_torch.plans.matching import Matches, match
from evonnx_torch.plans.parts import Part, parts_of, widened
from evonnx_torch.plans.proving import (
    TOLERANCE,
    Inputs,
    NotEqualError,
    Trace,
    compare_layers,
    compare_outputs,
    random_inputs,
    run,
    run_onnx,
)
from evonnx_torch.plans.report import Applied

How = Literal["shrink", "mask"]
File = str | os.PathLike[str]


def apply_plan(
    module: nn.Module,
    plan: ModulePlan | File,
    *,
    how: How = "shrink",
    weights: File | None = None,
    inputs: Sequence[Tensor] | None = None,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Applied:
    """Mask or shrink the module that an ancestor was exported from, in place.

    Parameters are recognised by name and by their numbers, also transposed or with a normalisation folded
    into them. Shrunk, the module is held against itself masked, layer by layer; with `weights` it is held
    against that model in onnxruntime. Whatever goes wrong, the module is left as it was.

    Args:
        module: with the weights that were exported.
        plan: from `evonnx plan`.
        how: "shrink" cuts parameters and what counts them; "mask" writes zeros and keeps all shapes.
        weights: the offspring the plan was made from, or one trained from it: its weights are taken over.
            None: the module's own.
        inputs: example arguments for the proof; None: random ones, shaped as the ancestor's inputs.
        tolerance: of the proof, relative to the largest number of each tensor.
        seed: of random inputs.

    Returns:
        What was done and what it was held against.

    Raises:
        PlanError: the plan cannot be read or is of another module, weights have changed, or the module's code
            cannot be followed.
        ModelError: `weights` cannot be read, or is no offspring of the plan's ancestor.
    """
    if how not in ("shrink", "mask"):
        raise PlanError(f"how is {how!r}; it can be 'shrink' or 'mask'.")
    if not isinstance(plan, ModulePlan):
        plan = load_plan(os.fspath(plan))
    matches = match(module, plan)
    plan = _without(plan, matches.made_up)
    laid_out = None if weights is None else lay_out(plan, load_network(weights))
    parts, outputs = parts_of(module, plan, matches, laid_out)
    examples = random_inputs(plan, seed) if inputs is None else [tuple(inputs)]
    before = _stored(module)
    changes = Changes(module)
    with put_back_on_error(changes):
        case = _Case(module, plan, parts, outputs, examples, tolerance, changes)
        for name, part in parts.items():
            changes.write(name, part.value)
        compared, worst, masked = case.prove_masked(None if weights is None else os.fspath(weights), how)
        reasons: tuple[str, ...] = ()
        if how == "shrink":
            assert masked is not None
            reasons, worst = case.shrink(masked, worst or 0.0)
            compared.append("the masked module, layer by layer")
    return Applied(
        how=how,
        parameters_before=before,
        parameters_after=_stored(module),
        masked=_masked_numbers(plan, matches),
        resized=tuple(changes.resized),
        attributes=tuple(changes.attributes),
        folded=tuple((one.layer, one.norm) for one in matches.folded),
        kept_whole=reasons,
        compared=tuple(compared),
        worst=worst,
    )


@dataclass(frozen=True)
class _Case:
    module: nn.Module
    plan: ModulePlan
    parts: Mapping[str, Part]
    outputs: Mapping[str, ClassIds]
    """What layers put out."""
    examples: Sequence[Inputs]
    tolerance: float
    changes: Changes

    def prove_masked(self, weights: str | None, how: How) -> tuple[list[str], float | None, Trace | None]:
        """Run the masked module, and hold it against a model if there is one."""
        if how == "mask" and weights is None:
            return [], None, None
        try:
            trace = run(self.module, self.examples, self._layers())
        except Exception as error:
            raise PlanError(
                f"The module does not run on the inputs of {self.plan.ancestor} ({type(error).__name__}: "
                f"{error}). Give it example arguments with inputs=."
            ) from error
        if weights is None:
            return [], None, trace
        expected = run_onnx(weights, self.plan, self.examples)
        try:
            worst = compare_outputs(trace, expected, weights, self.tolerance)
        except NotEqualError as error:
            raise PlanError(
                f"With the weights of {weights} the masked module is not equal to it: {error}. Something "
                "that the model computes is no parameter of the module, or it is not the one exported."
            ) from error
        return [f"{weights} in onnxruntime"], worst, trace

    def shrink(self, masked: Trace, worst: float) -> tuple[tuple[str, ...], float]:
        """Cut as much as the module's code follows: all; else all but what its code seems to count.

        Returns:
            What is kept whole and why, and the worst difference.
        """
        flags, reasons = widened(self.module, self.parts, self.plan.flags)
        reasons = (*self.plan.kept_whole, *reasons)
        numbers = numbers_to_change(self.module, self.parts, self.plan.counts, flags)
        failure: Exception | None = None
        if numbers is not None:
            try:
                return reasons, max(worst, self._attempt(masked, flags, numbers))
            except Exception as error:  # the module's own code may raise anything
                failure = error
        wider = flags.copy()
        for count in self.plan.counts:
            wider[count.classes] = True
        wider, more = widened(self.module, self.parts, wider)
        whole = [
            f"{one.node}: the module's code does not take over its new size"
            for one in self.plan.counts
            if not flags[one.classes].all()
        ]
        if failure is None or whole:
            try:
                found = self._attempt(masked, wider, [])
                return (*reasons, *dict.fromkeys(whole), *more), max(worst, found)
            except Exception as error:
                failure = error
        raise PlanError(
            f"The module's code does not follow its narrower layers ({type(failure).__name__}: {failure}), "
            "and is left as it was. Replace sizes that are written down in forward by what tensors say of "
            'themselves (x.shape[1], -1), or apply the plan with how="mask".'
        ) from failure

    def _attempt(self, masked: Trace, flags: Flags, numbers: list[Attribute]) -> float:
        """Cut, and hold what came of it against the masked module."""
        mark = self.changes.mark()
        try:
            for name, part in self.parts.items():
                self.changes.resize(name, part, flags)
            for name, old, new in numbers:
                self.changes.set_number(name, old, new)
            layers = self._layers()
            shrunk = run(self.module, self.examples, layers)
            outputs = compare_outputs(shrunk, masked.outputs, "the masked module", self.tolerance)
            kept = {name: np.flatnonzero(flags[self.outputs[name]]) for name in layers}
            return max(outputs, compare_layers(masked, shrunk, kept, layers, self.tolerance))
        except BaseException:
            self.changes.undo(mark)
            raise

    def _layers(self) -> dict[str, nn.Module]:
        """Layers whose outputs are compared."""
        owners = dict(self.module.named_modules())
        return {name: owners[name] for name in self.outputs if output_axis(owners[name]) is not None}


def _without(plan: ModulePlan, names: Sequence[str]) -> ModulePlan:
    """A plan that keeps whole what the exporter's own vectors go along with."""
    flags, reasons = plan.flags.copy(), []
    for name in names:
        for ids in plan.tensors[name].axes.values():
            flags[ids] = True
        reasons.append(f"{name}: no parameter of the module")
    return replace(plan, flags=flags, kept_whole=(*plan.kept_whole, *reasons))


def _stored(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def _masked_numbers(plan: ModulePlan, matches: Matches) -> int:
    masks = (plan.tensors[name].mask for name in matches.claimed)
    return sum(int(np.count_nonzero(~mask)) for mask in masks if mask is not None)
