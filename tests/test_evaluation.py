"""Evaluation: the metric on the file's own outputs, whatever batch the graph was exported with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from evonnx.errors import TaskError
from evonnx.evaluation import default_batch, evaluate
from evonnx.network import Array
from evonnx.sessions import InputSpec
from evonnx.task import Batch, Loss, Metric, Split


@dataclass
class Toy:
    """Ten examples of three numbers; the score is the mean of (row sum - the model's first output)."""

    x: Array = field(default_factory=lambda: np.arange(30, dtype=np.uint8).reshape(10, 3))
    input_name: str = "x"
    name: str = "toy"
    metric: Metric = field(default_factory=lambda: Metric("difference"))
    loss: Loss = field(default_factory=lambda: Loss("mse"))
    ancestor: str | None = None
    seen: list[tuple[int, ...]] = field(default_factory=list)

    def describe(self) -> str:
        return "toy"

    def size(self, split: Split) -> int:
        return len(self.x) if split == "test" else 0

    def batches(
        self, split: Split, batch_size: int, rng: np.random.Generator | None = None
    ) -> Iterator[Batch]:
        for start in range(0, len(self.x), batch_size):
            rows = self.x[start : start + batch_size]
            yield Batch({self.input_name: rows}, rows.astype(np.float32).sum(1), len(rows))

    def score(self, split: Split, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]) -> float:
        differences = []
        for batch, out in outputs:
            assert batch.targets is not None
            self.seen.append(out["y"].shape)
            differences.append(batch.targets - out["y"].reshape(batch.size, -1)[:, 0])
        return float(np.concatenate(differences).mean())

    def bind_ancestor(self, model_path: str) -> None:
        self.ancestor = model_path


def row_sum(path: Path, batch: str, kind: str = "float") -> Path:
    text = f"""<ir_version: 8, opset_import: ["" : 13]>
    sums ({kind}[{batch}, 3] x) => ({kind}[{batch}, 1] y) {{ y = MatMul(x, w) }}"""
    model = onnx.parser.parse_model(text)
    dtype = {"float": np.float32, "double": np.float64, "float16": np.float16}[kind]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 1), dtype), "w"))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("batch", ["N", "1", "4", "10", "16"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["float", "double", "float16"])
def test_any_exported_batch_gives_the_same_score(tmp_path: Path, batch: str, threads: int, kind: str) -> None:
    task = Toy()
    score = evaluate(row_sum(tmp_path / "m.onnx", batch, kind), task, threads=threads, batch_size=4)
    assert score.value == 0.0
    assert (score.metric, score.examples, score.provider) == ("difference", 10, "CPUExecutionProvider")
    assert task.seen == [(4, 1), (4, 1), (2, 1)]
    assert score.to_json()["split"] == "test"


def test_a_single_input_is_matched_whatever_its_name(tmp_path: Path) -> None:
    assert evaluate(row_sum(tmp_path / "m.onnx", "N"), Toy(input_name="image"), threads=1).value == 0.0


def test_the_ancestor_reaches_a_task_that_needs_it(tmp_path: Path) -> None:
    task = Toy()
    evaluate(row_sum(tmp_path / "m.onnx", "N"), task, threads=1, ancestor=tmp_path / "a.onnx")
    assert task.ancestor == str(tmp_path / "a.onnx")


def test_outputs_without_a_batch_axis_are_stacked(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]>
    sums (float[1, 3] x) => (float[3] y) <int64[1] axis = {0}> { y = Squeeze(x, axis) }"""
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    task = Toy()
    evaluate(path, task, threads=2, batch_size=5)
    assert task.seen == [(5, 3), (5, 3)]


def test_an_output_without_the_fixed_batch_is_an_error(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]>
    sums (float[2, 3] x) => (float[3] y) { y = ReduceSum <keepdims = 0> (x, axis) }"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "axis"))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(TaskError, match="no batch axis of 2"):
        evaluate(path, Toy(), threads=1)


@pytest.mark.parametrize(
    ("task", "split", "message"),
    [
        (Toy(), "train", "no train examples"),
        (Toy(x=np.zeros((4, 5), np.float32)), "test", r"\[4, 5\].*\[N, 3\]"),
        (Toy(x=np.zeros((4, 3, 1), np.float32)), "test", r"\[4, 3, 1\].*\[N, 3\]"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, task: Toy, split: Split, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        evaluate(row_sum(tmp_path / "m.onnx", "N"), task, split, threads=1)


def test_inputs_with_other_names_are_named(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]>
    two (float[N, 3] a, float[N, 3] b) => (float[N, 3] y) { y = Add(a, b) }"""
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    with pytest.raises(TaskError, match=r"\['x'\].*\['a', 'b'\]"):
        evaluate(path, Toy(), threads=1)


@pytest.mark.parametrize(
    ("shape", "expected"), [(("N", 3), 256), (("N", 3, 1024, 1024), 1), (("N", 3, 224, 224), 27), ((), 256)]
)
def test_default_batches_are_bounded_by_memory(shape: tuple[int | str, ...], expected: int) -> None:
    assert default_batch([InputSpec("x", shape, np.dtype(np.float32))]) == expected
