"""Every opset from the oldest to the newest that onnxruntime loads: one network, written as each asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from evonnx.clusters import find_clusters
from evonnx.dependency import analyse
from evonnx.encodings.presets import adaptive
from evonnx.environment import Budget
from evonnx.genome import encode
from evonnx.masking import apply_masks
from evonnx.masks import Masks
from evonnx.network import load_network
from evonnx.onnx_io import save_model
from evonnx.onnx_io.versions import OLDEST_OPSET, newest_supported
from evonnx.proof import Proof
from evonnx.resources import count
from evonnx.sessions import load_warnings, make_session, run_session
from evonnx.steps import compact_file
from evonnx.synthesis import sample, solve

NEWEST_OPSET, NEWEST_IR = newest_supported()
OPSETS = sorted({7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, NEWEST_OPSET})
IR_OF = {
    7: 3,
    8: 3,
    9: 4,
    10: 5,
    11: 6,
    12: 7,
    13: 7,
    14: 7,
    15: 8,
    16: 8,
    17: 8,
    18: 8,
    19: 9,
    20: 9,
    21: 10,
}
"""The IR version that was new with an opset."""


class Writer:
    """Writes operators in the form that an opset has for them: axes and the like are attributes first, and
    inputs later."""

    def __init__(self, opset: int, ir_version: int, seed: int = 0) -> None:
        self.opset, self.ir_version = opset, ir_version
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.tip = "image"

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        spread = (2 / max(1, np.prod(shape[1:]))) ** 0.5
        return self.constant(name, (spread * self.rng.standard_normal(shape)).astype(np.float32))

    def node(self, op_type: str, *more: str, outputs: int = 1, given: str | None = None, **attributes) -> str:
        names = [f"{op_type.lower()}{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        inputs = [self.tip if given is None else given, *more]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=names[0], **attributes))
        self.tip = names[0]
        return names[0]

    def moved(self, op_type: str, since: int, **values: list[int] | float) -> str:
        """An operator whose attributes became inputs in opset `since`."""
        if self.opset < since:
            return self.node(op_type, **values)
        names = []
        for key, value in values.items():
            dtype = np.float32 if isinstance(value, float) else np.int64
            names.append(self.constant(f"{op_type}{len(self.nodes)}.{key}", np.array(value, dtype)))
        return self.node(op_type, *names)

    def norm(self, channels: int) -> None:
        given = [
            self.weight(f"norm{len(self.nodes)}.{part}", channels) for part in ("scale", "shift", "mean")
        ]
        variance = self.rng.uniform(0.5, 2, channels).astype(np.float32)
        given.append(self.constant(f"norm{len(self.nodes)}.variance", variance))
        self.node("BatchNormalization", *given, **({"spatial": 1} if self.opset < 9 else {}))

    def model(self, inputs: list[int | str], outputs: list[int | str]) -> onnx.ModelProto:
        value = helper.make_tensor_value_info
        ins = [value("image", onnx.TensorProto.FLOAT, inputs)]
        if self.ir_version < 4:  # every initializer had to be an input too
            ins += [value(one.name, one.data_type, list(one.dims)) for one in self.constants]
        out = [value(self.tip, onnx.TensorProto.FLOAT, outputs)]
        graph = helper.make_graph(self.nodes, "net", ins, out, self.constants)
        opset = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opset, ir_version=self.ir_version)


def network(opset: int, ir_version: int) -> onnx.ModelProto:
    """Convolutions, norms, a residual block, a branch that is split and joined, padding, resizing, a head."""
    w = Writer(opset, ir_version)
    w.node("Conv", w.weight("stem", 16, 3, 3, 3), kernel_shape=[3, 3], pads=[1] * 4)
    w.norm(16)
    w.moved("Clip", 11, min=0.0, max=6.0)
    shortcut = w.tip
    w.node("Conv", w.weight("first", 16, 16, 3, 3), kernel_shape=[3, 3], pads=[1] * 4)
    w.norm(16)
    w.node("Relu")
    w.node(
        "Conv",
        w.weight("second", 16, 16, 3, 3),
        w.weight("second.bias", 16),
        kernel_shape=[3, 3],
        pads=[1] * 4,
    )
    w.node("Add", shortcut)
    # Attribute, then input, then with the number of parts said.
    sizes = {"split": [8, 8]}
    whole = w.tip
    if opset < 13:
        w.node("Split", outputs=2, axis=1, given=whole, **sizes)
    else:
        w.node("Split", w.constant("sizes", np.array(sizes["split"])), outputs=2, axis=1, given=whole)
    left, right = w.nodes[-1].output
    a = w.node("Relu", given=left)
    b = w.node("LeakyRelu", given=right, alpha=0.1)
    w.node("Concat", b, given=a, axis=1)
    w.node("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    w.moved("Pad", 11, pads=[0, 0, 1, 1, 0, 0, 1, 1])
    if opset < 10:
        scales = [1.0, 1.0, 2.0, 2.0]
        if opset < 9:
            w.node("Upsample", scales=scales, mode="nearest")
        else:
            w.node("Upsample", w.constant("scales", np.array(scales, np.float32)), mode="nearest")
    else:
        scales = w.constant("scales", np.array([1, 1, 2, 2], np.float32))
        region = [w.constant("region", np.zeros(0, np.float32))] if opset >= 11 else []
        w.node("Resize", *region, scales, mode="nearest")
    w.moved("ReduceMean", 18, axes=[2, 3])
    w.moved("Squeeze", 13, axes=[2, 3])
    w.node("Gemm", w.weight("hidden", 24, 16), w.weight("hidden.bias", 24), transB=1)
    w.node("Relu")
    if opset < 12:
        w.node("Dropout", ratio=0.5)
    else:
        w.node("Dropout", w.constant("ratio", np.array(0.5, np.float32)))
    w.node("Gemm", w.weight("head", 5, 24), w.weight("head.bias", 5), transB=1)
    w.node("Softmax", axis=1)
    return w.model(["N", 3, 8, 8], ["N", 5])


def halved(opset: int, folder: Path) -> tuple[Path, Masks, Proof]:
    """The network in an opset, what of its synapses lives at half of them, and the proof of its removal; the
    file is compact.onnx."""
    path = folder / "model.onnx"
    onnx.save(network(opset, IR_OF.get(opset, NEWEST_IR)), path)
    ancestor = load_network(path)
    coupling = analyse(ancestor)
    genome = encode(ancestor, find_clusters(ancestor, coupling, adaptive.granularity), adaptive)
    solution = solve(ancestor, coupling, genome, Budget(0.5, "synapses"))
    masks = sample(solution, np.random.default_rng(3)).masks
    save_model(apply_masks(ancestor, coupling, masks), folder / "masked.onnx")
    done = compact_file(folder / "masked.onnx", folder / "compact.onnx", path)
    return path, masks, done.proof


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """What lives in opset 17."""
    return halved(17, tmp_path_factory.mktemp("usual"))[1]


@pytest.mark.parametrize("opset", OPSETS)
def test_the_same_network_loses_the_same_in_every_opset(opset, usual, tmp_path):
    path, masks, proof = halved(opset, tmp_path)
    assert proof.passed, proof.reason
    whole, rest = (count(load_network(tmp_path / name)) for name in ("model.onnx", "compact.onnx"))
    assert (whole.synapses, whole.macs) == (432 + 2 * 2304 + 384 + 120, 27648 + 2 * 147456 + 384 + 120)
    assert rest.synapses <= 0.5 * whole.synapses
    assert rest.parameters < 0.9 * whole.parameters, "channels are gone, however they were written"
    assert {name: mask.tobytes() for name, mask in masks.items()} == {
        name: mask.tobytes() for name, mask in usual.items()
    }

    original, offspring = onnx.load(path), onnx.load(tmp_path / "compact.onnx")
    if offspring.ir_version <= onnx.IR_VERSION:  # an older onnx may know less than onnxruntime
        onnx.checker.check_model(offspring, full_check=True)
    assert offspring.ir_version == original.ir_version
    assert list(offspring.opset_import) == list(original.opset_import)
    assert offspring.graph.input[0] == original.graph.input[0]
    assert list(offspring.graph.output) == list(original.graph.output)
    assert set(load_warnings(tmp_path / "compact.onnx")) <= set(load_warnings(path))


@pytest.mark.parametrize("opset", OPSETS)
def test_the_torch_adapter_computes_the_same_in_every_opset(opset):
    torch = pytest.importorskip("torch")
    from evonnx_torch.module import OnnxModule

    model = network(opset, IR_OF.get(opset, NEWEST_IR))
    module = OnnxModule(ir.from_proto(model), torch.device("cpu")).eval()
    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    session = make_session(model.SerializeToString(), threads=1, optimize=False)
    want = run_session(session, {"image": image})
    with torch.no_grad():
        got = module({"image": torch.from_numpy(image)})
    for name, array in want.items():
        np.testing.assert_allclose(got[name].numpy(), array, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ir_version", range(3, NEWEST_IR + 1))
def test_every_ir_version_is_kept(ir_version, tmp_path):
    opset = max(opset for opset in OPSETS if IR_OF.get(opset, NEWEST_IR) <= ir_version)
    path = tmp_path / "model.onnx"
    onnx.save(network(opset, ir_version), path)
    save_model(load_network(path).model, tmp_path / "again.onnx")
    assert onnx.load(tmp_path / "again.onnx").ir_version == ir_version
    assert count(load_network(tmp_path / "again.onnx")) == count(load_network(path))


def test_the_oldest_opset_is_among_them():
    assert OPSETS[0] == OLDEST_OPSET
