"""The proof on deep networks of every family: exact removals pass and are not void, planted faults are
caught."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from deep_graphs import DEEP
from faults import case_from, faults

from evonnx.compaction import Compacted, Plan
from evonnx.network import network_of
from evonnx.onnx_io import Detached
from evonnx.proof import Proof, prove
from evonnx.proof.calibration import calibration, needs_calibration
from evonnx.proof.copies import Compared, compared_tensors, redraw, unreactive
from evonnx.proof.inputs import Source, feed, sources_of
from evonnx.sessions import InputSpec

SIZES = {"tokens": dict.fromkeys(("x", "position_ids", "attention_mask"), (2, 10))}


def _prove(model: ir.Model, compacted: Compacted, name: str) -> Proof:
    return prove(model, compacted, input_shapes=SIZES.get(name), threads=1)


QUICK = ("vit", "nfnet", "detector")
"""Families whose faults every run of the suite plants."""
FAULTY = [name for name in DEEP if name != "starnet"]
"""In products one factor that is left alive by mistake changes nothing beside one that is zero."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAULTY]
)
def test_deep_networks_are_proven_and_faults_are_caught(name: str) -> None:
    case = case_from(DEEP[name](), name, 0)
    assert not case.plan.is_empty()
    proof = _prove(case.masked.model, case.compacted, name)
    assert proof.passed, proof.reason
    planted = list(faults(case, np.random.default_rng(0)))
    assert len(planted) >= 2
    for fault in planted:
        proof = _prove(fault.masked, fault.compacted, name)
        assert not proof.passed, fault.label
        assert not proof.void, fault.label


@pytest.mark.parametrize("name", DEEP)
def test_a_network_equals_itself(name: str) -> None:
    model = network_of(ir.from_proto(DEEP[name]()), name).model
    proof = _prove(model, Compacted(model.clone(), {}, Plan()), name)
    assert proof.passed, proof.reason
    assert proof.worst_difference < 1e-4


def test_channels_over_several_axes_are_compared_where_they_lie() -> None:
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    positions = np.array([[1, 3], [8, 11]])  # of head 0: 1 and 3; of head 2: 0 and 3
    kept = Compared("t", (((1, 3), _positions(positions, 4, 5)),), "node").kept(array)
    assert kept.shape == (2, 2, 4, 2)
    for head, row in enumerate(positions):
        for dim, place in enumerate(row):
            np.testing.assert_array_equal(kept[:, head, :, dim], array[:, place // 4, :, place % 4])


def _positions(of: np.ndarray, length: int, stored: int) -> np.ndarray:
    """Flat positions over axes of lengths (.., length), for an axis of another length."""
    return of // length * stored + of % length


def test_axes_that_are_cut_alone_and_together() -> None:
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    one = Compared("t", ((0, np.array([1])), ((1, 2), np.array([[0, 5], [6, 11]]))), "node")
    np.testing.assert_array_equal(one.kept(array), array.reshape(2, 12)[1, [[0, 5], [6, 11]]][None])


def test_what_integers_are_is_read_from_the_graph() -> None:
    found = sources_of(DEEP["tokens"]())
    assert found == {
        "x": Source("ids", 40),
        "position_ids": Source("positions", 24),
        "attention_mask": Source("mask"),
    }
    specs = [InputSpec(name, ("N", "T"), np.dtype(np.int64)) for name in found]
    feeds = feed(specs, dict.fromkeys(found, (3, 50)), np.random.default_rng(0), 1.0, found)
    assert feeds["x"].min() >= 0
    assert 30 < feeds["x"].max() < 40
    np.testing.assert_array_equal(feeds["position_ids"][1, 20:30], [20, 21, 22, 23, 0, 1, 2, 3, 4, 5])
    mask = feeds["attention_mask"]
    assert set(np.unique(mask)) == {0, 1}
    assert np.all(np.diff(mask, axis=1) <= 0)
    assert np.all(mask.sum(axis=1) >= 25)


def test_sizes_do_not_react_and_neither_does_what_is_made_of_them() -> None:
    model = DEEP["class_token"]()
    still = unreactive(Detached(model))
    made = {node.output[0]: node.op_type for node in model.graph.node}
    assert {made[name] for name in still & set(made)} >= {"Shape", "Range", "Sin", "MatMul", "Expand"}
    assert "y" not in still


def test_calibration_brings_every_layer_to_one_level() -> None:
    model = DEEP["attention_with_batch_norm"]()
    tensors, _ = compared_tensors(model, model, {})
    redrawn = redraw(Detached(model), Detached(model), Plan(), np.random.default_rng(0))
    levels = {one.name: 1e4 for one in tensors}
    assert needs_calibration(levels)
    assert not needs_calibration(dict.fromkeys(levels, 3.0))
    factors = calibration(model, levels, redrawn.scaled_by)
    assert set(factors) == {name for by_slot in redrawn.scaled_by.values() for name in by_slot.values()}
    first = next(iter(redrawn.scaled_by.values()))[0]
    assert factors[first] == pytest.approx(1e-4)
    assert all(np.isfinite(factor) and factor > 0 for factor in factors.values())


def test_models_with_other_outputs_are_refused() -> None:
    model = DEEP["recurrent"]()
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.graph.output[0].name = other.graph.node[0].output[0]
    proof = prove(ir.from_proto(model), Compacted(ir.from_proto(other), {}, Plan()), threads=1)
    assert "graph outputs" in proof.reason
