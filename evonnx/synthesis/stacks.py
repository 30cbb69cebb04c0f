"""A draw as rounding sees it: who stays before whom, family by family."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evonnx.dependency.coupling import ClassIds
from evonnx.masks import Mask
from evonnx.synthesis.layout import Kind

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """What was drawn, and what may become of it. All of shape (n_classes,)."""

    alive: Mask
    allowed: Mask
    """May live."""
    forced: Mask
    """Must live."""
    log_p: Vector
    order: NDArray[np.int64]
    """Who stays before whom: larger stays longer; each number once."""


class Stack:
    """The atoms of one kind, their members in the order in which they stay."""

    def __init__(self, kind: Kind, draft: Drawn) -> None:
        self.kind = kind
        padded = np.where(kind.members >= 0, kind.members, 0)
        usable = (kind.members >= 0) & draft.allowed[padded]
        rank = np.where(usable, draft.order[padded], -1)
        places = np.argsort(-rank, axis=1, kind="stable")
        self.sorted = np.take_along_axis(padded, places, axis=1)
        """Shape (A, M); usable ones first."""
        self.usable = usable.sum(axis=1)
        """Shape (A,)."""
        self.forced = (usable & draft.forced[padded]).sum(axis=1)
        self.drawn = int(np.count_nonzero(usable & draft.alive[padded]))
        log_p = np.where(np.arange(padded.shape[1]) < self.usable[:, None], draft.log_p[self.sorted], -np.inf)
        self.sums = np.concatenate([np.zeros((len(log_p), 1)), np.cumsum(log_p, axis=1)], axis=1)
        """Shape (A, M + 1): log probabilities of the first n members added up."""
        ranked = np.sort(log_p[np.isfinite(log_p)])[::-1]
        self.threshold = float(ranked[self.drawn - 1]) if 0 < self.drawn <= ranked.size else 0.0
        """Log probability of the last that would live if the most probable did."""

    @cached_property
    def most_by_lines(self) -> NDArray[np.int64]:
        """Members that each atom of the n + 1 best supplied lines can keep, shape (L,)."""
        order = np.argsort(self.kind.line, kind="stable")
        starts = np.flatnonzero(np.diff(self.kind.line[order], prepend=-1))
        return np.sort(np.minimum.reduceat(self.usable[order], starts))[::-1]

    def surviving(self, lines: Mask) -> Mask:
        """Atoms that do not go with a line, shape (A,)."""
        if not lines.size:
            return np.ones(len(self.kind.line), dtype=np.bool_)
        return (self.kind.line < 0) | lines[self.kind.line]

    def members(self, number: int, lines: Mask) -> ClassIds:
        """The first `number` members of every surviving atom."""
        return self.sorted[self.surviving(lines), :number].reshape(-1)
