"""`bench` runs a model with loops once under a limit before it times it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_support import CommandLine
from hostile_models import HOSTILE
from test_bad_input import contents

from evonnx.onnx_io import has_loops
from evonnx.speed import measuring


def endless(folder: Path) -> onnx.ModelProto:
    """A model that loops 2^62 times, also in m.onnx."""
    HOSTILE["loop_without_end"](folder)
    return onnx.load(folder / "m.onnx")


@pytest.mark.parametrize("more", ["", "--batch 3", "--precision fp16", "--precision int8 --check"])
def test_what_never_ends_is_not_timed(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = endless(tmp_path)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(proto, tmp_path / "m.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "LOOP_SECONDS", 0.5)
    before = contents(tmp_path)
    shown = CommandLine(capsys)("bench", "m.onnx", "--provider", "cpu", *more.split())
    assert shown.code == 1
    assert "m.onnx: The model does not end within" in shown.err
    assert "bug in evonnx" not in shown.err
    assert contents(tmp_path) == before


def test_loops_that_end_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = endless(tmp_path)
    times = next(tensor for tensor in proto.graph.initializer if tensor.name == "times")
    times.CopyFrom(onnx.numpy_helper.from_array(np.array(3), "times"))
    onnx.save(proto, tmp_path / "m.onnx")
    shown = CommandLine(capsys)("bench", tmp_path / "m.onnx", "--provider", "cpu", "--rounds", 3, "--json")
    assert shown.document["latencies"][0]["median_ms"] > 0


def test_a_name_is_no_loop(tmp_path: Path) -> None:
    """The bytes alone say only that there may be one; subgraphs and functions are looked into."""
    proto = endless(tmp_path)
    inner, other = onnx.ModelProto(), onnx.ModelProto()
    for one in (inner, other):
        one.CopyFrom(proto)
    branch = onnx.GraphProto(node=proto.graph.node)
    del inner.graph.node[:]
    inner.graph.node.append(onnx.helper.make_node("If", ["flag"], ["y"], then_branch=branch))
    other.graph.node[-1].op_type = "Identity"
    other.graph.node[-1].name = "Loop"
    del other.graph.node[-1].attribute[:]
    for name, one in (("m", proto), ("inner", inner), ("other", other)):
        onnx.save(one, tmp_path / f"{name}.onnx")
    found = {name: has_loops(tmp_path / f"{name}.onnx") for name in ("m", "inner", "other", "none")}
    assert found == {"m": True, "inner": True, "other": False, "none": False}
