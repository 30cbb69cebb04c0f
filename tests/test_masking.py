"""Masked models: zeros where they belong and nothing else changed."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import GRAPHS
from removal_support import KINDS, network, random_masks, reread

from evonnx.dependency import analyse, close
from evonnx.dependency.coupling import NOT_ZEROED
from evonnx.masking import apply_masks, closed_masks
from evonnx.masks import PackedMasks, live_masks
from evonnx.onnx_io import initializer_arrays, to_bytes


@pytest.mark.parametrize("kind", ["channel", "synapse"])
@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_only_what_died_is_zero(name: str, kind: str) -> None:
    net = network(GRAPHS[name](), name)
    coupling = analyse(net)
    masks = random_masks(net, coupling, kind, np.random.default_rng(3))
    closure = close(net, coupling, masks)
    before = initializer_arrays(net.model)
    masked = apply_masks(net, coupling, masks)
    after = initializer_arrays(masked)
    assert list(after) == list(before)
    dead = {}
    for vector, flags in closure.vectors_dead:
        if vector.role not in NOT_ZEROED:
            shape = [1] * before[vector.name].ndim
            shape[vector.axis] = flags.size
            dead[vector.name] = dead.get(vector.name, False) | flags.reshape(shape)
    for tensor, array in before.items():
        assert after[tensor].dtype == array.dtype
        alive = closure.masks.get(tensor, ~np.broadcast_to(dead.get(tensor, np.False_), array.shape))
        np.testing.assert_array_equal(after[tensor], np.where(alive, array, np.zeros((), array.dtype)))
    np.testing.assert_array_equal(
        sorted(live_masks(reread(masked, net))), sorted(closed_masks(net, coupling, masks))
    )


def test_masking_is_deterministic_and_leaves_the_parent_alone() -> None:
    net = network(GRAPHS["residual_bn"]())
    coupling = analyse(net)
    before = to_bytes(net.model)
    masks = random_masks(net, coupling, "channel", np.random.default_rng(0))
    assert to_bytes(apply_masks(net, coupling, masks)) == to_bytes(apply_masks(net, coupling, masks))
    assert to_bytes(net.model) == before


def test_live_masks_change_nothing() -> None:
    net = network(GRAPHS["concat_fire"]())
    assert to_bytes(apply_masks(net, analyse(net), live_masks(net))) == to_bytes(net.model)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_masked_file_holds_is_what_was_closed(kind: str) -> None:
    net = network(GRAPHS["depthwise"]())
    coupling = analyse(net)
    masks = random_masks(net, coupling, kind, np.random.default_rng(5))
    found = live_masks(reread(apply_masks(net, coupling, masks), net))
    for name, mask in closed_masks(net, coupling, masks).items():
        np.testing.assert_array_equal(found[name], mask)


def test_packed_masks_are_the_same_at_a_bit_per_synapse() -> None:
    rng = np.random.default_rng(0)
    masks = {"a": rng.random((3, 5, 7)) < 0.5, "b": rng.random(16) < 0.5, "none": np.zeros((0, 3), np.bool_)}
    packed = PackedMasks.of(masks)
    assert sum(bits.nbytes for bits in packed.bits.values()) == 14 + 2
    for name, mask in packed.unpack().items():
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, masks[name])
