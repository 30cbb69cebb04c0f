"""Inputs out of thin air, for models without data: from the graph's input shapes and the constants it begins
with.

What each input gets, decided by `plan_input`:

- floating point, image-like (rank 4 or 5) or a signal (at least 64 values along the last axis): smooth noise
  at several frequencies with constant patches, contrast and brightness drawn per example;
- other floating point: normal noise;
- in both cases with mean 0 and deviation 1 after the BatchNormalization, Sub, Add, Mul or Div by constants
  that the graph begins with (for BatchNormalization: with its own mean and variance), else as they are;
- recurrent state (by its name: h, c, state, hidden ...): normal noise of deviation 0.5, cut at 1;
- integers: ids below the size of the table that a Gather takes them to, else below 8; masks (by name) are
  ones; 8-bit images span 0 to 255;
- scalars: 16000 for a sampling rate (by name), else 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.network import Array, Network
from evonnx.onnx_io import constant_tensor
from evonnx.tasks.data.inputs import GraphInput

_SIGNAL_LENGTH = 64
_COARSEST = 4
_SAMPLING_RATES = ("sr", "sample_rate", "sampling_rate")
_STATES = (
    "h",
    "c",
    "h0",
    "c0",
    "hn",
    "cn",
    "h_0",
    "c_0",
    "hidden",
    "state",
    "cell",
    "hidden_state",
    "cell_state",
)
_AUDIO_DEVIATION = 0.1

Float = NDArray[np.float32]


@dataclass(frozen=True)
class SyntheticInput:
    """How one graph input is made up."""

    name: str
    shape: tuple[int, ...]
    """Of the input for one call: batch axis included, of size 1 where the model leaves it open."""
    what: str
    """In words, for the task's description."""
    make: Callable[[np.random.Generator], Array]
    """The input for one call, in the graph's dtype."""


def plan_input(
    graph_input: GraphInput, network: Network, *, one_example: bool, audio: bool
) -> SyntheticInput:
    """Decide how to make up one input; see the head of this module.

    Args:
        graph_input: which.
        network: its graph, for the constants that it begins with.
        one_example: axis 0 is the batch, so one example is made whatever batch the graph demands.
        audio: whether the model takes audio: signals then have a deviation of 0.1.
    """
    shape, dtype, name = _concrete(graph_input, one_example), graph_input.dtype, graph_input.name.lower()
    if not shape:
        value = 16000 if is_sampling_rate(graph_input) else 1
        return SyntheticInput(
            graph_input.name, shape, str(value), lambda rng: np.asarray(value).astype(dtype)
        )
    if not graph_input.is_float:
        return _integers(graph_input, shape, network)
    if name in _STATES:
        what = "state-like noise"
        return SyntheticInput(
            graph_input.name, shape, what, lambda rng: np.clip(_normal(shape, rng) * 0.5, -1, 1).astype(dtype)
        )
    axes = _smooth_axes(graph_input, shape)
    mean, deviation, why = _statistics(graph_input.name, shape, network)
    if audio and not why:
        deviation, why = np.full(1, _AUDIO_DEVIATION, np.float32), "deviation 0.1, as audio"
    what = f"{'smooth' if axes else 'normal'} noise, {why or 'mean 0, deviation 1'}"

    def make(rng: np.random.Generator) -> Array:
        plain = _rows_of_noise(shape, axes, rng) if axes else _normal(shape, rng)
        return np.asarray(plain * deviation + mean).astype(dtype)

    return SyntheticInput(graph_input.name, shape, what, make)


def is_sampling_rate(graph_input: GraphInput) -> bool:
    """Whether an input is a scalar with the name of a sampling rate."""
    return len(graph_input.declared) == 0 and graph_input.name.lower() in _SAMPLING_RATES


def _concrete(graph_input: GraphInput, one_example: bool) -> tuple[int, ...]:
    shape = graph_input.shape
    return (1, *shape[1:]) if one_example else shape


