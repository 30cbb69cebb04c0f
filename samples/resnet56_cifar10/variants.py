"""Encodings that the README's comparison needs: `--encoding samples/resnet56_cifar10/variants.py:blind`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from evonnx.encodings import adaptive
from evonnx.encodings.first_order import FirstOrder
from evonnx.encodings.layer_adaptive import LayerAdaptive
from evonnx.genome import Expression, Parent, Strength


@dataclass(frozen=True)
class Blind:
    """A strength that does not look at what is scarce: a synapse is as strong wherever it is used."""

    strength: Strength

    @property
    def name(self) -> str:
        """As in records."""
        return f"{self.strength.name}, blind to prices"

    @property
    def from_gradients(self) -> bool:
        """As its own."""
        return bool(getattr(self.strength, "from_gradients", False))

    def express(self, parent: Parent, truncation: float) -> Expression:
        """Its own of the parent without prices."""
        return self.strength.express(replace(parent, prices=None), truncation)


_sharp = replace(adaptive, cluster_selectivity=0.02, synapse_selectivity=0.02, cluster_share=0.3)

blind = replace(_sharp, strength=Blind(LayerAdaptive()))
"""As ../encodings.py:sharp without prices."""

blind_gradients = replace(_sharp, strength=Blind(FirstOrder()))
"""As ../encodings.py:sharp_gradients without prices."""
