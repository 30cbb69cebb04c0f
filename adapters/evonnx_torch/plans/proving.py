"""Holding a changed module against what it must equal: the compact model in onnxruntime, and itself, masked.

Compared are the outputs and, between the masked and the shrunk module, what every layer puts out, each on its
own scale; on two inputs of different scales. Where outputs do not react to inputs, equality shows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evonnx.errors import PlanError
from evonnx.module_plan import ModulePlan
from evonnx.module_plan.plan import Indices
from evonnx.network import Array
from evonnx.sessions import make_session, run_session
from evonnx_torch.plans.layers import output_axis

TOLERANCE = 1e-4
"""Of the largest number of a tensor."""
_SCALES = (1.0, 3.0)
_POWER = 100
"""Outputs must react to another input this much more than they differ."""
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Trace:
    """What a module put out, for each of several inputs."""

    outputs: tuple[tuple[Array, ...], ...]
    layers: tuple[Mapping[str, tuple[Array, ...]], ...]
    """Per layer watched, once per call."""


class NotEqualError(PlanError):
    """A module does not do what it must."""


class VoidError(PlanError):
    """Outputs are equal, and would be whatever was wrong."""


def random_inputs(plan: ModulePlan, seed: int) -> list[Inputs]:
    """Two sets of inputs like the ancestor's: normal ones of scales 1 and 3, integers 0 and 1."""
    rng = np.random.default_rng(seed)
    return [tuple(_random(one.dtype, one.shape, scale, rng) for one in plan.inputs) for scale in _SCALES]


def _random(dtype: str, shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> Tensor:
    if np.issubdtype(np.dtype(dtype), np.floating):
        return torch.from_numpy((rng.standard_normal(shape) * scale).astype(dtype))
    return torch.from_numpy(rng.integers(0, 2, shape).astype(dtype))


def run(module: nn.Module, inputs: Sequence[Inputs], watched: Mapping[str, nn.Module]) -> Trace:
    """Run a module in evaluation mode, which it leaves again.

    Args:
        module: to run.
        inputs: each one call's arguments.
        watched: layers whose outputs are kept, by name.
    """
    outputs, layers = [], []
    device = next((one.device for one in module.parameters()), torch.device("cpu"))
    with _evaluating(module), torch.no_grad():
        for one in inputs:
            seen: dict[str, list[Array]] = {name: [] for name in watched}
            with _watching(watched, seen):
                result = module(*(tensor.to(device) for tensor in one))
            outputs.append(tuple(_flattened(result)))
            layers.append({name: tuple(calls) for name, calls in seen.items()})
    return Trace(tuple(outputs), tuple(layers))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(one, one.training) for one in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for one, mode in modes:
            one.training = mode


@contextmanager
def _watching(watched: Mapping[str, nn.Module], seen: Mapping[str, list[Array]]) -> Iterator[None]:
    def keep(name: str) -> Any:
        return lambda layer, given, result: seen[name].append(_array(result))

    hooks = [layer.register_forward_hook(keep(name)) for name, layer in watched.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def run_onnx(path: str, plan: ModulePlan, inputs: Sequence[Inputs]) -> list[tuple[Array, ...]]:
    """What a model puts out, in its own order, for each of several inputs.

    Raises:
        ModelError: onnxruntime cannot run it.
    """
    session = make_session(path)
    names = [one.name for one in session.get_outputs()]
    found = []
    for one in inputs:
        if len(one) != len(plan.inputs):
            raise PlanError(
                f"{plan.ancestor} has {len(plan.inputs)} inputs ({', '.join(i.name for i in plan.inputs)}), "
                f"and {len(one)} were given. Give one tensor for each, in that order."
            )
        feeds = {spec.name: tensor.cpu().numpy() for spec, tensor in zip(plan.inputs, one, strict=True)}
        outputs = run_session(session, feeds, names)
        found.append(tuple(outputs[name] for name in names))
    return found


def compare_outputs(
    trace: Trace, expected: Sequence[tuple[Array, ...]], what: str, tolerance: float
) -> float:
    """Worst difference of outputs, relative to each one's largest number.

    Raises:
        NotEqualError: numbers or shapes of outputs differ, or the outputs themselves.
        VoidError: the outputs do not react to inputs.
    """
    worst, reaction = 0.0, 0.0
    for ours, theirs in zip(trace.outputs, expected, strict=True):
        if [one.shape for one in ours] != [one.shape for one in theirs]:
            raise NotEqualError(
                f"the module puts out {_shapes(ours)} and {what} {_shapes(theirs)}; is it the module that "
                "was exported, called with the inputs in the same order?"
            )
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            worst = max(worst, _difference(one, other, f"output {number} and that of {what}", tolerance))
    for one, other in zip(expected[0], expected[-1], strict=True):
        if one.shape == other.shape:
            reaction = max(reaction, _relative(one, other))
    if len(expected) > 1 and reaction <= _POWER * worst:
        raise VoidError(
            "The proof is void, and the module is left as it was: its outputs do not react to random inputs, "
            "so equality shows nothing. Give it example arguments with inputs=."
        )
    return worst


def compare_layers(
    masked: Trace,
    shrunk: Trace,
    kept: Mapping[str, Indices],
    layers: Mapping[str, nn.Module],
    tolerance: float,
) -> float:
    """Worst difference of what layers put out, of the channels that are left.

    Args:
        masked: full widths.
        shrunk: the same inputs.
        kept: per layer the outputs that are left.
        layers: by name.
        tolerance: relative.

    Raises:
        NotEqualError: some layer's differ.
    """
    worst = 0.0
    for before, after in zip(masked.layers, shrunk.layers, strict=True):
        for name, calls in before.items():
            axis = output_axis(layers[name])
            assert axis is not None
            if len(calls) != len(after[name]):
                raise NotEqualError(f"{name} is called {len(after[name])} times, masked {len(calls)} times")
            for one, other in zip(calls, after[name], strict=True):
                expected = np.take(one, kept[name], axis=axis)
                worst = max(worst, _difference(other, expected, f"what {name} puts out", tolerance))
    return worst


def _difference(one: Array, other: Array, what: str, tolerance: float) -> float:
    if one.shape != other.shape:
        raise NotEqualError(f"{what}: shapes {list(one.shape)} and {list(other.shape)}")
    found = _relative(one, other)
    if not found <= tolerance:
        raise NotEqualError(f"{what} differ by {found:.1e} of their largest number")
    return found


def _relative(one: Array, other: Array) -> float:
    if not one.size:
        return 0.0
    first, second = one.astype(np.float64), other.astype(np.float64)
    largest = float(np.max(np.abs(second)))
    difference = float(np.max(np.abs(first - second)))
    return difference / largest if largest else difference


def _flattened(result: Any) -> Iterator[Array]:
    """Tensors of a nested result, in the order in which exporters name them."""
    if isinstance(result, Tensor):
        yield _array(result)
    elif isinstance(result, Mapping):
        for one in result.values():
            yield from _flattened(one)
    elif isinstance(result, (list, tuple)):
        for one in result:
            yield from _flattened(one)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy().copy()  # code may go on to change it in place


def _shapes(arrays: Sequence[Array]) -> str:
    return ", ".join(str(list(one.shape)) for one in arrays) or "nothing"
