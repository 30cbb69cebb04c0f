"""A plan as one safetensors file: arrays by name, everything else as JSON in its metadata.

    mask/NAME          bool, the tensor's stored shape: which numbers live; absent where all do
    kept/NAME:AXIS     int64, ascending: indices that stay; absent where all do
    class/NAME:AXIS    int64: the channel class of each index
    sketch/NAME        float64, shape (9,)
    count/N            int64: classes that the Nth number of "counts" hangs on

Files are not trusted: everything read is checked before it is used as an index.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from evonnx.durable import write_whole
from evonnx.errors import PlanError
from evonnx.module_plan.plan import Count, Flags, InputPlan, ModulePlan, TensorPlan
from evonnx.module_plan.sketch import SIZE, is_floating
from evonnx.network import Relayout
from evonnx.untrusted import fault_of_file

Arrays = dict[str, NDArray[Any]]
VERSION = 1
_LARGEST = 1 << 36
_MOST_CLASSES = 1 << 32


def save_plan(path: str | Path, plan: ModulePlan) -> None:
    """Write a plan, whole or not at all.

    Raises:
        PlanError: it cannot be written; what was there before is untouched.
    """
    arrays: Arrays = {}
    for name, tensor in plan.tensors.items():
        arrays[f"sketch/{name}"] = tensor.sketch
        arrays |= {f"class/{name}:{axis}": ids for axis, ids in tensor.axes.items()}
        arrays |= {f"kept/{name}:{axis}": kept for axis, kept in tensor.kept(plan.flags).items()}
        if tensor.mask is not None:
            arrays[f"mask/{name}"] = tensor.mask
    arrays |= {f"count/{number}": count.classes for number, count in enumerate(plan.counts)}
    content = save(
        {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)},
        metadata={"evonnx.plan": json.dumps(_document(plan), allow_nan=False)},
    )
    try:
        write_whole(Path(path), content)
    except OSError as error:
        raise PlanError(
            f"Cannot write {path}: {error.strerror or error}. Check the folder and the free space."
        ) from error


def load_plan(path: str | Path) -> ModulePlan:
    """Read a plan.

    Raises:
        PlanError: the file is missing, damaged, or no plan of evonnx.
    """
    path = Path(path)
    try:
        if fault := fault_of_file(path, _LARGEST):
            raise PlanError(f"{path} {fault}; it was not written by evonnx plan.")
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise PlanError(f"{path} cannot be read ({error}). Make it with `evonnx plan`.") from error
    try:
        return _plan(json.loads(metadata["evonnx.plan"]), arrays)
    except (ValueError, TypeError, KeyError, AttributeError, LookupError, RecursionError) as error:
        raise PlanError(
            f"{path} is not a plan that this version wrote ({type(error).__name__}: {error}). "
            "Make it with `evonnx plan`."
        ) from error


def _document(plan: ModulePlan) -> dict[str, Any]:
    return {
        "version": VERSION,
        "ancestor": plan.ancestor,
        "offspring": plan.offspring,
        "classes": int(plan.flags.size),
        "inputs": [vars(one) for one in plan.inputs],
        "counts": [
            {name: value for name, value in vars(one).items() if name != "classes"} for one in plan.counts
        ],
        "kept_whole": plan.kept_whole,
        "tensors": [
            {
                "name": tensor.name,
                "shape": tensor.shape,
                "dtype": tensor.dtype,
                "axes": sorted(tensor.axes),
                "cut": sorted(tensor.kept(plan.flags)),
                "masked": tensor.mask is not None,
                "bias": tensor.bias,
                "zeroed": tensor.zeroed,
                "relayouts": [vars(step) for step in tensor.relayouts],
            }
            for tensor in plan.tensors.values()
        ],
    }


def _plan(document: Mapping[str, Any], arrays: Arrays) -> ModulePlan:
    _require(document["version"] == VERSION, "another version wrote it")
    _require(0 <= document["classes"] < _MOST_CLASSES, "it has too many classes")
    flags = np.zeros(document["classes"], dtype=np.bool_)
    tensors = {}
    for entry in document["tensors"]:
        tensor = _tensor(entry, arrays, flags.size)
        tensors[tensor.name] = tensor
        for axis, ids in tensor.axes.items():
            key = f"kept/{tensor.name}:{axis}"
            kept = arrays[key] if axis in entry["cut"] else np.arange(ids.size)
            _require(_indices(kept, ids.size), f"kept indices of {tensor.name!r} are none")
            flags[ids.reshape(-1)[kept]] = True
    counts = []
    for number, entry in enumerate(document["counts"]):
        classes = arrays[f"count/{number}"]
        _require(_indices(classes, flags.size), f"classes of count {number} are none")
        counts.append(Count(**entry, classes=classes))
    return ModulePlan(
        ancestor=str(document["ancestor"]),
        offspring=str(document["offspring"]),
        tensors=tensors,
        flags=_consistent(tensors, flags, arrays),
        counts=tuple(counts),
        inputs=tuple(
            InputPlan(str(one["name"]), str(np.dtype(one["dtype"])), tuple(map(int, one["shape"])))
            for one in document["inputs"]
        ),
        kept_whole=tuple(map(str, document["kept_whole"])),
    )


def _tensor(entry: Mapping[str, Any], arrays: Arrays, n_classes: int) -> TensorPlan:
    name, shape = str(entry["name"]), tuple(map(int, entry["shape"]))
    _require(len(shape) < 64 and min(shape, default=0) >= 0, f"{name!r} has no shape")
    _require(is_floating(np.dtype(entry["dtype"])), f"{name!r} is not of floating point")
    axes = {int(axis): arrays[f"class/{name}:{axis}"] for axis in entry["axes"]}
    for axis, ids in axes.items():
        _require(0 <= axis < len(shape), f"{name!r} has no axis {axis}")
        _require(_indices(ids.reshape(-1), n_classes, ascending=False), f"classes of {name!r} are none")
        within = ids.ndim == 2 and axis == 1 and 0 in axes and ids.shape[0] > 0 == shape[0] % ids.shape[0]
        _require(
            (ids.ndim == 1 or within) and ids.shape[-1] == shape[axis], f"classes of {name!r} do not fit"
        )
    mask, sketched = arrays[f"mask/{name}"] if entry["masked"] else None, arrays[f"sketch/{name}"]
    _require(
        mask is None or (mask.dtype == np.bool_ and mask.shape == shape), f"its mask does not fit {name!r}"
    )
    _require(sketched.dtype == np.float64 and sketched.shape == (SIZE,), f"{name!r} has no sketch")
    return TensorPlan(
        name=name,
        shape=shape,
        dtype=str(np.dtype(entry["dtype"])),
        sketch=sketched,
        axes=axes,
        mask=mask,
        bias=None if entry["bias"] is None else str(entry["bias"]),
        zeroed=bool(entry["zeroed"]),
        relayouts=tuple(
            Relayout(str(one["kind"]), tuple(map(int, one["argument"])), tuple(map(int, one["source_shape"])))
            for one in entry["relayouts"]
        ),
    )


def _consistent(tensors: Mapping[str, TensorPlan], flags: Flags, arrays: Arrays) -> Flags:
    """Flags, if every axis keeps what the file says of it and no more."""
    for name, tensor in tensors.items():
        for axis, kept in tensor.kept(flags).items():
            _require(
                np.array_equal(kept, arrays[f"kept/{name}:{axis}"]), f"{name!r} does not fit its classes"
            )
    return flags


def _indices(array: NDArray[Any], length: int, *, ascending: bool = True) -> bool:
    """Whether an array can be used to index an axis."""
    if array.dtype != np.int64 or array.ndim != 1:
        return False
    if ascending and np.any(np.diff(array) <= 0):
        return False
    return not array.size or bool(array.min() >= 0 and array.max() < length)


def _require(right: bool, otherwise: str) -> None:
    if not right:
        raise ValueError(otherwise)
