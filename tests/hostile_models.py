"""Models that mean harm: `HOSTILE[name](folder)` writes m.onnx, and what belongs to it, into a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from graphs import GRAPHS
from onnx import TensorProto, helper, numpy_helper

Write = Callable[[Path], None]
HOSTILE: dict[str, Write] = {}
WEIGHT = numpy_helper.from_array(np.diag(np.array([1, 0, 1, 1], np.float32)), "w")
"""A row and a column of zeros: there is something to remove."""
PRODUCT = helper.make_node("MatMul", ["x", "w"], ["m"], "product")
FLAG = numpy_helper.from_array(np.array(True), "flag")


def hostile(function: Write) -> Write:
    HOSTILE[function.__name__] = function
    return function


def value(
    name: str, shape: Sequence[int] | None = (1, 4), kind: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (WEIGHT,),
    inputs: Sequence[onnx.ValueInfoProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes), "hostile", [value("x"), *inputs], [value("y", None)], list(initializers)
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))


def write(folder: Path, proto: onnx.ModelProto) -> None:
    (folder / "m.onnx").write_bytes(proto.SerializeToString())


def whole(name: str, *numbers: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def ending(*, after: str) -> list[onnx.NodeProto]:
    """What adds the sum of a tensor to the product."""
    return [
        helper.make_node("ReduceSum", [after], ["sum"], "sum", keepdims=0),
        helper.make_node("Add", ["m", "sum"], ["y"], "add"),
    ]


# ----------------------------------------------------------------------------------------------- huge things


@hostile
def declared_huge(folder: Path) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 31, 1 << 31], raw_data=b"\0" * 16)
    write(folder, model([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], [tensor]))


@hostile
def constant_huge(folder: Path) -> None:
    tensor = TensorProto(name="c", data_type=TensorProto.INT64, dims=[1 << 62, 8], raw_data=b"\0" * 8)
    constant = helper.make_node("Constant", [], ["c"], "constant", value=tensor)
    write(folder, model([PRODUCT, constant, *ending(after="c")]))


@hostile
def filled_huge(folder: Path) -> None:
    fill = helper.make_node("ConstantOfShape", ["s"], ["c"], "fill")
    write(folder, model([PRODUCT, fill, *ending(after="c")], [WEIGHT, whole("s", 3_000_000_000)]))


@hostile
def expanded_huge(folder: Path) -> None:
    expand = helper.make_node("Expand", ["m", "s"], ["c"], "expand")
    write(folder, model([PRODUCT, expand, *ending(after="c")], [WEIGHT, whole("s", 1 << 20, 1 << 20, 4)]))


@hostile
def input_huge(folder: Path) -> None:
    write(folder, model([PRODUCT, *ending(after="big")], inputs=[value("big", [1 << 14, 1 << 14])]))


@hostile
def padded_attribute(folder: Path) -> None:
    """A convolution whose padding makes it huge, in front of a small weight."""
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    pads = [0, 0, 1 << 40, 1 << 40]
    conv = helper.make_node("Conv", ["image", "w"], ["c"], "conv", pads=pads)
    nodes = [conv, *ending(after="c")]
    nodes[-1].input[0] = "x"
    write(folder, model(nodes, [weight], [value("image", [1, 1, 4, 4])]))


@hostile
def many_nodes(folder: Path) -> None:
    nodes = [PRODUCT, helper.make_node("Identity", ["m"], ["y"])]
    proto = model(nodes)
    spare = onnx.GraphProto(node=[onnx.NodeProto(op_type="Relu", input=["m"], output=[""])] * 1000)
    proto.graph.MergeFromString(spare.SerializeToString() * 1000)
    write(folder, proto)


@hostile
def many_parts(folder: Path) -> None:
    """Five million empty attributes: 10 MB in the file, 800 MB in memory."""
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"], "product")])
    data = proto.SerializeToString()
    attributes = b"\x2a\x00" * 5_000_000
    node = _field(1, attributes)
    (folder / "m.onnx").write_bytes(data + _field(7, node))


def _field(number: int, content: bytes) -> bytes:
    length, size = len(content), bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return bytes([number << 3 | 2]) + bytes(size) + content


# ------------------------------------------------------------------------------------- structure without end


def _function(name: str, callee: str) -> onnx.FunctionProto:
    domain = "local" if callee.startswith("f") else ""
    calls = [
        helper.make_node(callee, ["a"], ["b"], domain=domain),
        helper.make_node(callee, ["b"], ["c"], domain=domain),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["c"], calls, opsets)


@hostile
def functions_doubling(folder: Path) -> None:
    functions = [_function(f"f{number}", f"f{number + 1}") for number in range(40)]
    functions.append(_function("f40", "Relu"))
    call = helper.make_node("f0", ["m"], ["y"], "call", domain="local")
    write(folder, model([PRODUCT, call], functions=functions))


@hostile
def function_of_itself(folder: Path) -> None:
    call = helper.make_node("f0", ["m"], ["y"], "call", domain="local")
    write(folder, model([PRODUCT, call], functions=[_function("f0", "f1"), _function("f1", "f0")]))


@hostile
def loop_without_end(folder: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Relu", ["v"], ["w_out"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("v")],
        [value("go_on", [], TensorProto.BOOL), value("w_out")],
    )
    times = numpy_helper.from_array(np.array(2**62), "times")
    loop = helper.make_node("Loop", ["times", "flag", "m"], ["y"], "loop", body=body)
    write(folder, model([PRODUCT, loop], [WEIGHT, times, FLAG]))


@hostile
def nested_too_deep(folder: Path) -> None:
    """If in If, sixty times: written by hand, for protobuf's own tools refuse to."""
    graph = _field(1, onnx.NodeProto(op_type="Relu", input=["m"], output=["o"]).SerializeToString())
    for _ in range(60):
        attribute = _field(1, b"then_branch") + _field(6, graph) + b"\xa0\x01\x05"
        graph = _field(1, _field(5, attribute) + _field(4, b"If"))
    (folder / "m.onnx").write_bytes(b"\x08\x08" + _field(7, graph))


