"""Union-find over integer ids, vectorised: the ground on which channels are followed by index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IdArray = NDArray[np.int64]


class UnionFind:
    """Disjoint sets of integers 0 .. len - 1. The representative of a set is its smallest member.

    Both operations take whole arrays; `find` halves the paths that it walks.
    """

    def __init__(self) -> None:
        self._parent: IdArray = np.zeros(64, dtype=np.int64)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def grow(self, count: int) -> IdArray:
        """`count` new singletons, as an array of ids, shape (count,)."""
        start, end = self._size, self._size + count
        if end > self._parent.size:
            larger = np.zeros(max(end, 2 * self._parent.size), dtype=np.int64)
            larger[:start] = self._parent[:start]
            self._parent = larger
        fresh = np.arange(start, end, dtype=np.int64)
        self._parent[start:end] = fresh
        self._size = end
        return fresh.copy()

    def find(self, ids: IdArray) -> IdArray:
        """Representatives of `ids`, in the same shape."""
        parent = self._parent
        roots = parent[ids]
        while True:
            above = parent[roots]
            if np.array_equal(above, roots):
                break
            parent[ids] = above
            roots = above
        parent[ids] = roots
        return roots

    def unite(self, one: IdArray, other: IdArray) -> None:
        """Unite `one[i]` with `other[i]` for every i (arrays of equal shape)."""
        one, other = one.ravel(), other.ravel()
        while True:
            roots_one, roots_other = self.find(one), self.find(other)
            apart = roots_one != roots_other
            if not apart.any():
                return
            one, other = roots_one[apart], roots_other[apart]
            # A parent is always smaller than its child, so however many pairs meet at one root there is no
            # cycle; pairs that lost the race are still apart in the next round.
            np.minimum.at(self._parent, np.maximum(one, other), np.minimum(one, other))
