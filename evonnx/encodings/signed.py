"""Strength w: the paper to its letter. Inhibitory (negative) synapses have no strength and die first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evonnx.encodings._base import express_elementwise
from evonnx.genome import Expression, Parent


def _excitation(weights: NDArray[np.floating]) -> NDArray[np.floating]:
    # Negative weights count as 0, so that P stays in [1/e, 1] at T = 1.
    return np.asarray(np.maximum(weights, 0))


@dataclass(frozen=True)
class Signed:
    """The weight itself, negative ones counted as 0."""

    name: str = "signed"

    def express(self, parent: Parent, truncation: float) -> Expression:
        """Equations 4 and 5 on max(w, 0)."""
        return express_elementwise(parent, truncation, _excitation)
