"""Operators that only lay entries out anew."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from evonnx_jax.ops._base import Call, Unsupported, operator


@operator("Shape")
def shape(call: Call) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The lengths of the axes: known, whatever the data."""
    start, end = call.attr("start", 0), call.attr("end")
    return np.array(call.value(0).shape[start:end], np.int64)


@operator("Size")
def size(call: Call) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The number of entries: known, whatever the data."""
    return np.array(call.value(0).size, np.int64)


@operator("Reshape")
def reshape(call: Call) -> Array:
    """0 stands for the axis's own length (unless `allowzero`), -1 for what is left over."""
    x = call.data()
    wanted = call.ints_from("shape", 1) or ()
    if not call.attr("allowzero", 0):
        wanted = tuple(x.shape[i] if length == 0 else length for i, length in enumerate(wanted))
    return x.reshape(wanted)


@operator("Flatten")
def flatten(call: Call) -> Array:
    """Axes before `axis` become one, those from it on the other."""
    x = call.data()
    axis = int(call.attr("axis", 1))
    axis = axis + x.ndim if axis < 0 else axis
    rows = int(np.prod(x.shape[:axis]))
    return x.reshape(rows, int(np.prod(x.shape[axis:])))


@operator("Transpose")
def transpose(call: Call) -> Array:
    """Axes in another order; mirrored where none is given."""
    return jnp.transpose(call.data(), call.attr("perm"))


@operator("Squeeze")
def squeeze(call: Call) -> Array:
    """Without the axes named, or all of length 1."""
    return jnp.squeeze(call.data(), call.ints_from("axes", 1))


@operator("Unsqueeze")
def unsqueeze(call: Call) -> Array:
    """With axes of length 1 more."""
    return jnp.expand_dims(call.data(), call.ints_from("axes", 1) or ())


@operator("Concat")
def concat(call: Call) -> Array:
    """One behind the other."""
    return jnp.concatenate([jnp.asarray(value) for value in call.given()], int(call.attr("axis")))


@operator("Split")
def split(call: Call) -> tuple[Array, ...]:
    """Pieces along an axis: of the sizes given, else as even as `num_outputs` or the outputs allow."""
    x, axis = call.data(), call.axis(0)
    sizes = call.ints_from("split", 1)
    if sizes is None:
        count = int(call.attr("num_outputs", len(call.node.outputs)))
        each = -(-x.shape[axis] // count)
        sizes = tuple(min(each, x.shape[axis] - place * each) for place in range(count))
    return tuple(jnp.split(x, np.cumsum(sizes)[:-1].tolist(), axis))


@operator("Expand")
def expand(call: Call) -> Array:
    """Repeated along axes of length 1, in both directions."""
    x = call.data()
    return jnp.broadcast_to(x, np.broadcast_shapes(x.shape, call.ints(1)))


@operator("Tile")
def tile(call: Call) -> Array:
    """Repeated as a whole."""
    return jnp.tile(call.data(), call.ints(1))


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Array:
    """Channels become blocks of pixels."""
    x, block = call.data(), int(call.attr("blocksize"))
    n, c, h, w = x.shape
    if call.attr("mode", "DCR") == "DCR":
        parts = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // block**2, h * block, w * block)


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Array:
    """Blocks of pixels become channels."""
    x, block = call.data(), int(call.attr("blocksize"))
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block).transpose(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block**2, h // block, w // block)


@operator("Trilu")
def triangle(call: Call) -> Array:
    """The entries on one side of a diagonal of the last two axes, 0 elsewhere."""
    diagonal = call.ints(1)[0] if call.has(1) else 0
    return (jnp.triu if call.attr("upper", 1) else jnp.tril)(call.data(), diagonal)


_MODES = ("constant", "reflect", "edge", "wrap")


@operator("Pad")
def pad(call: Call) -> Array:
    """Entries around; fewer where a number is negative."""
    x = call.data()
    given = call.ints_from("pads", 1) or ()
    axes = call.ints(3) if call.has(3) else tuple(range(x.ndim))
    pads = [(0, 0)] * x.ndim
    for place, axis in enumerate(axes):
        pads[axis % x.ndim] = given[place], given[place + len(axes)]
    mode = call.attr("mode", "constant")
    if mode not in _MODES:
        raise Unsupported(f"mode {mode!r}")
    cut = tuple(
        slice(max(0, -begin), length - max(0, -end))
        for length, (begin, end) in zip(x.shape, pads, strict=True)
    )
    added = [(max(0, begin), max(0, end)) for begin, end in pads]
    if mode == "constant":
        value = jnp.asarray(call.value(2)).reshape(()) if call.has(2) else call.attr("value", 0)
        return jnp.pad(x[cut], added, constant_values=value)
    return jnp.pad(x[cut], added, mode)
