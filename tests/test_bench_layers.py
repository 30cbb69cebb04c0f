"""`--per-layer`: own time of each node from onnxruntime's profile, and models side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from evonnx import speed
from evonnx.speed import profiling
from evonnx.speed.layers import node_times, op_times
from evonnx.speed.profiling import profile_nodes


def node(name: str, op_type: str, start: float, taken: float, index: int = 0) -> dict[str, Any]:
    details = {"op_name": op_type, "node_index": str(index), "provider": "CPUExecutionProvider"}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": taken, "args": details}


RUN = {"cat": "Session", "name": "model_run", "ts": 0, "dur": 99}
LOAD = {"cat": "Session", "name": "model_loading_uri", "ts": 0, "dur": 99}


def figures(events: list[dict[str, Any]], warm_up: int = 0) -> dict[str, float]:
    return {one.name: one.microseconds for one in node_times(events, warm_up)}


def test_medians_are_over_the_runs_that_count() -> None:
    runs = [[node("a", "Conv", 0, taken), node("b", "Relu", 50, 2), RUN] for taken in (900, 4, 5, 33)]
    events = [LOAD, *(event for run in runs for event in run)]
    assert figures(events, warm_up=1) == {"a": 5, "b": 2}
    nodes = node_times(events, 1)
    assert [one.share for one in nodes] == pytest.approx([5 / 7, 2 / 7])
    assert nodes[0].provider == "CPUExecutionProvider"
    assert node_times(events, 4) == () == node_times([], 0)


def test_a_loop_is_charged_for_itself_only() -> None:
    inner = [node("i", "Add", start, 3, 7) for start in (1, 5)]
    events = [*inner, node("loop", "Loop", 0, 10), node("next", "Relu", 10, 0), RUN]
    assert figures(events) == {"loop": 4, "i": 6, "next": 0}


def test_a_branch_not_taken_counts_as_nothing() -> None:
    taken, other = [node("then", "Add", 0, 8), RUN], [node("else", "Mul", 0, 2), RUN]
    assert figures([*taken, *other, *taken]) == {"then": 8, "else": 0}


def test_nodes_of_one_name_and_none_stay_apart() -> None:
    events = [
        node("r", "ReorderOutput", 0, 1, 4),
        node("r", "ReorderOutput", 1, 2, 9),
        node("", "Add", 3, 5, 3),
    ]
    found = node_times([*events, RUN], 0)
    assert [(one.name, one.microseconds) for one in found] == [("r", 1), ("r", 2), ("Add 3", 5)]
    assert [(one.op_type, one.nodes, one.microseconds) for one in op_times(found)] == [
        ("Add", 1, 5),
        ("ReorderOutput", 2, 3),
    ]
    assert sum(one.share for one in op_times(found)) == pytest.approx(1)


def test_a_profile_without_time_has_no_shares() -> None:
    assert [one.share for one in node_times([node("a", "Add", 0, 0), RUN], 0)] == [0.0]


def test_older_events_and_others_are_let_pass() -> None:
    fence = {"cat": "Node", "name": "a_fence_before", "ts": 0, "dur": 1, "args": {}}
    kernel = {"cat": "Kernel", "name": "gemm", "ts": 0, "dur": 1}
    assert figures([fence, kernel, node("a", "Add", 0, 4), RUN]) == {"a": 4}


def net(path: Path, channels: int) -> Path:
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 13]>
    net (float[N, {channels}, 16, 16] x, bool b) => (float[N, {channels}, 16, 16] y) {{
      c = Conv <pads = [1, 1, 1, 1]> (x, w)
      y = If (b) <
        then_branch = t () => (float[N, {channels}, 16, 16] o) {{ o = Tanh(c) }},
        else_branch = e () => (float[N, {channels}, 16, 16] p) {{ p = Exp(c) }}> }}""")
    weight = np.random.default_rng(0).normal(size=(channels, channels, 3, 3)).astype("f")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    for number, one in enumerate(model.graph.node):
        one.name = f"mine {number}"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_real_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [net(tmp_path / "a.onnx", 8), net(tmp_path / "b.onnx", 4)]
    before = sorted(tmp_path.iterdir())
    result = speed.bench(paths, per_layer=True, rounds=3, threads=1, provider="cpu", batches=(1, 2))
    assert sorted(tmp_path.iterdir()) == before
    found = json.loads(json.dumps(result.to_json()))["per_layer"]
    assert [(one["index"], one["batch"]) for one in found] == [(0, 1), (1, 1), (0, 2), (1, 2)]
    first = found[0]
    assert {"Conv", "If"} <= {one["op_type"] for one in first["nodes"]}
    assert first["microseconds"] == pytest.approx(sum(one["microseconds"] for one in first["nodes"]))
    assert sum(one["nodes"] for one in first["op_types"]) == len(first["nodes"])
    assert any(one["name"] == "mine 1" for one in first["nodes"])
    assert first["runs"] >= 5


def test_slow_models_are_profiled_a_few_times(tmp_path: Path) -> None:
    path = net(tmp_path / "m.onnx", 4)
    feeds = {"x": np.zeros((1, 4, 16, 16), "f"), "b": np.array(True)}
    hours = iter(range(0, 10**9, 3600))
    runs, nodes = profile_nodes(
        str(path), feeds, threads=1, providers=["CPUExecutionProvider"], clock=lambda: next(hours)
    )
    assert runs == profiling._FEWEST
    assert nodes
