"""What every encoding must do; the built-in ones run this too."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from evonnx.clusters import Granularity, find_clusters
from evonnx.dependency import analyse
from evonnx.genome import Encoding, Genome, encode, needs_gradients
from evonnx.masks import Masks, live_masks
from evonnx.network import Network, load_network
from evonnx.testing.models import save, tiny_classifier

Floats = NDArray[np.float32]


class EncodingContract:
    """Override `encoding`, the object that the entry point names."""

    @pytest.fixture
    def encoding(self) -> Encoding:
        """The encoding under test."""
        raise NotImplementedError("override the fixture `encoding`")

    @pytest.fixture
    def network(self, tmp_path: Path) -> Network:
        """A small network."""
        return load_network(save(tiny_classifier(), tmp_path / "model.onnx"))

    def test_is_an_encoding(self, encoding: Encoding) -> None:
        """Its strength has a name."""
        assert isinstance(encoding, Encoding)
        assert encoding.strength.name

    @pytest.mark.parametrize("granularity", get_args(Granularity))
    def test_probabilities_are_in_range(
        self, encoding: Encoding, network: Network, granularity: Granularity
    ) -> None:
        """At selectivity 1, every P(cluster) and P(synapse given cluster) of what lives is in [1/e, 1]."""
        plain = replace(encoding, granularity=granularity, cluster_selectivity=1.0, synapse_selectivity=1.0)
        genome = _genome(network, plain)
        low, high = np.exp(-1) * (1 - 1e-5), 1 + 1e-5
        clusters = np.exp(genome.cluster_log_probability())
        assert np.all((clusters == 0) | ((clusters >= low) & (clusters <= high)))
        assert np.any(clusters > 0)
        for name in network.weights:
            live, synapses = network.canonical(name) != 0, genome.synapse_probability(name)
            assert np.all((synapses[live] >= low) & (synapses[live] <= high))

    @pytest.mark.parametrize("selectivity", [1e-3, 1e3])
    def test_extreme_selectivity_stays_finite(
        self, encoding: Encoding, network: Network, selectivity: float
    ) -> None:
        """Log probabilities of live clusters are finite and never above 0."""
        hard = replace(encoding, cluster_selectivity=selectivity, synapse_selectivity=selectivity)
        genome = _genome(network, hard)
        alive = genome.cluster_live > 0
        log_p = genome.cluster_log_probability()[alive]
        assert np.all(np.isfinite(log_p))
        assert np.all(log_p <= 1e-4 / selectivity)

    def test_dead_synapses_are_not_inherited(self, encoding: Encoding, network: Network) -> None:
        """What the masks kill has probability 0."""
        masks = _half(network)
        genome = _genome(network, encoding, masks)
        for name, weight in network.weights.items():
            dead = ~weight.to_canonical(masks[name]).astype(np.bool_)
            assert np.all(genome.synapse_probability(name)[dead] == 0)

    def test_is_a_function_of_the_parent(self, encoding: Encoding, network: Network) -> None:
        """Encoding twice gives the same genome, bit for bit, and leaves the network alone."""
        before = {name: network.array(name).copy() for name in network.weights}
        one, other = _genome(network, encoding), _genome(network, encoding)
        assert np.array_equal(one.cluster_x, other.cluster_x)
        for name, array in before.items():
            assert np.array_equal(one.synapse_probability(name), other.synapse_probability(name))
            assert np.array_equal(array, network.array(name))


def _genome(network: Network, encoding: Encoding, masks: Masks | None = None) -> Genome:
    clusters = find_clusters(network, analyse(network), encoding.granularity)
    measured = None
    if needs_gradients(encoding):
        measured = {name: np.square(network.array(name), dtype=np.float32) for name in network.weights}
    return encode(network, clusters, encoding, masks, measured)


def _half(network: Network) -> dict[str, NDArray[np.bool_]]:
    """Every second synapse lives."""
    masks = live_masks(network)
    for mask in masks.values():
        mask.reshape(-1)[list(itertools.islice(range(mask.size), 0, None, 2))] = False
    return masks
