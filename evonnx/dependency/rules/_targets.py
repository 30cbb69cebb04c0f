"""Lengths that a node is told, entry by entry, by a constant or computed shape (Resize sizes, Expand)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from evonnx.dependency.ids import IdArray
from evonnx.dependency.scope import Scope
from evonnx.dependency.sizes import Number, Size


def follow_entry(
    node: ir.Node, scope: Scope, slot: int, position: int, entry: object, ids: IdArray | None
) -> None:
    """The entry at `position` of input `slot` is the length of an axis that counts these ids (None: not
    followed).

    A number is rewritten where it is written down; a length computed from a followed axis follows by itself,
    and both go together; anything else pins.
    """
    if not isinstance(entry, Size):
        scope.need_number(entry, ids)
        if ids is None:
            return
        if scope.constant(node.inputs[slot]) is not None:
            scope.claim(node, slot)
            scope.count(node, slot, position, ids)
        elif not isinstance(entry, Number):
            scope.pin(ids, node, f"{node.op_type} is told their number by arithmetic on constants")
        return
    other = counted_by(scope, entry)
    if other is not None and ids is not None:
        if other.ndim == ids.ndim == 1 and other.size == ids.size:
            scope.bind(ids, other)  # the node needs the same number of both
            return
        if scope.same(ids, other):
            return
    if entry.depends:
        scope.pin_sizes(
            np.asarray([entry], dtype=object), node, f"{node.op_type} uses their number otherwise"
        )
    if ids is not None:
        scope.pin(ids, node, f"{node.op_type} sets their number at run time")


def counted_by(scope: Scope, entry: object) -> IdArray | None:
    """What an entry counts, if it is the length of one followed axis: ids, shape (n,), or rows (..., n)."""
    if not isinstance(entry, Size) or not entry.exact or len(entry.depends) != 1:
        return None
    return scope.counted(*next(iter(entry.depends)))