def _rows_of_noise(shape: tuple[int, ...], axes: Sequence[int], rng: np.random.Generator) -> Float:
    return np.stack([smooth_noise(shape[1:], axes, rng) for _ in range(shape[0])])


def _integers(graph_input: GraphInput, shape: tuple[int, ...], network: Network) -> SyntheticInput:
    dtype, name = graph_input.dtype, graph_input.name
    if dtype.kind == "b" or "mask" in name.lower():
        return SyntheticInput(name, shape, "ones", lambda rng: np.ones(shape, dtype))
    if dtype in (np.dtype(np.uint8), np.dtype(np.int8)) and len(shape) == 4:
        axes, middle = _smooth_axes(graph_input, shape), 128 if dtype == np.uint8 else 0

        def image(rng: np.random.Generator) -> Array:
            noise = _rows_of_noise(shape, axes, rng)
            return np.clip(np.rint(middle + 56 * noise), middle - 128, middle + 127).astype(dtype)

        return SyntheticInput(name, shape, "8-bit smooth noise", image)
    high = _table_size(name, network) or 8
    high = min(high, int(np.iinfo(dtype).max))
    return SyntheticInput(
        name, shape, f"ids below {high}", lambda rng: rng.integers(0, high, shape).astype(dtype)
    )


def _table_size(name: str, network: Network) -> int | None:
    """Rows of the smallest constant table that some Gather looks this input up in."""
    value = next(value for value in network.model.graph.inputs if value.name == name)
    sizes = []
    for use in value.uses():
        if use.node.op_type == "Gather" and use.idx == 1:
            table = constant_tensor(use.node.inputs[0])
            axis = use.node.attributes.get_int("axis", 0)
            if table is not None:
                sizes.append(int(table.shape.numpy()[axis]))
    return min(sizes, default=None)


def _smooth_axes(graph_input: GraphInput, shape: Sequence[int]) -> tuple[int, ...]:
    """Axes of one example along which neighbours are alike; none for plain vectors."""
    rank = len(shape)
    if rank >= 4:
        channels_last = rank == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)
        return (0, 1) if channels_last else tuple(range(1, rank - 1))
    if rank >= 2 and shape[-1] >= _SIGNAL_LENGTH:
        return (rank - 2,)
    return ()