@hostile
def cyclic(folder: Path) -> None:
    nodes = [helper.make_node("Add", ["m", "y"], ["z"], "one"), helper.make_node("Relu", ["z"], ["y"], "two")]
    write(folder, model([PRODUCT, *nodes]))


@hostile
def same_name_twice(folder: Path) -> None:
    write(folder, model([PRODUCT, PRODUCT, helper.make_node("Identity", ["m"], ["y"])]))


# ------------------------------------------------------------------------------------------- unusual tensors


@hostile
def sparse(folder: Path) -> None:
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], [])
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    proto.graph.sparse_initializer.add(values=values, indices=whole("i", 0), dims=[1 << 30, 1 << 30])
    write(folder, proto)


@hostile
def strings_as_weights(folder: Path) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.STRING, dims=[2, 2], string_data=[b"a"] * 4)
    write(folder, model([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], [tensor]))


@hostile
def unknown_domain(folder: Path) -> None:
    write(folder, model([PRODUCT, helper.make_node("Mystery", ["m"], ["y"], "riddle", domain="nobody")]))


@hostile
def in_training(folder: Path) -> None:
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    drop = helper.make_node("Dropout", ["m", "half", "flag"], ["y"], "drop")
    write(folder, model([PRODUCT, drop], [WEIGHT, half, FLAG]))


@hostile
def attributes_of_other_types(folder: Path) -> None:
    proto = GRAPHS["conv_bn"]()
    for node in proto.graph.node:
        for attribute in node.attribute:
            name = attribute.name
            attribute.Clear()
            attribute.CopyFrom(helper.make_attribute(name, "text"))
    write(folder, proto)


@hostile
def node_without_inputs(folder: Path) -> None:
    proto = GRAPHS["conv_bn"]()
    del proto.graph.node[0].input[:]
    write(folder, proto)


# --------------------------------------------------------------------------------------------- external data


def external(change: Callable[[Path, list[onnx.TensorProto]], None]) -> Write:
    """m.onnx with its data in w.bin, after `change` of the folder and the tensors."""

    def prepare(folder: Path) -> None:
        onnx.save(
            GRAPHS["lenet"](),
            folder / "m.onnx",
            save_as_external_data=True,
            location="w.bin",
            size_threshold=0,
        )
        proto = onnx.load(folder / "m.onnx", load_external_data=False)
        change(folder, list(proto.graph.initializer))
        write(folder, proto)

    return prepare


def entry(tensor: onnx.TensorProto, key: str, text: str) -> None:
    for one in tensor.external_data:
        if one.key == key:
            one.value = text
            return
    tensor.external_data.add(key=key, value=text)


def _linked(to: str) -> Callable[[Path, list[onnx.TensorProto]], None]:
    def change(folder: Path, tensors: list[onnx.TensorProto]) -> None:
        (folder / "elsewhere").mkdir()
        (folder / "w.bin").rename(folder / "elsewhere" / "w.bin")
        (folder / "w.bin").symlink_to(to)

    return change


def _piped(folder: Path, tensors: list[onnx.TensorProto]) -> None:
    (folder / "w.bin").unlink()
    os.mkfifo(folder / "w.bin")


def _all_at_zero(folder: Path, tensors: list[onnx.TensorProto]) -> None:
    for tensor in tensors:
        entry(tensor, "offset", "0")


@hostile
def one_piece_for_all(folder: Path) -> None:
    """A hundred tensors that are the same bytes of a file."""
    data = np.zeros((64, 64), np.float32)
    (folder / "w.bin").write_bytes(data.tobytes())
    tensors = []
    for number in range(100):
        tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=data.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", "w.bin"), ("offset", "0"), ("length", str(data.nbytes))):
            entry(tensor, key, text)
        tensors.append(tensor)
    write(folder, model([PRODUCT, helper.make_node("Identity", ["m"], ["y"])], [WEIGHT, *tensors]))


EXTERNAL = {
    "a link out of the folder": (external(_linked("/etc/passwd")), "outside the model's folder"),
    "a link to a device": (external(_linked("/dev/zero")), "outside the model's folder"),
    "a link to itself": (external(_linked("w.bin")), "w.bin"),
    "a pipe": (external(_piped), "missing"),
    "an absolute path": (
        external(lambda folder, tensors: entry(tensors[0], "location", "/etc/passwd")),
        "outside the model's folder",
    ),
    "a path up": (
        external(lambda folder, tensors: entry(tensors[0], "location", "a/../../w.bin")),
        "outside the model's folder",
    ),
    "an offset past the end": (
        external(lambda folder, tensors: entry(tensors[0], "offset", str(1 << 40))),
        "truncated or belongs to another",
    ),
    "a negative offset": (
        external(lambda folder, tensors: entry(tensors[0], "offset", "-8")),
        "which is no size",
    ),
    "a length of a gigabyte": (
        external(lambda folder, tensors: entry(tensors[0], "length", str(1 << 30))),
        "truncated or belongs to another",
    ),
    "pieces that overlap": (external(_all_at_zero), "overlap"),
}
