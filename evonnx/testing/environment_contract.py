"""What every environment factor must do; the built-in ones run this too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evonnx.environment import EnvironmentFactor
from evonnx.masks import live_masks
from evonnx.network import Network, load_network
from evonnx.testing.models import save, tiny_classifier


class EnvironmentFactorContract:
    """Override `factor`, an instance of what the entry point names."""

    @pytest.fixture
    def factor(self) -> EnvironmentFactor:
        """The factor under test."""
        raise NotImplementedError("override the fixture `factor`")

    @pytest.fixture
    def network(self, tmp_path: Path) -> Network:
        """A small network whose shapes are all known."""
        return load_network(save(tiny_classifier(), tmp_path / "model.onnx"))

    def test_follows_the_protocol(self, factor: EnvironmentFactor) -> None:
        """Name, unit, hardness and both methods are there."""
        assert isinstance(factor, EnvironmentFactor)
        assert factor.name
        assert factor.unit
        assert isinstance(factor.hard, bool)

    def test_prices_every_layer(self, factor: EnvironmentFactor, network: Network) -> None:
        """A finite price of at least 0 for each prunable weight, above 0 for some."""
        prices = factor.prices(network)
        assert set(prices) == set(network.weights)
        assert all(np.isfinite(price) and price >= 0 for price in prices.values())
        assert any(price > 0 for price in prices.values())

    def test_fewer_synapses_never_need_more(self, factor: EnvironmentFactor, network: Network) -> None:
        """The amount falls, or stays, as synapses die; it is finite and at least 0."""
        rng = np.random.default_rng(3)
        order = {name: rng.random(mask.shape) for name, mask in live_masks(network).items()}
        amounts = [
            factor.measure(network, {name: rank < share for name, rank in order.items()})
            for share in (1.1, 0.8, 0.5, 0.2)
        ]
        assert all(np.isfinite(amount) and amount >= 0 for amount in amounts)
        assert amounts == sorted(amounts, reverse=True)
        assert amounts[0] > 0

    def test_measuring_repeats(self, factor: EnvironmentFactor, network: Network) -> None:
        """The same masks need the same amount."""
        masks = live_masks(network)
        assert factor.measure(network, masks) == factor.measure(network, masks)
