"""DepthToSpace and SpaceToDepth with block size b, and Col2Im with blocks of b x b.

    DepthToSpace, DCR   y[n, c, h b + i, w b + j] = x[n, (i b + j) C + c, h, w]
    DepthToSpace, CRD   y[n, c, h b + i, w b + j] = x[n, (c b + i) b + j, h, w]
    Col2Im              as CRD, summed where blocks overlap
    SpaceToDepth        y[n, (i b + j) C + c, h, w] = x[n, c, h b + i, w b + j]

After DepthToSpace and Col2Im the b x b input channels of an output channel live and die together (their ids
are united), and it is zero where all of them are. After SpaceToDepth the ids of x stand b x b times in a row.
Block sizes stay: shapes follow from the channels.

- pins: followed spatial axes; a block shape that is not constant.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.dependency.coupling import AllOf, Taken
from evonnx.dependency.scope import Scope


class BlocksRule:
    """DepthToSpace, SpaceToDepth and Col2Im."""

    operators = frozenset({"DepthToSpace", "SpaceToDepth", "Col2Im"})
    size_slots: frozenset[int] = frozenset()

    def visit(self, node: ir.Node, scope: Scope) -> None:
        """See the module's algebra."""
        source, value = node.inputs[0], node.outputs[0]
        if source is None:
            return
        for axis, ids in scope.tracked(source).items():
            if axis == 0:
                scope.carry(value, 0, ids, scope.activation(source, 0))
                continue
            block = self._block(node, scope)
            if axis > 1 or block is None:
                scope.pin(ids, node, f"{node.op_type} interleaves them with channels")
                continue
            flow = scope.activation(source, 1)
            if node.op_type == "SpaceToDepth":
                repeated = np.tile(np.arange(ids.size), block)
                scope.carry(value, 1, ids[repeated], Taken(flow, repeated))
                continue
            crd = node.op_type == "Col2Im" or node.attributes.get_string("mode", "DCR") == "CRD"
            members = members_of_blocks(block, ids.size, crd=crd)
            for member in members[1:]:
                scope.unite(ids[members[0]], ids[member])
            terms = AllOf(tuple(Taken(flow, member) for member in members))
            scope.carry(value, 1, ids[members[0]], terms)

    def _block(self, node: ir.Node, scope: Scope) -> int | None:
        """Entries of a block; None where they are computed."""
        if node.op_type != "Col2Im":
            return node.attributes.get_int("blocksize", 1) ** 2
        shape = scope.constant(node.inputs[2])
        return None if shape is None else int(np.prod(shape.astype(np.int64)))


def members_of_blocks(block: int, channels: int, *, crd: bool) -> NDArray[np.int64]:
    """Which input channels make each output channel, shape (block, output channels)."""
    indices = np.arange(channels)
    return indices.reshape(-1, block).T if crd else indices.reshape(block, -1)
