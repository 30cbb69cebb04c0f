"""Lineage: which of the ancestor's indices every cut axis has kept, carried inside the model file.

Stored under the metadata key `evonnx.lineage` as JSON:
`{"version": 1, "axes": [[name, axis, [start, length, start, length, ...]], ...]}`, runs of consecutive
indices. Files are not trusted: what is read is bounded and checked, and never used to index unchecked.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx_ir as ir

from evonnx.compaction.plan import Indices, Lineage
from evonnx.errors import ModelError

KEY = "evonnx.lineage"
_LONGEST_TEXT = 1 << 26
_MOST_INDICES = 1 << 26
_LARGEST_INDEX = 1 << 40


def compose_lineage(parent: Lineage, child: Lineage) -> dict[tuple[str, int], Indices]:
    """Lineage of the child against the parent's ancestor.

    Args:
        parent: the parent's indices in the ancestor.
        child: the child's indices in the parent.

    Raises:
        ModelError: the child names an index that the parent does not have.
    """
    composed = {key: np.asarray(kept, dtype=np.int64) for key, kept in parent.items()}
    for key, kept in child.items():
        before = composed.get(key)
        if before is None:
            composed[key] = np.asarray(kept, dtype=np.int64)
            continue
        if kept.size and (kept.min() < 0 or kept.max() >= before.size):
            raise ModelError(
                f"The lineage of {key[0]!r} axis {key[1]} has {before.size} entries, fewer than the axis "
                f"itself: the file was changed after evonnx wrote it. Remove its metadata entry {KEY!r} to "
                "start anew."
            )
        composed[key] = before[kept]
    return composed


def read_lineage(model: ir.Model) -> dict[tuple[str, int], Indices]:
    """Lineage as stored in a model; empty for one that evonnx never cut.

    Raises:
        ModelError: the entry is not what evonnx writes, or does not fit the model's constants.
    """
    text = model.metadata_props.get(KEY)
    if text is None:
        return {}
    try:
        if len(text) > _LONGEST_TEXT:
            raise ValueError("it is too long")
        return _parse(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(
            f"The model's metadata entry {KEY!r} is damaged ({error}). Remove it to start a new lineage."
        ) from error


def write_lineage(model: ir.Model, lineage: Lineage) -> None:
    """Store lineage in a model, in place; an empty one removes the entry."""
    if not lineage:
        model.metadata_props.pop(KEY, None)
        return
    axes = [[name, axis, _runs(kept)] for (name, axis), kept in sorted(lineage.items())]
    model.metadata_props[KEY] = json.dumps({"version": 1, "axes": axes}, separators=(",", ":"))


def _runs(kept: Indices) -> list[int]:
    if not kept.size:
        return []
    breaks = np.flatnonzero(np.diff(kept) != 1) + 1
    starts = kept[np.concatenate(([0], breaks))]
    lengths = np.diff(np.concatenate(([0], breaks, [kept.size])))
    runs: list[int] = np.stack([starts, lengths], axis=1).ravel().tolist()
    return runs


def _parse(document: Any) -> dict[tuple[str, int], Indices]:
    if (
        not isinstance(document, dict)
        or document.get("version") != 1
        or not isinstance(document.get("axes"), list)
    ):
        raise ValueError("it is not version 1")
    found: dict[tuple[str, int], Indices] = {}
    total = 0
    for entry in document["axes"]:
        name, axis, runs = entry
        if (
            not isinstance(name, str)
            or type(axis) is not int
            or not 0 <= axis < 64
            or not isinstance(runs, list)
        ):
            raise ValueError("an entry is not [name, axis, runs]")
        if len(runs) % 2 or any(
            type(number) is not int or not 0 <= number < _LARGEST_INDEX for number in runs
        ):
            raise ValueError("runs are not pairs of numbers")
        starts, lengths = runs[::2], runs[1::2]
        total += sum(lengths)
        if total > _MOST_INDICES:
            raise ValueError("it names too many indices")
        if (name, axis) in found:
            raise ValueError("an axis appears twice")
        parts = [
            np.arange(start, start + length, dtype=np.int64)
            for start, length in zip(starts, lengths, strict=True)
        ]
        kept = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        if np.any(np.diff(kept) <= 0):
            raise ValueError("indices do not ascend")
        found[name, axis] = kept
    return found
