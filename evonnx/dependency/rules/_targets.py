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
    """The entry at `position` of input `slot` is the length of an axis with these ids (None: not followed).

    A number is rewritten; a length computed from a followed axis follows by itself, and both go together;
    anything else pins.
    """
    if not isinstance(entry, Size):
        scope.need_number(entry, ids)
        if ids is not None and scope.constant(node.inputs[slot]) is not None:
            scope.claim(node, slot)
            scope.count(node, slot, position, ids)
        elif ids is not None and not isinstance(entry, Number):
            scope.pin(ids, node, f"{node.op_type} is told their number by a part of a computed shape")
        return
    if isinstance(entry, Size) and ids is not None and entry.exact and len(entry.depends) == 1:
        (key,) = entry.depends
        if scope.same(ids, scope.counted(*key)):
            return
    other = follows(scope, entry)
    if ids is not None and other is not None and other.size == ids.size:
        scope.bind(ids, other)  # the node needs the same number of both
        return
    if entry.depends:
        scope.pin_sizes(
            np.asarray([entry], dtype=object), node, f"{node.op_type} uses their number otherwise"
        )
    if ids is not None:
        scope.pin(ids, node, f"{node.op_type} sets their number at run time")


def follows(scope: Scope, entry: object) -> IdArray | None:
    """Ids of the one followed axis whose length this entry is."""
    if not isinstance(entry, Size) or not entry.exact or len(entry.depends) != 1:
        return None
    return scope.axes.get(next(iter(entry.depends)))
