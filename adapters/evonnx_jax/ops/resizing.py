"""Resize and Upsample, axis by axis: the nearest entry, or the mean of two by their distance.

Where along an axis an output entry looks is asked of onnx's reference implementation: resizing the numbers
0, 1, 2, ... gives these places, whatever the conventions.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from evonnx_jax.known import evaluate
from evonnx_jax.ops._base import Call, Unsupported, operator
from evonnx_training.graph import Node

_OPSET = 18
_MODES = ("nearest", "linear")


def _along(x: Array, axis: int, places: NDArray[Any]) -> Array:
    """Entries at places between 0 and the last one."""
    low = np.floor(places).astype(np.int32)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    share = (places - low).astype(np.float32).reshape(-1, *[1] * (x.ndim - 1 - axis))
    below: Array = jnp.take(x, low, axis)
    if not share.any():
        return below
    above: Array = jnp.take(x, high, axis)
    return below + jnp.asarray(share) * (above - below)


def _resized(call: Call, scales: list[float], sizes: list[int], attributes: dict[str, Any]) -> Array:
    """Resize by scales, or to sizes where these are given."""
    x = call.data()
    mode = attributes["mode"]
    if mode not in _MODES or attributes.get("antialias"):
        raise Unsupported(f"mode {mode!r}{' with antialias' if attributes.get('antialias') else ''}")
    if attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise Unsupported("tf_crop_and_resize")
    if scales and attributes.get("coordinate_transformation_mode") == "align_corners":
        # onnxruntime aligns with the last entry there is, not with where a fraction of one would end.
        scales, sizes = [], [int(length * scale) for length, scale in zip(x.shape, scales, strict=True)]
    for axis in range(x.ndim):
        if (scales and scales[axis] == 1) or (sizes and sizes[axis] == x.shape[axis]):
            continue
        by = [None, np.array([scales[axis]], np.float32)] if scales else [None, None, np.array([sizes[axis]])]
        node = Node("Resize", "places", attributes, ("x", "", "scales", "sizes")[: 1 + len(by)], ("y",), {})
        (places,) = evaluate(node, [np.arange(x.shape[axis], dtype=np.float64), *by], _OPSET)
        x = _along(x, axis, places)
    return x


@operator("Upsample")
def upsample(call: Call) -> Array:
    """As Resize was before it had conventions."""
    scales = call.content(1).reshape(-1).tolist() if call.has(1) else list(call.attr("scales"))
    return _resized(call, scales, [], _old(call))


def _old(call: Call) -> dict[str, Any]:
    return {
        "mode": call.attr("mode", "nearest"),
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }


@operator("Resize")
def resize(call: Call) -> Array:
    """By scales or to sizes."""
    x = call.value(0)
    if call.opset < 11:
        return _resized(call, call.content(1).reshape(-1).tolist(), [], _old(call))
    names = ("coordinate_transformation_mode", "nearest_mode", "antialias")
    attributes = {name: call.attr(name) for name in names if call.attr(name) is not None}
    attributes["mode"] = call.attr("mode", "nearest")
    axes = [int(axis) % x.ndim for axis in call.attr("axes") or range(x.ndim)]
    if call.has(2) and call.content(2).size:
        scales = [1.0] * x.ndim
        for axis, scale in zip(axes, call.content(2).reshape(-1).tolist(), strict=True):
            scales[axis] = scale
        return _resized(call, scales, [], attributes)
    if call.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("keep_aspect_ratio_policy")
    sizes = list(x.shape)
    for axis, length in zip(axes, call.ints(3), strict=True):
        sizes[axis] = length
    return _resized(call, [], sizes, attributes)
