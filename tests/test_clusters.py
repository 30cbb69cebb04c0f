from __future__ import annotations

import numpy as np
import pytest
from genetics_support import PLAIN, named

from evonnx.clusters import find_clusters
from evonnx.errors import EvonnxError

GRANULARITIES = ("channel", "filter", "kernel")


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", [*PLAIN, "lstm", "shared_weights", "relayouts", "squeeze_excite"])
def test_spread_is_the_product_over_the_clusters_of_each_slice(name: str, granularity) -> None:
    network, coupling = named(name)
    clusters = find_clusters(network, coupling, granularity)
    values = np.random.default_rng(0).uniform(0.1, 1, clusters.n_clusters)
    assert list(clusters.layers) == list(network.weights)
    for weight, layer in clusters.layers.items():
        shape = network.weights[weight].outputs, network.weights[weight].inputs_per_group
        members = [[set(layer.of(o, i)) for i in range(shape[1])] for o in range(shape[0])]
        for combine, together in ((np.multiply, np.prod), (np.add, np.sum)):
            expected = np.array([[together(values[list(ids)]) for ids in row] for row in members])
            whole = layer.spread(values, slice(0, shape[0]), combine)
            assert np.allclose(np.broadcast_to(whole, (*shape, 1))[:, :, 0], expected)
            half = layer.spread(values, slice(1, shape[0]), combine)
            assert np.array_equal(half, whole[1:])
        alive = values > 0.5
        expected = np.array([[alive[list(ids)].all() for ids in row] for row in members])
        spread = np.broadcast_to(layer.spread(alive, slice(0, shape[0])), (*shape, 1))
        assert spread.dtype == np.bool_
        assert np.array_equal(spread[:, :, 0], expected)


@pytest.mark.parametrize(
    ("name", "granularity", "count"),
    [
        # Convolutions by (o, i) slices, the rest by output rows.
        ("depthwise", "kernel", 6 * 3 + 6 + 8 * 6 + 16 + 5 * 16),
        ("depthwise", "filter", 6 + 6 + 8 + 16 + 5),
        ("grouped", "kernel", 8 * 4 + 12 * 4 + 8 * 3 + 3 * 8),
        ("matmul_mlp", "kernel", sum(weight.outputs for weight in named("matmul_mlp")[0].weights.values())),
        ("lenet", "channel", named("lenet")[1].n_classes),
    ],
)
def test_numbers_of_clusters(name: str, granularity, count: int) -> None:
    assert find_clusters(*named(name), granularity).n_clusters == count


def test_every_synapse_is_in_a_cluster_of_its_own_layer_unless_channels_couple_layers() -> None:
    network, coupling = named("residual_folded")
    for granularity in ("filter", "kernel"):
        seen: set[int] = set()
        for weight, layer in find_clusters(network, coupling, granularity).layers.items():
            shape = network.weights[weight]
            mine = {
                one
                for o in range(shape.outputs)
                for i in range(shape.inputs_per_group)
                for one in layer.of(o, i)
            }
            assert not mine & seen
            seen |= mine
    channels = find_clusters(network, coupling, "channel")
    first, _, branch_end, *_ = channels.layers.values()
    assert np.array_equal(first.rows, branch_end.rows), "a residual addition couples what it adds"


def test_pins_stand_at_channel_granularity_only() -> None:
    network, coupling = named("lenet")
    pinned = find_clusters(network, coupling, "channel").pinned
    assert pinned is not None
    assert np.array_equal(pinned, coupling.pinned())
    assert pinned.any()
    assert not pinned.all()
    assert find_clusters(network, coupling, "kernel").pinned is None


def test_an_unknown_granularity_is_named() -> None:
    with pytest.raises(EvonnxError, match=r"'neuron'.*channel, filter, kernel"):
        find_clusters(*named("lenet"), "neuron")
