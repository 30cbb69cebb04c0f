"""Mutations: of any protobuf message by reflection, of JSON documents, and of bytes. All randomness is passed
in."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

INTEGERS = (
    *(-1, 0, 1, 2, 3, 7, 16, 64, 255, 256, 4096, 65535, 10**6, 10**9),
    *(2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63), -(2**63) + 1),
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, -1e38, float("nan"), float("inf"), -float("inf"))
TEXTS = (
    "",
    "x",
    "../x",
    "/etc/passwd",
    "\x1b[31m\n",
    "a" * 5000,
    "\u202e\ud7ff",
    "ai.onnx.ml",
    "com.microsoft",
)
_OPERATORS = """
    Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Compress Concat ConcatFromSequence
    Constant ConstantOfShape Conv ConvTranspose CumSum DepthToSpace DequantizeLinear Div Dropout Einsum
    Equal Expand EyeLike Flatten GRU Gather GatherElements GatherND Gemm GlobalAveragePool
    GroupNormalization Identity If InstanceNormalization LRN LSTM LayerNormalization LayerNormalisation
    Loop MatMul Max MaxPool MaxRoiPool Mean Mod Mul NonZero OneHot Optional PRelu Pad Pow QuantizeLinear
    RNN RandomNormal Range ReduceMean ReduceSum Relu Reshape Resize ReverseSequence Scan ScatterND
    SequenceConstruct Shape Sigmoid Size Slice Softmax SpaceToDepth Split SplitToSequence Squeeze
    StringNormalizer Sub Sum Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where"""
OPERATORS = _OPERATORS.split()
_ATTRIBUTES = """
    axis axes perm kernel_shape strides pads dilations group transA transB value value_ints value_float
    to then_branch else_branch body keepdims epsilon equation auto_pad mode allowzero blocksize k split
    num_outputs start end output_shape output_padding batch_dims training_mode"""
ATTRIBUTES = _ATTRIBUTES.split()


# ------------------------------------------------------------------------------------------ protobuf messages


def mutated(message: Message, rng: random.Random, times: int) -> None:
    """Edit fields of a message in place."""
    for _ in range(times):
        places = list(_messages(message))
        # Tensors and shapes are many; nodes and attributes are where meaning is.
        kind = rng.choice(sorted({place.DESCRIPTOR.name for place in places}))
        chosen = rng.choice([place for place in places if place.DESCRIPTOR.name == kind])
        _edit(chosen, message, rng)


def _messages(message: Message, depth: int = 0) -> Iterator[Message]:
    yield message
    if depth > 12:
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for one in value if _repeated(field) else (value,):
            yield from _messages(one, depth + 1)


def _repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _edit(message: Message, root: Message, rng: random.Random) -> None:
    if isinstance(message, onnx.NodeProto) and rng.random() < 0.5:
        rng.choice(_NODE_EDITS)(message, root, rng)
        return
    if isinstance(message, onnx.GraphProto) and rng.random() < 0.5:
        rng.choice(_GRAPH_EDITS)(message, root, rng)
        return
    present = [field for field, _ in message.ListFields()]
    fields = list(message.DESCRIPTOR.fields) if rng.random() < 0.3 or not present else present
    field = rng.choice(fields)
    if _repeated(field):
        _edit_list(message, field, root, rng)
    elif field.message_type is not None:
        _edit_part(message, field, root, rng)
    elif rng.random() < 0.1:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _scalar(field, getattr(message, field.name), root, rng))


def _edit_part(message: Message, field: FieldDescriptor, root: Message, rng: random.Random) -> None:
    same = [one for one in _messages(root) if one.DESCRIPTOR is field.message_type]
    if rng.random() < 0.3 or not same:
        message.ClearField(field.name)
    else:
        copy = type(same[0])()
        copy.CopyFrom(rng.choice(same))
        getattr(message, field.name).CopyFrom(copy)


def _edit_list(message: Message, field: FieldDescriptor, root: Message, rng: random.Random) -> None:
    values = getattr(message, field.name)
    action = rng.choice(("edit", "edit", "delete", "double", "swap", "clear", "many", "borrow"))
    if field.message_type is not None:
        _edit_messages(values, action, field, root, rng)
        return
    items = list(values)
    if not items or action == "borrow":
        items.insert(rng.randint(0, len(items)), _scalar(field, items[0] if items else None, root, rng))
    elif action == "edit":
        place = rng.randrange(len(items))
        items[place] = _scalar(field, items[place], root, rng)
    elif action == "delete":
        items.pop(rng.randrange(len(items)))
    elif action == "double":
        items.insert(rng.randint(0, len(items)), rng.choice(items))
    elif action == "swap":
        rng.shuffle(items)
    elif action == "clear":
        items = []
    else:
        items = (items * 200)[:2000]
    message.ClearField(field.name)
    getattr(message, field.name).extend(items)


def _edit_messages(
    values: Any, action: str, field: FieldDescriptor, root: Message, rng: random.Random
) -> None:
    if action == "borrow" or not values:
        same = [one for one in _messages(root) if one.DESCRIPTOR is field.message_type]
        if same:
            copy = type(same[0])()
            copy.CopyFrom(rng.choice(same))
            values.add().CopyFrom(copy)
        else:
            values.add()
    elif action == "edit":
        _edit(rng.choice(values), root, rng)
    elif action == "delete":
        del values[rng.randrange(len(values))]
    elif action == "double":
        values.add().CopyFrom(rng.choice(values))
    elif action == "swap":
        order = list(range(len(values)))
        rng.shuffle(order)
        items = [type(values[0]).FromString(values[i].SerializeToString()) for i in order]
        del values[:]
        values.extend(items)
    elif action == "clear":
        del values[:]
    else:
        chosen = type(values[0]).FromString(rng.choice(values).SerializeToString())
        if chosen.ByteSize() < 2000:
            values.extend([chosen] * rng.choice((10, 300)))


def _scalar(field: FieldDescriptor, old: Any, root: Message, rng: random.Random) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice([value.number for value in field.enum_type.values])
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice((*FLOATS, rng.uniform(-2, 2)))
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return not old
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return damaged(bytes(old or b""), rng)
        return _text(field, root, rng)
    value = rng.choice(
        (*INTEGERS, (old or 0) + 1, (old or 0) - 1, (old or 0) * 2, -(old or 0), rng.randint(0, 40))
    )
    unsigned = kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
    bits = 32 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 64
    value %= 1 << bits
    return value if unsigned or value < 1 << (bits - 1) else value - (1 << bits)


def _text(field: FieldDescriptor, root: Message, rng: random.Random) -> str:
    if field.name == "op_type":
        return rng.choice(OPERATORS)
    if rng.random() < 0.15:
        return rng.choice(TEXTS)
    names = _names(root)
    return rng.choice(names) if names else "x"


def _names(root: Message) -> list[str]:
    graphs = [one for one in _messages(root) if isinstance(one, onnx.GraphProto)]
    return [
        name
        for graph in graphs
        for name in (
            *(tensor.name for tensor in graph.initializer),
            *(value.name for value in graph.input),
            *(name for node in graph.node for name in (*node.output, *node.input)),
        )
        if name
    ]


# ----------------------------------------------------------------------------------------- what nodes are for

NodeEdit = Callable[[onnx.NodeProto, Message, random.Random], None]


def _other_operator(node: onnx.NodeProto, root: Message, rng: random.Random) -> None:
    node.op_type = rng.choice(OPERATORS)


def _rewired(node: onnx.NodeProto, root: Message, rng: random.Random) -> None:
    names = _names(root)
    if node.input and names:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)


def _attribute(node: onnx.NodeProto, root: Message, rng: random.Random) -> None:
    """Another value for an attribute, of any type, or an attribute more."""
    if not node.attribute or rng.random() < 0.4:
        node.attribute.add().name = rng.choice(ATTRIBUTES)
    one = rng.choice(node.attribute)
    kind = rng.choice(("int", "int", "ints", "ints", "float", "string", "tensor", "graph", "sparse"))
    name = one.name
    one.Clear()
    one.name = name
    if kind == "int":
        one.type, one.i = onnx.AttributeProto.INT, rng.choice((*INTEGERS, rng.randint(-4, 8)))
    elif kind == "ints":
        one.type = onnx.AttributeProto.INTS
        one.ints.extend(rng.choice((*INTEGERS, 1, 1, 1, 2)) for _ in range(rng.randint(0, 6)))
    elif kind == "float":
        one.type, one.f = onnx.AttributeProto.FLOAT, rng.choice(FLOATS)
    elif kind == "string":
        one.type, one.s = onnx.AttributeProto.STRING, rng.choice((*TEXTS, "ij,jk->ik", "SAME_UPPER")).encode()
    elif kind == "sparse":
        one.type = onnx.AttributeProto.SPARSE_TENSOR
    else:
        wanted = onnx.TensorProto if kind == "tensor" else onnx.GraphProto
        same = [found for found in _messages(root) if isinstance(found, wanted)]
        if same:
            copy = wanted.FromString(rng.choice(same).SerializeToString())
            one.type = onnx.AttributeProto.TENSOR if kind == "tensor" else onnx.AttributeProto.GRAPH
            (one.t if kind == "tensor" else one.g).CopyFrom(copy)


def _foreign(node: onnx.NodeProto, root: Message, rng: random.Random) -> None:
    node.domain = rng.choice(("com.microsoft", "ai.onnx.ml", "ai.onnx", "ai.onnx.training", "nobody"))


_NODE_EDITS: tuple[NodeEdit, ...] = (_other_operator, _rewired, _rewired, _attribute, _attribute, _foreign)


def _inserted(graph: onnx.GraphProto, root: Message, rng: random.Random) -> None:
    """A node more, between a value and one of its readers."""
    if not graph.node:
        return
    place = rng.randrange(len(graph.node))
    reader = graph.node[place]
    if not reader.input:
        return
    slot = rng.randrange(len(reader.input))
    fresh = onnx.NodeProto(op_type=rng.choice(OPERATORS), name=f"fresh{rng.randrange(10**6)}")
    fresh.input.append(reader.input[slot])
    fresh.input.extend(rng.choice(_names(root)) for _ in range(rng.choice((0, 0, 1, 1, 2, 4))))
    fresh.output.append(f"made{rng.randrange(10**6)}")
    if rng.random() < 0.6:
        _attribute(fresh, root, rng)
    reader.input[slot] = fresh.output[0]
    nodes = [*graph.node[:place], fresh, *graph.node[place:]]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _counted(graph: onnx.GraphProto, root: Message, rng: random.Random) -> None:
    """A small integer tensor that makes a huge one, in front of a reader."""
    _inserted(graph, root, rng)
    made = [node for node in graph.node if node.name.startswith("fresh")]
    if not made:
        return
    shape = [rng.choice((1, 2, 16, 4096, 10**6, 2**31, 2**40)) for _ in range(rng.randint(1, 5))]
    tensor = onnx.helper.make_tensor(
        f"count{rng.randrange(10**6)}", onnx.TensorProto.INT64, [len(shape)], shape
    )
    graph.initializer.append(tensor)
    node = made[-1]
    node.op_type = rng.choice(
        ("ConstantOfShape", "Expand", "Tile", "Reshape", "Pad", "Resize", "OneHot", "Range")
    )
    node.input[:] = [tensor.name] if node.op_type == "ConstantOfShape" else [node.input[0], tensor.name]
    del node.attribute[:]


def _squared(graph: onnx.GraphProto, root: Message, rng: random.Random) -> None:
    """A tensor that declares another shape, with its data cut or kept."""
    if not graph.initializer:
        return
    tensor = rng.choice(graph.initializer)
    if tensor.dims and rng.random() < 0.7:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(INTEGERS)
    else:
        tensor.data_type = rng.choice(range(30))


_GRAPH_EDITS: tuple[Any, ...] = (_inserted, _inserted, _counted, _squared)


# ------------------------------------------------------------------------------------------------------ bytes


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes with bits flipped, pieces cut out, doubled, moved or overwritten, or the end missing."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not found:
            return bytes(rng.randbytes(rng.randint(0, 64)))
        # Headers and footers are where files say what they are.
        size = len(found)
        place = rng.choice(
            (rng.randrange(size), rng.randrange(min(size, 64)), size - 1 - rng.randrange(min(size, 64)))
        )
        action = rng.choice(("flip", "flip", "byte", "cut", "double", "truncate", "number", "zero"))
        length = rng.choice((1, 2, 4, 8, 64))
        if action == "flip":
            found[place] ^= 1 << rng.randrange(8)
        elif action == "byte":
            found[place] = rng.choice((0, 1, 127, 128, 255))
        elif action == "cut":
            del found[place : place + length]
        elif action == "double":
            found[place:place] = found[place : place + length]
        elif action == "truncate" and rng.random() < 0.3:
            del found[place:]
        elif action == "number":
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(INTEGERS) % (1 << 8 * width)
            found[place : place + width] = value.to_bytes(width, rng.choice(("little", "big")))
        else:
            found[place : place + length] = bytes(len(found[place : place + length]))
    return bytes(found)


# ------------------------------------------------------------------------------------------------------- JSON

_VALUES = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**64,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "NaN",
    "../../x",
    [],
    {},
)


def edited(document: Any, rng: random.Random, times: int) -> Any:
    """A JSON document with values of other types, keys missing or doubled, and lists of other lengths."""
    for _ in range(times):
        places = list(_containers(document))
        if not places:
            return rng.choice(_VALUES)
        container = rng.choice(places)
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        if not keys:
            continue
        key, action = (
            rng.choice(keys),
            rng.choice(("value", "value", "text", "delete", "borrow", "nest", "many")),
        )
        if action == "value":
            container[key] = rng.choice(_VALUES)
        elif action == "text":
            container[key] = rng.choice((*TEXTS, "<script>alert(1)</script>", "|`*[x](y)"))
        elif action == "delete":
            del container[key]
        elif action == "borrow":
            container[key] = _copied(rng.choice(places))
        elif action == "nest":
            container[key] = [container[key]]
        elif isinstance(container, list):
            container.extend([_copied(container[key])] * 50)
        else:
            container[f"{key}-more"] = container[key]
    return document


def _copied(value: Any, depth: int = 0) -> Any:
    if depth > 6:
        return None
    if isinstance(value, dict):
        return {key: _copied(one, depth + 1) for key, one in value.items()}
    return [_copied(one, depth + 1) for one in value] if isinstance(value, list) else value


def _containers(value: Any, depth: int = 0) -> Iterator[Any]:
    if depth > 10 or not isinstance(value, dict | list):
        return
    yield value
    for one in value.values() if isinstance(value, dict) else value:
        yield from _containers(one, depth + 1)
