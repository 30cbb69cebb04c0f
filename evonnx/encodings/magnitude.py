"""Strength |w|: our reading of the paper, whose strengths are weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evonnx.encodings._base import express_elementwise
from evonnx.genome import Expression, Parent


@dataclass(frozen=True)
class Magnitude:
    """The absolute weight, excitatory and inhibitory alike."""

    name: str = "magnitude"

    def express(self, parent: Parent, truncation: float) -> Expression:
        """Equations 4 and 5 on |w|."""
        return express_elementwise(parent, truncation, np.abs)
