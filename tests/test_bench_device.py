"""Bench on a GPU, without one: a session that says it runs on CUDA, and counts how it was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from test_speed import conv

from evonnx import sessions, speed
from evonnx.sessions import CPU, CUDA, TENSORRT, make_session, run_session
from evonnx.speed import gpu, measuring
from evonnx.speed.binding import GRAPH_OPTIONS, bound_run
from evonnx.speed.placing import placement_note, why_no_graph
from evonnx.speed.running import way_to_run

ON_CUDA: Mapping[str, Sequence[str]] = {CUDA: ("conv1 (Conv)", "Relu")}
MIXED: Mapping[str, Sequence[str]] = {
    CUDA: ("conv1 (Conv)",),
    CPU: ("a (NonZero)", "b (Shape)", "c (X)", "Y"),
}


class FakeValues:
    """`onnxruntime.OrtValue` of a machine that has any device."""

    @staticmethod
    def ortvalue_from_numpy(array: Any, device: str, number: int) -> Any:
        return SimpleNamespace(array=array, device=device)

    @staticmethod
    def ortvalue_from_shape_and_type(shape: Sequence[int], dtype: Any, device: str, number: int) -> Any:
        return SimpleNamespace(array=np.zeros(shape, dtype), device=device)


@dataclass
class FakeBinding:
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    synchronized: int = 0

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: Any) -> None:
        self.outputs[name] = value

    def bind_output(self, name: str, device: str, number: int) -> None:
        self.outputs[name] = device

    def synchronize_inputs(self) -> None:
        pass

    def synchronize_outputs(self) -> None:
        self.synchronized += 1


@dataclass
class FakeSession:
    """A session on the CPU that says where its nodes would run."""

    real: Any
    nodes: Mapping[str, Sequence[str]] | None = field(default_factory=lambda: ON_CUDA)
    refuses: str = ""
    """What onnxruntime says when it is asked to run on bound values."""
    plain: int = 0
    bound: int = 0
    bindings: list[FakeBinding] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def run(self, names: Any, feeds: Any) -> Any:
        self.plain += 1
        return self.real.run(names, feeds)

    def io_binding(self) -> FakeBinding:
        self.bindings.append(FakeBinding())
        return self.bindings[-1]

    def run_with_iobinding(self, binding: FakeBinding) -> None:
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.bound += 1
        self.real.run(None, {name: value.array for name, value in binding.inputs.items()})

    @property
    def get_provider_graph_assignment_info(self) -> Any:
        if self.nodes is None:
            return None
        parts = []
        for name, labels in self.nodes.items():
            nodes = list(map(_node, labels))
            parts.append(SimpleNamespace(ep_name=name, get_nodes=lambda nodes=nodes: nodes))
        return lambda: parts


def _node(label: str) -> Any:
    name, _, op_type = label.rpartition(" ")
    return SimpleNamespace(name=name, op_type=op_type.strip("()"))


@pytest.fixture(autouse=True)
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "OrtValue", FakeValues)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return conv(tmp_path / "m.onnx", 4)


FEEDS = {"x": np.zeros((1, 8, 16, 16), np.float32)}


def fake(model: Path, **given: Any) -> Any:
    return SimpleNamespace(label=model.name, session=FakeSession(make_session(model, threads=1), **given))


def test_bound_runs_take_the_same_values(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # onnxruntime's own values, on the device that is here
    session = make_session(model, threads=1)
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 8, 16, 16)).astype("f")}
    expected = run_session(session, feeds)
    kept: list[Any] = []

    class Kept(onnxruntime.OrtValue):
        @classmethod
        def ortvalue_from_shape_and_type(cls, *given: Any) -> Any:
            kept.append(onnxruntime.OrtValue.ortvalue_from_shape_and_type(*given))
            return kept[-1]

    bound_run(session, feeds, "cpu")()
    run = bound_run(session, feeds, "cpu", fixed=expected, values=Kept)
    run()
    np.testing.assert_array_equal(kept[0].numpy(), expected["y"])


def test_on_the_cpu_there_is_nothing_to_bind(model: Path) -> None:
    one = fake(model)
    way = way_to_run([one], [FEEDS], CPU, None)
    way.runs[0]()
    assert (way.copies, way.cuda_graphs, way.notes) == ("none", False, ())
    assert (one.session.plain, one.session.bound) == (2, 0)


def test_on_a_device_inputs_and_outputs_stay_there(model: Path) -> None:
    for provider in (CUDA, TENSORRT):
        one = fake(model)
        way = way_to_run([one], [FEEDS], provider, None)
        way.runs[0]()
        assert (way.copies, way.cuda_graphs, way.notes) == ("excluded", False, ())
        assert (one.session.plain, one.session.bound) == (1, 2)
        (binding,) = one.session.bindings
        assert binding.inputs["x"].device == "cuda"
        assert binding.outputs == {"y": "cuda"}
        assert binding.synchronized == 2, "a run ends when its outputs are there"


def test_what_cannot_be_bound_for_one_is_bound_for_none(model: Path) -> None:
    models = [fake(model), fake(model, refuses="no such buffer")]
    way = way_to_run(models, [FEEDS, FEEDS], CUDA, None)
    for run in way.runs:
        run()
    assert way.copies == "included"
    assert way.notes == ("Times include copies: m.onnx can't be run on bound inputs (no such buffer).",)
    assert [one.session.plain for one in models] == [2, 2]


def test_a_provider_whose_memory_is_not_known_is_timed_with_copies(model: Path) -> None:
    way = way_to_run([fake(model)], [FEEDS], "OddExecutionProvider", None)
    assert way.copies == "included"
    assert "which memory OddExecutionProvider computes in" in way.notes[0]


def test_graphs_are_captured_into_buffers_that_stay(model: Path) -> None:
    captured = FakeSession(make_session(model, threads=1))
    way = way_to_run([fake(model)], [FEEDS], CUDA, lambda index: captured)
    way.runs[0]()
    assert (way.copies, way.cuda_graphs, way.notes) == ("excluded", True, ())
    assert (captured.plain, captured.bound) == (0, 2)
    assert captured.bindings[0].outputs["y"].array.shape == (1, 4, 16, 16)


REFUSED = {
    "elsewhere": (MIXED, "4 of its nodes run elsewhere (a (NonZero), b (Shape), c (X) and 1 more)"),
    "branches": ({CUDA: ["b (If)", "Loop"]}, "what it computes depends on its data (b (If), Loop)"),
    "unknown": (None, "this onnxruntime does not report where its nodes run"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_graphs_are_for_all_models_or_none(case: str, model: Path) -> None:
    nodes, reason = REFUSED[case]

    def capturing(index: int) -> Any:
        raise AssertionError("nothing to capture")

    way = way_to_run([fake(model), fake(model, nodes=nodes)], [FEEDS, FEEDS], CUDA, capturing)
    assert (way.copies, way.cuda_graphs) == ("excluded", False)
    assert way.notes == (f"No CUDA graphs: of m.onnx, {reason}.",)


def test_a_capture_that_fails_is_said(model: Path) -> None:
    refusing = FakeSession(make_session(model, threads=1), refuses="operation not permitted when capturing")
    for capturing in (lambda index: refusing, lambda index: make_session(model, providers="nonsense")):
        one = fake(model)
        way = way_to_run([one], [FEEDS], CUDA, capturing)
        assert (way.copies, way.cuda_graphs) == ("excluded", False)
        assert way.notes[0].startswith("No CUDA graphs: m.onnx can't be captured (")
        way.runs[0]()
        assert one.session.bound == 2


def test_placement_in_words() -> None:
    assert placement_note("m.onnx", ON_CUDA, CUDA) is None
    assert placement_note("m.onnx", {CUDA: ["a"], CPU: []}, CUDA) is None
    assert placement_note("m.onnx", MIXED, CUDA) == (
        "m.onnx does not run on CUDAExecutionProvider as a whole: 1 of its nodes do, "
        "4 run on CPUExecutionProvider (a (NonZero), b (Shape), c (X) and 1 more)."
    )
    assert "not known" in (placement_note("m.onnx", None, CUDA) or "")
    assert why_no_graph(ON_CUDA, CUDA) is None


@pytest.mark.parametrize(
    ("nodes", "graphs", "expected"),
    [
        (ON_CUDA, True, ("excluded", True)),
        (ON_CUDA, False, ("excluded", False)),
        (MIXED, True, ("excluded", False)),
    ],
)
def test_bench_on_a_device(
    nodes: Any, graphs: bool, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def make(source: Any, *, threads: int, providers: Sequence[str], **options: Any) -> FakeSession:
        assert providers == (CUDA, CPU)
        made.append(options.get("provider_options"))
        return FakeSession(make_session(source, threads=threads), nodes)

    monkeypatch.setattr(measuring, "make_session", make)
    monkeypatch.setattr(measuring, "read_device", lambda: gpu.read_device(smi(NOW), {}))
    paths = [conv(tmp_path / "a.onnx", 8), conv(tmp_path / "b.onnx", 4)]
    result = speed.bench(
        paths, provider="cuda", batches=(1, 2), rounds=3, threads=1, check=True, cuda_graphs=graphs
    )
    document = result.to_json()
    assert (document["copies"], document["cuda_graphs"]) == expected
    assert document["provider"] == CUDA
    assert document["device"]["name"] == "NVIDIA X100"
    assert any(note.startswith("The driver held") for note in result.notes)
    assert made.count(GRAPH_OPTIONS) == (4 if expected[1] else 0)
    placed = [note for note in result.notes if "as a whole" in note]
    assert len(placed) == (2 if nodes is MIXED else 0)
    assert [note for note in result.notes if note.startswith("No CUDA graphs")] == [
        note for note in result.notes if "4 of its nodes run elsewhere" in note
    ]


def test_batch_sizes_that_were_run_in_different_ways_are_told_apart() -> None:
    parts = [
        SimpleNamespace(batch=1, copies="excluded", cuda_graphs=True, notes=()),
        SimpleNamespace(batch=8, copies="excluded", cuda_graphs=False, notes=("why",)),
        SimpleNamespace(batch=9, copies="excluded", cuda_graphs=False, notes=("why",)),
    ]
    assert measuring._way_notes(parts) == [
        "why",
        "Batch sizes were run in different ways: 1 (copies excluded, CUDA graphs), 8 (copies excluded), "
        "9 (copies excluded).",
    ]
    assert measuring._way_notes(parts[:1]) == []


def test_provider_options_reach_onnxruntime(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Session:
        def __init__(self, source: Any, options: Any, **given: Any) -> None:
            seen.update(given)

        def get_providers(self) -> list[str]:
            return [CUDA, CPU]

        def disable_fallback(self) -> None:
            pass

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(sessions.making, "missing_gpu", lambda: None)
    sessions.make_session(model, providers="cuda", provider_options=GRAPH_OPTIONS)
    assert seen["providers"] == [CUDA, CPU]
    assert seen["provider_options"] == [{"enable_cuda_graph": "1"}, {}]


NOW = "NVIDIA X100, 570.1, 1755, 1980, 301.25, 64, Not Active, Not Active, Active, Not Active\n"
OLD = "NVIDIA K8, 390.1, 600, [N/A], [Not Supported], 64, Not Active, Not Active, Not Active, Not Active\n"


def smi(*answers: Any) -> Any:
    """nvidia-smi: an answer, a refusal (None) or an error per call."""
    given = list(answers)

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        assert command[0] == "nvidia-smi"
        answer = given.pop(0)
        if isinstance(answer, Exception):
            raise answer
        refusal = 'Field "clocks_event_reasons.x" is not a valid field to query.'
        return SimpleNamespace(returncode=int(answer is None), stdout=answer or refusal, stderr="")

    return run


def test_the_device_is_named_with_clocks_and_power() -> None:
    device = gpu.read_device(smi(NOW), {})
    assert (device.name, device.driver, device.reason) == ("NVIDIA X100", "570.1", None)
    assert (device.mhz, device.mhz_max, device.watts, device.celsius) == (1755, 1980, 301.25, 64)
    assert device.slowed == ("sw_thermal_slowdown",)
    assert gpu.device_note(device) == (
        "The driver held NVIDIA X100's clocks down while this was measured (sw thermal slowdown)."
    )


def test_older_drivers_are_asked_in_their_words() -> None:
    device = gpu.read_device(smi(None, OLD), {})
    assert (device.name, device.mhz, device.mhz_max, device.watts) == ("NVIDIA K8", 600, None, None)
    assert gpu.device_note(device) is None


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ((FileNotFoundError(),), "nvidia-smi does not tell: FileNotFoundError"),
        ((None, None), "nvidia-smi does not tell: Field "),
        (("odd\n", "odd\n"), "nvidia-smi does not tell: odd"),
    ],
)
def test_a_driver_that_does_not_tell_is_a_reason(answers: Any, reason: str) -> None:
    device = gpu.read_device(smi(*answers), {})
    assert device.name is None
    assert (device.reason or "").startswith(reason)
    assert (gpu.device_note(device) or "").startswith("Of the device nothing is known: ")


@pytest.mark.parametrize(
    ("visible", "first"), [(None, "0"), ("", "0"), ("2,0", "2"), ("GPU-ab ,1", "GPU-ab")]
)
def test_the_device_that_cuda_may_use_is_asked(visible: str | None, first: str) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        asked.append(command)
        return SimpleNamespace(returncode=0, stdout=NOW, stderr="")

    gpu.read_device(run, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert asked[0][1] == f"--id={first}"
