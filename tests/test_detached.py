"""Models whose weights stand beside their message: run, changed and written without copies of the weights."""

from __future__ import annotations

import gc
import weakref
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from faults import make_case
from graphs import GRAPHS
from packaging.version import Version

from evonnx.errors import ModelError, ProofError
from evonnx.network import load_network, network_of
from evonnx.onnx_io import Detached, check_detached, detach, drop_weights, save_model, to_bytes
from evonnx.onnx_io.message import proto_of
from evonnx.onnx_io.wire import chunks
from evonnx.sessions import input_specs, make_session, random_array, run_session
from evonnx.steps import compact, compact_file


@pytest.mark.parametrize("name", GRAPHS)
def test_a_file_has_the_bytes_that_protobuf_gives(name: str) -> None:
    model = ir.from_proto(GRAPHS[name]())
    assert b"".join(chunks(detach(model))) == proto_of(model).SerializeToString(deterministic=True)


def test_fields_on_both_sides_of_the_weights_keep_their_places() -> None:
    proto = GRAPHS["lenet"]()
    tensor = proto.graph.initializer[4]
    tensor.doc_string = "what a user wrote"
    tensor.metadata_props.add(key="a", value="b")
    proto.metadata_props.add(key="author", value="someone")
    proto.graph.doc_string = "a graph"
    model = ir.from_proto(proto)
    assert detach(model).arrays.keys() >= {tensor.name}
    written = onnx.load_from_string(to_bytes(model))
    assert written.graph.initializer[4] == tensor
    assert written == proto


def test_lists_of_numbers_stay_lists() -> None:
    proto = GRAPHS["lenet"]()
    tensor = proto.graph.initializer[4]
    values = onnx.numpy_helper.to_array(tensor).reshape(-1)
    tensor.ClearField("raw_data")
    tensor.float_data.extend(values.tolist())
    assert onnx.load_from_string(to_bytes(ir.from_proto(proto))).graph.initializer[4] == tensor


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("name", ["lenet", "residual_bn", "initializers_as_inputs", "fp16"])
def test_a_detached_model_computes_the_same(name: str, optimize: bool) -> None:
    model = network_of(ir.from_proto(GRAPHS[name]()), name).model
    whole = make_session(to_bytes(model), threads=1, optimize=optimize)
    apart = make_session(detach(model), threads=1, optimize=optimize)
    rng = np.random.default_rng(0)
    feeds = {
        spec.name: random_array(spec, [dim if isinstance(dim, int) else 2 for dim in spec.shape], rng)
        for spec in input_specs(whole)
    }
    for one, other in zip(
        run_session(whole, feeds).values(), run_session(apart, feeds).values(), strict=True
    ):
        if optimize:
            np.testing.assert_array_equal(one, other)
        else:  # weights that are used where they are are not packed, and sums are in another order
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_arrays_are_shared_with_the_model_until_they_are_replaced() -> None:
    model = ir.from_proto(GRAPHS["lenet"]())
    for value in model.graph.initializers.values():
        value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)
    apart = detach(model)
    name, array = next(iter(apart.arrays.items()))
    assert np.shares_memory(array, model.graph.initializers[name].const_value.numpy())
    other = apart.copy()
    tensor = next(one for one in other.proto.graph.initializer if one.name == name)
    other.set_values(tensor, array[:1].astype(np.float64))
    assert (other.values(tensor).shape, other.values(tensor).dtype) == ((1, *array.shape[1:]), np.float64)
    assert list(tensor.dims) == [1, *array.shape[1:]]
    assert tensor.data_type == onnx.TensorProto.DOUBLE
    assert apart.arrays[name] is array


def test_the_standard_is_held_to_without_weights() -> None:
    apart = detach(ir.from_proto(GRAPHS["lenet"]()))
    check_detached(apart, "lenet")
    broken = apart.copy()
    broken.proto.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match=r"lenet fails the ONNX checker: .*NoSuchOperator"):
        check_detached(broken, "lenet")


@pytest.mark.skipif(Version(onnx.__version__) < Version("1.20"), reason="this checker counts no elements")
def test_weights_have_as_many_elements_as_the_message_says() -> None:
    wrong = detach(ir.from_proto(GRAPHS["lenet"]())).copy()
    large = next(one for one in wrong.proto.graph.initializer if one.name in wrong.arrays)
    large.dims[0] += 1
    with pytest.raises(ModelError, match="fails the ONNX checker"):
        check_detached(wrong, "lenet")


def test_a_message_alone_is_a_model_too(tmp_path: Path) -> None:
    proto = GRAPHS["lenet"]()
    assert b"".join(chunks(Detached(proto))) == proto.SerializeToString(deterministic=True)
    assert make_session(Detached(proto), threads=1).get_inputs()[0].name == proto.graph.input[0].name


def test_removal_from_file_to_file_is_removal_in_memory(tmp_path: Path) -> None:
    case = make_case("residual_bn", seed=5)
    masked, target = tmp_path / "masked.onnx", tmp_path / "compact.onnx"
    save_model(case.masked.model, masked)
    seen: list[str] = []

    def timing(stage: str) -> AbstractContextManager[object]:
        seen.append(stage)
        return nullcontext()

    written = compact_file(masked, target, masked, seed=3, threads=1, timing=timing)
    in_memory = compact(load_network(masked), seed=3, threads=1)
    assert target.read_bytes() == to_bytes(in_memory.compacted.model)
    assert written.proof == in_memory.proof
    assert written.plan.notes == in_memory.plan.notes
    assert written.lineage.keys() == in_memory.compacted.lineage.keys()
    assert seen == ["load", "compact", "save", "prove"]


def test_removal_of_what_is_in_memory_reads_no_file(tmp_path: Path) -> None:
    case = make_case("residual_bn", seed=5)
    masked, target = tmp_path / "masked.onnx", tmp_path / "compact.onnx"
    save_model(case.masked.model, masked)
    compact_file(masked, target, masked, seed=3, threads=1)
    network = load_network(masked)
    seen: list[str] = []

    def timing(stage: str) -> AbstractContextManager[object]:
        seen.append(stage)
        return nullcontext()

    other = tmp_path / "other.onnx"
    written = compact_file(masked, other, masked, seed=3, threads=1, timing=timing, network=network)
    assert other.read_bytes() == target.read_bytes() == to_bytes(written.model)
    assert "load" not in seen
    assert all(value.const_value is None for value in network.model.graph.initializers.values())


def test_a_void_proof_reads_the_files_again(tmp_path: Path) -> None:
    # Nothing reacts to an input that is compared with a number out of reach, however weights are redrawn.
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[1, 4] x) => (float[1, 4] y)
        <float limit = {1e30}> { high = Greater(x, limit) y = Cast <to = 1> (high) }"""
    masked = tmp_path / "masked.onnx"
    onnx.save(onnx.parser.parse_model(text), masked)
    with pytest.raises(ProofError, match="void at 'y'"):
        compact_file(masked, tmp_path / "compact.onnx", masked, threads=1)


def test_dropped_weights_are_freed_at_once() -> None:
    model = ir.from_proto(GRAPHS["lenet"]())
    value = next(iter(model.graph.initializers.values()))
    value.const_value = ir.Tensor(np.zeros(value.shape.numpy(), np.float32), name=value.name)
    alive = weakref.ref(value.const_value)
    gc.disable()
    try:
        drop_weights(model)
        assert alive() is None
    finally:
        gc.enable()
