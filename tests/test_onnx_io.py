"""Reading and writing files: round trips, refusals, external data, atomic and deterministic saving."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import GRAPHS
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from evonnx.errors import ModelError
from evonnx.network import load_network
from evonnx.onnx_io import MappedTensor
from evonnx.onnx_io import files as onnx_io
from evonnx.onnx_io import versions as onnx_versions
from evonnx.onnx_io.detached import LARGE
from evonnx.onnx_io.reading import read_message
from evonnx.onnx_io.standard import check_file
from evonnx.onnx_io.tensors import tensors_of
from evonnx.onnx_io.wire import GRAPH, INITIALIZER, _field

Edit = Callable[[onnx.ModelProto], None]


def lenet() -> onnx.ModelProto:
    return GRAPHS["lenet"]()


# ---------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", GRAPHS)
def test_a_loaded_and_saved_model_is_the_same_model(name, graph_file, tmp_path):
    before = GRAPHS[name]()
    before.doc_string = "a user's words"
    helper.set_model_props(before, {"author": "someone"})
    path = tmp_path / "in.onnx"
    onnx.save(before, path)
    out = tmp_path / "out.onnx"
    onnx_io.save_model(onnx_io.load_model(path), out)
    check_file(out)
    after = onnx.load(out)
    for field in ("input", "output", "initializer", "value_info"):
        assert list(getattr(after.graph, field)) == list(getattr(before.graph, field)), field
    assert [n.name for n in after.graph.node] == [n.name for n in before.graph.node]
    assert [n.op_type for n in after.graph.node] == [n.op_type for n in before.graph.node]
    assert [list(n.input) for n in after.graph.node] == [list(n.input) for n in before.graph.node]
    for field in ("ir_version", "producer_name", "doc_string"):
        assert getattr(after, field) == getattr(before, field)
    assert list(after.metadata_props) == list(before.metadata_props)
    assert list(after.opset_import) == list(before.opset_import)


@pytest.mark.parametrize("name", ["lenet", "residual_bn", "initializers_as_inputs", "control_flow"])
def test_saving_is_deterministic_and_names_no_path(name, graph_file, tmp_path):
    path = graph_file(name)
    one, other = tmp_path / "one.onnx", tmp_path / "elsewhere" / "other.onnx"
    other.parent.mkdir()
    onnx_io.save_model(onnx_io.load_model(path), one)
    onnx_io.save_model(onnx_io.load_model(one), other)
    assert one.read_bytes() == other.read_bytes()
    assert os.fsencode(tmp_path) not in one.read_bytes()


def test_value_info_of_the_user_is_kept_and_none_is_added(tmp_path):
    model = onnx.shape_inference.infer_shapes(lenet())
    model.graph.value_info.append(
        helper.make_tensor_value_info("conv1.weight", onnx.TensorProto.FLOAT, [4, 1, 5, 5])
    )
    onnx.save(model, tmp_path / "in.onnx")
    loaded = onnx_io.load_model(tmp_path / "in.onnx")
    onnx_io.save_model(loaded.clone(), tmp_path / "out.onnx")
    after = onnx.load(tmp_path / "out.onnx")
    assert {v.name for v in after.graph.value_info} == {v.name for v in model.graph.value_info}


@pytest.mark.parametrize("name", ["lenet", "constant_nodes", "control_flow", "bfloat16"])
def test_a_large_file_reads_the_same(name, graph_file, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_io, "_OWN_FROM_BYTES", 0)
    model = onnx_io.load_model(graph_file(name))
    kinds = {type(tensor) for tensor in tensors_of(model)}
    assert kinds == {ir.Tensor}
    onnx_io.save_model(model, tmp_path / "out.onnx")
    monkeypatch.undo()
    onnx_io.save_model(onnx_io.load_model(graph_file(name)), tmp_path / "small.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()


@pytest.mark.parametrize("name", GRAPHS)
def test_weights_are_read_beside_the_message(name, tmp_path):
    before = GRAPHS[name]()
    onnx.save(before, tmp_path / "in.onnx")
    proto, arrays = read_message(tmp_path / "in.onnx")
    large = {one.name: one for one in before.graph.initializer if len(one.raw_data) >= LARGE}
    plain = {n for n, one in large.items() if one.data_type != onnx.TensorProto.BFLOAT16}
    assert arrays.keys() == plain
    for tensor in proto.graph.initializer:
        if tensor.name in arrays:
            assert not arrays[tensor.name].flags.writeable
            assert not tensor.raw_data
            tensor.raw_data = arrays[tensor.name].tobytes()
    assert proto == before


def _twice(data: bytes, model: onnx.ModelProto) -> bytes:
    """A second graph, which protobuf merges with the first."""
    more = onnx.ModelProto()
    more.graph.doc_string = "more"
    return data + more.SerializeToString()


def _two_values(data: bytes, model: onnx.ModelProto) -> bytes:
    """Values that occur twice in a tensor: the last ones count."""
    tensor = next(one for one in model.graph.initializer if len(one.raw_data) >= LARGE)
    other = onnx.TensorProto(raw_data=bytes(len(tensor.raw_data))).SerializeToString()
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    del rest.graph.initializer[:]
    content = b"".join(
        b"".join(_field(INITIALIZER, [one.SerializeToString() + (other if one.name == tensor.name else b"")]))
        for one in model.graph.initializer
    )
    inner = rest.graph.SerializeToString() + content
    rest.ClearField("graph")
    return rest.SerializeToString() + b"".join(_field(GRAPH, [inner]))


def _misshapen(data: bytes, model: onnx.ModelProto) -> bytes:
    """A tensor of a shape that its bytes do not fit."""
    tensor = next(one for one in model.graph.initializer if len(one.raw_data) >= LARGE)
    tensor.dims.append(2)
    return model.SerializeToString()


@pytest.mark.parametrize("change", [_twice, _two_values, _misshapen])
def test_what_is_unusual_in_a_file_is_read_as_protobuf_reads_it(change, tmp_path):
    model = lenet()
    (tmp_path / "odd.onnx").write_bytes(change(model.SerializeToString(), model))
    wanted = onnx.load(tmp_path / "odd.onnx")
    proto, arrays = read_message(tmp_path / "odd.onnx")
    for tensor in proto.graph.initializer:
        if tensor.name in arrays:
            tensor.raw_data = arrays[tensor.name].tobytes()
    assert proto == wanted


def test_real_files_round_trip(shared_data, tmp_path):
    files = sorted((shared_data / "onnx").glob("*.onnx"))
    assert files
    for file in files:
        check_file(file)
        out = tmp_path / file.name
        onnx_io.save_model(onnx_io.load_model(file), out)
        check_file(out)
        before, after = onnx.load(file), onnx.load(out)
        assert list(after.graph.initializer) == list(before.graph.initializer)
        assert {v.name for v in after.graph.value_info} == {v.name for v in before.graph.value_info}
        assert [n.name for n in after.graph.node] == [n.name for n in before.graph.node]


# ------------------------------------------------------------------------------------------------- refusals


def _first_weight(model: onnx.ModelProto) -> onnx.TensorProto:
    return model.graph.initializer[0]


def _external(location: str, **info: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        tensor = _first_weight(model)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": location, **info}.items():
            tensor.external_data.add(key=key, value=str(value))

    return edit


def _cycle(model: onnx.ModelProto) -> None:
    nodes = model.graph.node
    nodes[1].input[0] = nodes[3].output[0]


def _unsorted(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([nodes[1], nodes[0], *nodes[2:]])


def _sparse(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.name = "thin"


def _set(**fields: object) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        for name, value in fields.items():
            setattr(model, name, value)

    return edit


def _attribute_of_wrong_kind(model: onnx.ModelProto) -> None:
    (attribute,) = (
        a for n in model.graph.node if n.op_type == "Gemm" for a in n.attribute if n.name == "gemm1"
    )
    attribute.type = onnx.AttributeProto.FLOAT


BROKEN: dict[str, tuple[Edit, str]] = {
    "two initializers of one name": (
        lambda m: m.graph.initializer.append(_first_weight(m)),
        "two initializers are named 'conv1.weight'",
    ),
    "two nodes that make one tensor": (lambda m: m.graph.node.append(m.graph.node[0]), "is used twice"),
    "a node that makes an input": (
        lambda m: m.graph.node[0].output.__setitem__(0, "x"),
        "the tensor name 'x' is used twice",
    ),
    "a cycle": (_cycle, "part of a cycle"),
    "nodes out of order": (_unsorted, "before it is made"),
    "an operand from nowhere": (
        lambda m: m.graph.node[0].input.__setitem__(1, "nowhere"),
        "node conv1 reads 'nowhere', which nothing makes",
    ),
    "an output from nowhere": (lambda m: m.graph.output.add(name="ghost"), "output 'ghost'"),
    "a sparse initializer": (_sparse, "'thin' as a sparse initializer"),
    "an old opset": (lambda m: m.opset_import[0].__setattr__("version", 6), "uses opset 6"),
    "an IR version from the future": (_set(ir_version=99), "has IR version 99; the newest"),
    "an opset from the future": (
        lambda m: m.opset_import[0].__setattr__("version", 999),
        "uses opset 999; the newest that the installed onnxruntime loads is",
    ),
    "less data than the shape": (
        lambda m: _first_weight(m).dims.__setitem__(0, 8),
        "'conv1.weight' of shape [8, 1, 5, 5] needs 800 bytes and the file holds 400",
    ),
    "an absurd shape": (
        lambda m: _first_weight(m).dims.__setitem__(0, 1 << 55),
        "the file holds 400",
    ),
    "a negative dimension": (lambda m: _first_weight(m).dims.__setitem__(0, -4), "negative dimension"),
    "an unknown element type": (
        lambda m: _first_weight(m).__setattr__("data_type", 99),
        "unknown element type (99)",
    ),
    "missing external data": (_external("gone.bin"), "'gone.bin' of initializer 'conv1.weight' is missing"),
    "external data by an absolute path": (_external("/etc/hostname"), "outside the model's folder"),
    "external data above the folder": (_external("../up.bin"), "outside the model's folder"),
    "external data behind a link": (_external("link.bin"), "outside the model's folder"),
    "external data with hard links": (_external("hard.bin"), "several hard links"),
    "external data in no file": (_external(""), "names no file"),
    "external data past the end": (_external("data.bin", offset=300), "needs 400 bytes at offset 300"),
    "external data of another length": (_external("data.bin", length=40), "declares 40"),
    "external data at a negative offset": (_external("data.bin", offset=-4), "offset '-4'"),
    "an attribute of the wrong kind": (_attribute_of_wrong_kind, "not a valid ONNX graph"),
    "NaN in a weight": (
        lambda m: _first_weight(m).CopyFrom(
            numpy_helper.from_array(np.full((4, 1, 5, 5), np.nan, np.float32), "conv1.weight")
        ),
        "weight 'conv1.weight' of node conv1 holds NaN",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_is_refused_with_its_file_and_reason(case, tmp_path):
    edit, message = BROKEN[case]
    folder = tmp_path / "models"
    folder.mkdir()
    for target in (folder / "data.bin", tmp_path / "up.bin", folder / "first.bin"):
        target.write_bytes(bytes(400))
    (folder / "link.bin").symlink_to(tmp_path / "up.bin")
    (folder / "hard.bin").hardlink_to(folder / "first.bin")
    model = lenet()
    edit(model)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as refusal:
        load_network(path)
    assert message in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: None, "does not exist"),
    "a folder": (lambda p: p.mkdir(), "is a folder"),
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "text": (lambda p: p.write_text("not a model\n" * 9), "is not an ONNX file"),
    "truncated": (lambda p: p.write_bytes(lenet().SerializeToString()[:-200]), "truncated"),
    "without a graph": (
        lambda p: p.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString()),
        "no graph",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_what_is_no_model_is_refused(case, tmp_path):
    make, message = FILES[case]
    path = tmp_path / "model.onnx"
    make(path)
    with pytest.raises(ModelError, match=message) as refusal:
        onnx_io.load_model(path)
    assert str(path) in str(refusal.value)


@given(st.data())
def test_damaged_bytes_are_read_or_refused_but_never_crash(tmp_path_factory, data):
    name = data.draw(st.sampled_from(["lenet", "relayouts", "constant_nodes", "folded_constants"]))
    content = bytearray(GRAPHS[name]().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        outcome = load_network(path).source
    except ModelError as error:
        outcome = str(error)
    assert str(path) in outcome


def test_the_newest_opset_is_what_onnxruntime_really_loads():
    opset, ir_version = onnx_versions.newest_supported()
    assert opset >= 22
    assert ir_version >= 10
    assert onnx_versions._runtime_accepts(opset, ir_version)
    assert not onnx_versions._runtime_accepts(opset + 1, ir_version)
    assert not onnx_versions._runtime_accepts(opset, ir_version + 1)
    onnx_versions._newest.cache_clear()
    start = time.perf_counter()
    onnx_versions.newest_supported()
    assert time.perf_counter() - start < 1.0


def test_check_file_refuses_what_the_standard_refuses(tmp_path):
    model = lenet()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(ModelError, match=r"wrong\.onnx fails the ONNX checker"):
        check_file(tmp_path / "wrong.onnx")


# -------------------------------------------------------------------------------------------- external data


@pytest.fixture
def external_lenet(tmp_path) -> Path:
    path = tmp_path / "external" / "model.onnx"
    path.parent.mkdir()
    onnx.save(lenet(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_is_mapped_and_saved_inside(external_lenet, tmp_path):
    model = onnx_io.load_model(external_lenet)
    assert isinstance(model.graph.initializers["conv1.weight"].const_value, MappedTensor)
    onnx_io.save_model(model, tmp_path / "inside.onnx")
    assert isinstance(model.graph.initializers["conv1.weight"].const_value, MappedTensor)
    assert list(onnx.load(tmp_path / "inside.onnx").graph.initializer) == list(lenet().graph.initializer)


def test_external_data_of_constant_nodes_is_saved_inside(tmp_path):
    path = tmp_path / "model.onnx"
    model = GRAPHS["constant_nodes"]()
    onnx.save(
        model, path, save_as_external_data=True, location="w.bin", size_threshold=0, convert_attribute=True
    )
    onnx_io.save_model(onnx_io.load_model(path), tmp_path / "inside.onnx")
    (tmp_path / "w.bin").unlink()
    arrays = onnx_io.initializer_arrays(onnx_io.load_model(tmp_path / "inside.onnx"))
    before = onnx_io.initializer_arrays(ir.from_proto(GRAPHS["constant_nodes"]()))
    assert arrays.keys() == before.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])


def test_external_data_of_a_relative_path(external_lenet, monkeypatch):
    monkeypatch.chdir(external_lenet.parent)
    arrays = onnx_io.initializer_arrays(onnx_io.load_model("model.onnx"))
    np.testing.assert_array_equal(arrays["gemm1.weight"], numpy_helper.to_array(lenet().graph.initializer[4]))


def test_a_large_model_keeps_its_data_beside_the_file(external_lenet, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_io, "_EXTERNAL_FROM_BYTES", 1000)
    model = onnx_io.load_model(external_lenet)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        onnx_io.save_model(model, tmp_path / name / "big.onnx")
    files = {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()}
    assert set(files) == {"big.onnx", "big.onnx.data"}
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()}
    external_lenet.with_name("weights.bin").unlink()
    again = onnx_io.initializer_arrays(onnx_io.load_model(tmp_path / "one" / "big.onnx"))
    for tensor in lenet().graph.initializer:
        np.testing.assert_array_equal(again[tensor.name], numpy_helper.to_array(tensor))


# --------------------------------------------------------------------------------------------------- saving


def test_a_failed_save_leaves_the_old_file_and_nothing_else(graph_file, tmp_path, monkeypatch):
    model = onnx_io.load_model(graph_file("lenet"))
    target = tmp_path / "out" / "model.onnx"
    target.parent.mkdir()
    target.write_bytes(b"old")

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(ModelError, match="No space left on device"):
        onnx_io.save_model(model, target)
    assert [p.name for p in target.parent.iterdir()] == ["model.onnx"]
    assert target.read_bytes() == b"old"


def test_an_unwritable_output_is_one_clear_error(graph_file, tmp_path):
    model = onnx_io.load_model(graph_file("lenet"))
    with pytest.raises(ModelError, match="Cannot write"):
        onnx_io.save_model(model, tmp_path / "no such folder" / "model.onnx")
    with pytest.raises(ModelError, match="Cannot write"):
        onnx_io.save_model(model, tmp_path)


# ------------------------------------------------------------------------------------------ constants, names


@pytest.mark.parametrize("name", ["lenet", "constant_nodes", "initializers_as_inputs", "fp16", "bfloat16"])
def test_set_array_changes_one_constant_of_a_clone_only(name, graph_file, tmp_path):
    original = onnx_io.load_model(graph_file(name))
    clone = original.clone()
    before = onnx_io.initializer_arrays(original)
    tensor = next(n for n, a in before.items() if a.ndim > 1)
    onnx_io.set_array(clone, tensor, np.zeros_like(before[tensor]))
    onnx_io.save_model(clone, tmp_path / "out.onnx")
    check_file(tmp_path / "out.onnx")
    after = onnx_io.initializer_arrays(onnx_io.load_model(tmp_path / "out.onnx"))
    assert not np.any(after.pop(tensor))
    for other, array in after.items():
        np.testing.assert_array_equal(array, before[other])
    assert np.any(onnx_io.initializer_arrays(original)[tensor])


def test_set_array_may_change_the_shape_but_not_the_dtype(graph_file):
    model = onnx_io.load_model(graph_file("initializers_as_inputs"))
    onnx_io.set_array(model, "conv1.bias", np.zeros(3, np.float32))
    (listed,) = (value for value in model.graph.inputs if value.name == "conv1.bias")
    assert listed.shape == ir.Shape([3])
    with pytest.raises(ModelError, match="stored as FLOAT"):
        onnx_io.set_array(model, "conv1.bias", np.zeros(4))
    with pytest.raises(ModelError, match="no initializer or Constant node named 'nothing'"):
        onnx_io.set_array(model, "nothing", np.zeros(4))


def test_labels_name_a_node_or_its_position(graph_file):
    named = onnx_io.load_model(graph_file("lenet")).graph
    unnamed = onnx_io.load_model(graph_file("unnamed_nodes")).graph
    assert [onnx_io.model_label(node) for node in named][:3] == ["conv1", "relu1", "maxpool1"]
    assert [onnx_io.model_label(node) for node in unnamed][:3] == ["Conv#0", "Relu#1", "MaxPool#2"]
    assert list(onnx_io.node_labels(unnamed).values()) == [onnx_io.model_label(node) for node in unnamed]
    assert not any(node.name for node in unnamed)


def test_stored_parameters_count_every_floating_point_constant(graph_file):
    model = onnx_io.load_model(graph_file("control_flow"))
    inside = 2 * 6
    assert onnx_io.stored_parameters(model) == (6 * 3 * 9 + 6) + 2 * 6 + inside


def test_stored_parameters_count_local_functions():
    weight = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.ones(7, np.float32)))
    body = [weight, helper.make_node("Add", ["a", "w"], ["b"])]
    model = lenet()
    model.functions.append(
        helper.make_function("mine", "Plus", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    )
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert onnx_io.stored_parameters(ir.from_proto(model)) == 7 + onnx_io.stored_parameters(
        ir.from_proto(lenet())
    )
