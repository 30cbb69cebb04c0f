"""What a dependency rule is. A rule knows one family of operators; it knows no other rule.

A rule file opens with its algebra: which axis of which tensor maps to which, supported cases, cases that pin.
Rules come in through the entry points `evonnx.dependency_rules`, the built-in ones by the same door.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import onnx_ir as ir

from evonnx.dependency.scope import Scope


@runtime_checkable
class Rule(Protocol):
    """One family of operators. Constructed without arguments."""

    operators: frozenset[str]
    """Operator types of the default domain, or `domain::OpType`."""

    size_slots: frozenset[int]
    """Inputs at which this rule takes shapes computed at run time (`Scope.sizes_at`); at any other input the
    channels that such a shape depends on are pinned."""

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """Relate the channels of the node's inputs and outputs.

        Every followed axis of every input must be carried to an output, contracted with a weight, or pinned
        with the reason; constants that must change with the channels are registered (`vector`, `count`,
        `reindex`).
        """
        ...


def normalized_axis(axis: int, rank: int) -> int:
    """A non-negative axis."""
    return axis + rank if axis < 0 else axis
