"""What every dependency rule must do; the built-in ones run this too.

The rule must be installed (`pip install -e .` of the distribution that brings it), since an analysis takes
all installed rules together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from evonnx.compaction import apply_plan, plan_compaction
from evonnx.dependency import Coupling, analyse
from evonnx.dependency.rules import Rule, rules_by_operator
from evonnx.masking import apply_masks
from evonnx.masks import live_masks
from evonnx.network import Network, load_network, network_of
from evonnx.proof import prove
from evonnx.testing.models import save

REMOVALS = 4
"""Removals tried per model."""


class DependencyRuleContract:
    """Override `rule` and `models`: small models with random weights that hold every operator of the rule,
    the supported cases and those that pin."""

    @pytest.fixture
    def rule(self) -> Rule:
        """The rule under test."""
        raise NotImplementedError("override the fixture `rule`")

    @pytest.fixture
    def models(self) -> Sequence[onnx.ModelProto]:
        """Models that show what the rule knows."""
        raise NotImplementedError("override the fixture `models`")

    @pytest.fixture
    def networks(self, models: Sequence[onnx.ModelProto], tmp_path: Path) -> list[Network]:
        """The models, loaded."""
        paths = [save(model, tmp_path / f"model{place}.onnx") for place, model in enumerate(models)]
        return [load_network(path) for path in paths]

    def test_follows_the_protocol(self, rule: Rule) -> None:
        """It says which operators it knows."""
        assert isinstance(rule, Rule)
        assert rule.operators
        assert all(isinstance(one, str) and one for one in rule.operators)

    def test_is_installed_and_shown(self, rule: Rule, models: Sequence[onnx.ModelProto]) -> None:
        """Its operators are its own among the installed rules, and some model holds each of them."""
        installed = rules_by_operator()
        assert {type(installed.get(one)) for one in rule.operators} == {type(rule)}
        shown = {
            f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
            for model in models
            for node in model.graph.node
        }
        assert rule.operators <= shown, f"no model holds {sorted(rule.operators - shown)}"

    def test_coupling_is_sound(self, networks: list[Network]) -> None:
        """Every weight has a class per channel, pins name classes that exist, and analysis repeats."""
        for network in networks:
            coupling, again = analyse(network), analyse(network)
            assert coupling.n_classes == again.n_classes
            assert set(coupling.weights) == set(network.weights)
            for name, classes in coupling.weights.items():
                weight = network.weights[name]
                assert classes.output.shape == (weight.outputs,)
                assert classes.input.shape == (weight.groups, weight.inputs_per_group)
                assert np.array_equal(classes.output, again.weights[name].output)
                for ids in (classes.output, classes.input):
                    assert ids.min(initial=0) >= 0
                    assert ids.max(initial=0) < coupling.n_classes
            for pin in coupling.pins:
                assert pin.reason
                assert pin.classes.max(initial=0) < coupling.n_classes

    def test_removal_is_exact(self, networks: list[Network]) -> None:
        """Channels that may go are gone from the compact model, which computes what the masked one does."""
        for network in networks:
            coupling = analyse(network)
            for classes in _removals(coupling):
                masked = apply_masks(network, coupling, _without(network, coupling, classes))
                parent = network_of(masked, network.source)
                compacted = apply_plan(parent, plan_compaction(parent, analyse(parent)))
                proof = prove(masked, compacted)
                assert proof.passed, f"classes {classes.tolist()}: {proof}"


def _removals(coupling: Coupling) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Single classes that may go, then a random third of them."""
    produced = [classes.output for classes in coupling.weights.values()]
    free = np.unique(np.concatenate(produced)) if produced else np.zeros(0, np.int64)
    free = free[~coupling.pinned()[free]]
    rng = np.random.default_rng(0)
    for one in rng.permutation(free)[: REMOVALS - 1]:
        yield np.asarray([one])
    if len(free) > 3:
        yield np.sort(rng.permutation(free)[: len(free) // 3])


def _without(
    network: Network, coupling: Coupling, classes: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    """Live masks in which nothing produces or reads the classes."""
    masks = live_masks(network)
    for name, weight in network.weights.items():
        wires = coupling.weights[name]
        canonical = weight.to_canonical(masks[name]).astype(np.bool_).copy()
        canonical[np.isin(wires.output, classes)] = False
        group = np.arange(weight.outputs) // (weight.outputs // weight.groups)
        dead = np.isin(wires.input, classes)[group]
        canonical[dead] = False
        masks[name] = weight.from_canonical(canonical).astype(np.bool_)
    return masks
