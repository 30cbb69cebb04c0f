"""What dead channels cost that stay: against the zeros that are left in compact models."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import GRAPHS
from removal_support import compact, network, random_masks

from evonnx.compaction import Plan, price_padding
from evonnx.dependency import analyse
from evonnx.network import network_of


@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("name", ["grouped", "lenet", "depthwise", "detection_head", "conv_transpose", "lrn"])
def test_prices_are_the_zeros_that_are_stored(name: str, align: int) -> None:
    """Whole channels were masked, so a zero that is left stands in the row or column of a dead one."""
    net = network(GRAPHS[name]())
    coupling = analyse(net)
    for seed in range(4):
        masks = random_masks(net, coupling, "channel", np.random.default_rng(seed), 0.4)
        masked, plan, compacted = compact(net, coupling, masks, align)
        prices = price_padding(masked, analyse(masked), plan)
        left = network_of(compacted.model, "compact.onnx", net.input_shapes)
        zeros = {one: int(np.count_nonzero(~left.live(one))) for one in left.weights}
        macs = {one: zeros[one] * (weight.macs_per_tap or 0.0) for one, weight in left.weights.items()}
        assert max((one.parameters for one in prices), default=0) <= sum(zeros.values())
        assert sum(zeros.values()) <= sum(one.parameters for one in prices)
        assert round(sum(macs.values())) <= sum(one.macs or 0 for one in prices)
        assert sum(one.channels for one in prices) == sum(pad.indices.size for pad in plan.padding)
        if len(prices) == 1:
            assert prices[0].parameters == sum(zeros.values())
            assert prices[0].macs == round(sum(macs.values()))


def test_nothing_stays_of_an_empty_plan() -> None:
    net = network(GRAPHS["lenet"]())
    assert price_padding(net, analyse(net), Plan()) == ()
