"""What an environment is made of: a factor that is scarce, and how much of it an offspring may use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from evonnx.errors import BudgetError
from evonnx.masks import Masks
from evonnx.network import Network


@runtime_checkable
class EnvironmentFactor(Protocol):
    """Something that offspring have to be sparing with. Constructed without arguments.

    Solving needs a price per synapse and layer; the hard bound is held on what `measure` says. For synapses
    and MACs the two agree. For bytes or milliseconds, which depend on how many channels are left, the price
    is the local slope and `measure` has the last word.
    """

    @property
    def name(self) -> str:
        """Short name, such as "synapses"."""
        ...

    @property
    def unit(self) -> str:
        """Unit of amounts, such as "synapses" or "ms"."""
        ...

    @property
    def hard(self) -> bool:
        """Whether a sample may never be above its bound (else the bound is a target)."""
        ...

    def prices(self, network: Network) -> Mapping[str, float]:
        """Amount that one live synapse of each layer costs, by weight name.

        Raises:
            BudgetError: the amount cannot be known for some layer; the message names it.
        """
        ...

    def measure(self, network: Network, masks: Masks) -> float:
        """Amount that the network needs under these masks (closed under removal)."""
        ...


@dataclass(frozen=True)
class Budget:
    """At most `share` of what the parent uses of a factor."""

    share: float
    """In (0, 1]."""
    factor: str | EnvironmentFactor = "synapses"
    """A built-in one by name, or any object that follows the protocol."""

    def __post_init__(self) -> None:
        """Check the share.

        Raises:
            BudgetError: it is not in (0, 1].
        """
        if not (math.isfinite(self.share) and 0 < self.share <= 1):
            raise BudgetError(f"A budget keeps a share in (0, 1] of its parent, not {self.share}.")


def priced(prices: Mapping[str, float], masks: Masks) -> float:
    """Total price of the live synapses: what `measure` is for a factor that is linear in synapses."""
    return sum(price * np.count_nonzero(masks[name]) for name, price in prices.items())
