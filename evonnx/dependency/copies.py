"""Axes along which a tensor repeats one entry, because an Expand or Tile spread it there."""

from __future__ import annotations

import onnx_ir as ir

from evonnx.dependency.ids import IdArray
from evonnx.dependency.scope import Scope


def shorten_copies(scope: Scope, value: ir.Value, axis: int, ids: IdArray) -> bool:
    """Let an activation that repeats one entry along `axis` repeat it once per channel that is kept.

    Args:
        scope: the walk.
        value: the activation; `axis` of it is not followed.
        axis: the axis.
        ids: what it meets there, shape (length,).

    Returns:
        Whether it can be done: the copies are made by an Expand to a constant shape or a Tile by constant
        numbers, of one entry along this axis, and only one node reads them.
    """
    node = value.producer()
    if node is None or node.op_type not in ("Expand", "Tile") or not scope.private(value):
        return False
    before, numbers = scope.shape(node.inputs[0]), scope.constant(node.inputs[1])
    if before is None or numbers is None:
        return False
    # Axes are aligned from the right; an axis that the source lacks has one entry.
    back = axis - len(scope.shape(value) or ())
    one_entry = len(before) + back < 0 or before[back] == 1
    if not one_entry or numbers.size + back < 0 or int(numbers.ravel()[back]) != ids.size:
        return False
    scope.claim(node, 1)
    scope.count(node, 1, numbers.size + back, ids)
    scope.carry(value, axis, ids)
    return True
