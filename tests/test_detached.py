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

from evonnx import sessions, steps
from evonnx.errors import ModelError, ProofError
from evonnx.network import load_network, network_of
from evonnx.onnx_io import Detached, check_detached, detach, drop_weights, save_model, to_bytes
from evonnx.onnx_io.mapping import is_mapped
from evonnx.onnx_io.message import proto_of
from evonnx.onnx_io.spooling import Spool
from evonnx.onnx_io.wire import chunks
from evonnx.proof import proving
from evonnx.sessions import concrete_shape, input_specs, make_session, random_array, run_session
from evonnx.steps import compact, compact_file


def _lenet() -> ir.Model:
    return ir.from_proto(GRAPHS["lenet"]())


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


def test_removal_of_what_is_large_keeps_no_weights_beside_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case("residual_bn", seed=5)
    masked, targets = tmp_path / "masked.onnx", (tmp_path / "small.onnx", tmp_path / "large.onnx")
    save_model(case.masked.model, masked)
    small = compact_file(masked, targets[0], masked, seed=3, threads=1)
    held: list[bool] = []
    spooled = Detached.spooled

    def counted(model: Detached, folder: Path, *, move: bool = False) -> Detached:
        moved = spooled(model, folder, move=move)
        held.extend(not is_mapped(array) for array in moved.arrays.values())
        return moved

    monkeypatch.setattr(Detached, "spooled", counted)
    monkeypatch.setattr(steps, "_READ_AGAIN_FROM_BYTES", 0)
    monkeypatch.setattr(proving, "_SPOOL_FROM_BYTES", 0)
    large = compact_file(masked, targets[1], masked, seed=3, threads=1)
    assert held
    assert not any(held)
    assert targets[1].read_bytes() == targets[0].read_bytes() == to_bytes(large.model)
    assert large.proof == small.proof
    assert sorted(tmp_path.iterdir()) == sorted([masked, *targets])


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


def test_what_is_set_in_a_spool_lies_in_a_file(tmp_path: Path) -> None:
    model = detach(_lenet())
    weight = next(name for name, one in model.arrays.items() if one.dtype == np.float32)
    spooled = model.copy().spooled(tmp_path)
    tensors = {tensor.name: tensor for tensor in spooled.proto.graph.initializer}
    old = model.arrays[weight]
    spooled.set_values(tensors[weight], 2 * old)
    spooled.set_values(tensors[weight], 3 * old)
    assert np.array_equal(spooled.arrays[weight], 3 * old)
    assert not spooled.arrays[weight].flags.writeable
    assert np.array_equal(model.arrays[weight], old)
    other = spooled.copy()
    other.set_values(next(one for one in other.proto.graph.initializer if one.name == weight), 4 * old)
    spooled.forget()
    assert np.array_equal(spooled.arrays[weight], 3 * old)
    [first, second] = sorted(tmp_path.iterdir())
    assert spooled.spool is not None
    assert other.spool is not None
    assert {first, second} == {spooled.spool.path, other.spool.path}
    left = other.arrays[weight]
    del other
    assert list(tmp_path.iterdir()) == [spooled.spool.path]
    assert np.array_equal(left, 4 * old)


def test_a_full_spool_leaves_arrays_in_memory(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 0)
    assert isinstance(spool.put("small", np.ones(1 << 10)).base, np.ndarray)
    large = np.ones(1 << 21)
    assert spool.put("large", large) is large
    assert spool.place("large") is None
    assert spool.place("small") == (0, 1 << 13)


@pytest.mark.parametrize("optimize", [True, False])
def test_sessions_read_weights_from_a_spool(tmp_path: Path, optimize: bool) -> None:
    model = detach(_lenet()).spooled(tmp_path)
    for tensor in model.proto.graph.initializer:
        if tensor.name in model.arrays:
            model.set_values(tensor, model.arrays[tensor.name] / 2)
    session = make_session(model, optimize=optimize, threads=1)
    feeds = {spec.name: np.ones(concrete_shape(spec), spec.dtype) for spec in input_specs(session)}
    whole = make_session(b"".join(chunks(model)), optimize=optimize, threads=1)
    want = run_session(whole, feeds)
    for name, array in run_session(session, feeds).items():
        np.testing.assert_allclose(
            array, want[name], rtol=0 if optimize else 1e-5, atol=0 if optimize else 1e-6
        )


def test_onnxruntime_gets_to_see_weights_if_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some version may want to read what is only lent."""
    model = detach(_lenet())
    created: list[int] = []
    create = sessions.making._create

    def refuses_once(*arguments: object) -> object:
        created.append(len(created))
        if len(created) == 1:
            raise ModelError("it wants the numbers")
        return create(*arguments)

    monkeypatch.setattr(sessions.making, "_create", refuses_once)
    session = make_session(model, optimize=False, threads=1)
    feeds = {spec.name: np.ones(concrete_shape(spec), spec.dtype) for spec in input_specs(session)}
    want = run_session(make_session(to_bytes(_lenet()), optimize=False, threads=1), feeds)
    for name, array in run_session(session, feeds).items():
        assert np.allclose(array, want[name], rtol=1e-5, atol=1e-6)
    assert created == [0, 1, 2]