def smooth_noise(shape: Sequence[int], axes: Sequence[int], rng: np.random.Generator) -> Float:
    """One example of mean about 0 and deviation about 1: noise at octaves of frequency, and constant patches.

    Args:
        shape: of the example.
        axes: along which it is smooth; the other axes (channels) share half of their variance where they are
            few.
        rng: decides all, the share of each octave and the contrast (0.5 to 1.5) and brightness (deviation
            0.5) too.
    """
    sizes = [tuple(shape)]
    while max(sizes[-1][axis] for axis in axes) > _COARSEST:
        sizes.append(tuple(-(-size // 2) if axis in axes else size for axis, size in enumerate(sizes[-1])))
    fade = rng.uniform(0.4, 1.0)  # amplitude of each octave relative to the one below it
    noise = _octave(sizes[-1], axes, rng)
    for size in reversed(sizes[:-1]):
        for axis in axes:
            noise = _stretch(noise, axis, size[axis])
        noise = noise + np.float32(fade) * _octave(size, axes, rng)
        noise *= np.float32(1 / np.sqrt(1 + fade**2))
    noise = (noise - noise.mean()) / np.float32(noise.std() + 1e-6)
    _add_patches(noise, axes, rng)
    return np.asarray(noise * np.float32(rng.uniform(0.5, 1.5)) + np.float32(rng.normal(0, 0.5)))


def _octave(shape: tuple[int, ...], axes: Sequence[int], rng: np.random.Generator) -> Float:
    own = _normal(shape, rng)
    few = np.prod([size for axis, size in enumerate(shape) if axis not in axes]) <= 4
    if not few:
        return own
    shared = _normal(tuple(size if axis in axes else 1 for axis, size in enumerate(shape)), rng)
    return (own + shared) * np.float32(np.sqrt(0.5))


def _add_patches(noise: Float, axes: Sequence[int], rng: np.random.Generator) -> None:
    for _ in range(rng.integers(0, 4)):
        where: list[slice] = [slice(None)] * noise.ndim
        for axis in axes:
            start, end = np.sort(rng.integers(0, noise.shape[axis] + 1, 2))
            where[axis] = slice(int(start), int(end))
        level = _normal(tuple(1 if axis in axes else size for axis, size in enumerate(noise.shape)), rng)
        noise[tuple(where)] = level


def _stretch(array: Float, axis: int, size: int) -> Float:
    """Linear interpolation along one axis to a larger size."""
    have = array.shape[axis]
    if have == 1:
        return np.repeat(array, size, axis=axis)
    at = np.linspace(0, have - 1, size)
    low = np.minimum(at.astype(np.int64), have - 2)
    part = (at - low).astype(np.float32).reshape([-1 if one == axis else 1 for one in range(array.ndim)])
    below, above = np.take(array, low, axis), np.take(array, low + 1, axis)
    return np.asarray(below + (above - below) * part)


def _normal(shape: tuple[int, ...], rng: np.random.Generator) -> Float:
    return rng.standard_normal(shape, dtype=np.float32)


def _statistics(name: str, shape: tuple[int, ...], network: Network) -> tuple[Float, Float, str]:
    """(mean, deviation, reason) that an input should have, by the constants that the graph applies to it
    first.

    The chain computes factor * x + shift; x is chosen so that this has mean 0 and deviation 1, or what a
    BatchNormalization at its end expects. Reason is "" where the graph begins with nothing of the kind.
    """
    value: ir.Value | None = next(value for value in network.model.graph.inputs if value.name == name)
    factor: Float = np.ones(1, np.float32)
    shift: Float = np.zeros(1, np.float32)
    mean: Float = np.zeros(1, np.float32)
    deviation: Float = np.ones(1, np.float32)
    seen: list[str] = []
    while value is not None and len(uses := list(value.uses())) == 1:
        node, place = uses[0].node, uses[0].idx
        if node.op_type == "BatchNormalization" and place == 0 and len(shape) >= 2:
            found = [constant_tensor(node.inputs[index]) for index in (3, 4)]
            if found[0] is None or found[1] is None:
                break
            channels = (1, -1, *(1 for _ in shape[2:]))
            mean = found[0].numpy().astype(np.float32).reshape(channels)
            deviation = np.sqrt(np.maximum(found[1].numpy().astype(np.float32), 0)).reshape(channels)
            seen.append(node.op_type)
            break
        if node.op_type in ("Add", "Sub", "Mul", "Div"):
            tensor = constant_tensor(node.inputs[1 - place])
            if tensor is None or not _broadcasts(tuple(tensor.shape.numpy()), shape):
                break
            constant = tensor.numpy().astype(np.float32)
            if node.op_type == "Add":
                shift = shift + constant
            elif node.op_type == "Sub":
                factor, shift = (factor, shift - constant) if place == 0 else (-factor, constant - shift)
            elif node.op_type == "Mul":
                factor, shift = factor * constant, shift * constant
            elif place == 1 or np.any(constant == 0):
                break
            else:
                factor, shift = factor / constant, shift / constant
            seen.append(node.op_type)
        elif node.op_type not in ("Identity", "Dropout"):
            break
        value = node.outputs[0]
    if not seen or np.any(factor == 0):
        return np.zeros(1, np.float32), np.ones(1, np.float32), ""
    return (
        (mean - shift) / factor,
        np.abs(deviation / factor),
        f"scaled for the graph's own {', '.join(seen)}",
    )


def _broadcasts(constant: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(constant, shape) == shape
    except ValueError:
        return False
