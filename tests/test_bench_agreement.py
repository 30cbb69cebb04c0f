"""`--check`: what is compared, what the figures are, and why something is not compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest

from evonnx import speed
from evonnx.sessions import InputSpec
from evonnx.speed.agreement import compare, fitted, merge

F = np.dtype("f")


def array(*values: float, dtype: Any = "f") -> np.ndarray:
    return np.array(values, dtype)


COMPARED = {
    "equal": (array(1, -4), array(1, -4), {"largest_difference": 0, "relative_difference": 0, "same": None}),
    "over the largest magnitude": (
        array(1, -4), array(1.5, -4),
        {"largest_difference": 0.5, "magnitude": 4, "relative_difference": 0.125, "not_finite": 0},
    ),
    "zero throughout": (array(0, 0), array(0, 3), {"largest_difference": 3, "relative_difference": None}),
    "classes": (
        array((1, 2), (3, 1)), array((5, 2), (3, 1)),
        {"largest_difference": 4, "same": 1, "of": 2},
    ),
    "not one row per example": (array((1, 2)), array((5, 2)), {"same": None, "of": None}),
    "one class": (array((1,), (2,)), array((1,), (2,)), {"same": None}),
    "integers": (array(7, 8, 9, dtype="i8"), array(7, 0, 9, dtype="i8"), {"same": 2, "of": 3}),
    "truth values": (array(1, 0, dtype="?"), array(1, 1, dtype="?"), {"same": 1, "largest_difference": 1}),
    "the same infinity, the same NaN": (
        array(np.inf, np.nan, 1), array(np.inf, np.nan, 2), {"not_finite": 0, "largest_difference": 1}
    ),
    "infinite in one": (array(np.inf, 1, 1), array(9, np.nan, 1), {"not_finite": 2, "largest_difference": 0}),
    "empty": (np.zeros((0, 5), "f"), np.zeros((0, 5), "f"), {"largest_difference": 0, "same": None}),
    "half": (array(1, 2, dtype="f2"), array(1, 4), {"largest_difference": 2}),
    "bfloat16": (array(1, 2, dtype=ml_dtypes.bfloat16), array(1, 4), {"largest_difference": 2}),
    "another shape": (array(1, 2), array(1, 2, 3), {"reason": "its shape is [3], in the other [2]"}),
    "words": (array(1), np.array(["a"], object), {"reason": "it is not a tensor of numbers"}),
    "a sequence": (array(1), [array(1)], {"reason": "it is not a tensor of numbers"}),
}  # fmt: skip


@pytest.mark.parametrize("case", COMPARED)
def test_figures_of_an_output(case: str) -> None:
    first, other, expected = COMPARED[case]
    (found,) = compare({"y": first}, {"y": other}, batch=2)
    assert {name: getattr(found, name) for name in expected} == expected
    assert (found.largest_difference is None) == (found.reason is not None)
    json.dumps(vars(found), allow_nan=False)


def test_outputs_that_only_one_model_has_are_said() -> None:
    found = compare({"y": array(1), "a": array(1)}, {"b": array(1), "y": array(1)}, batch=1)
    assert [(one.output, one.reason) for one in found] == [
        ("y", None),
        ("a", "only the other model has it"),
        ("b", "only this model has it"),
    ]


def test_runs_are_merged() -> None:
    runs = [
        compare({"y": array((1, 2), (0, -10))}, {"y": array((1, 3), (0, -10))}, batch=2),
        compare({"y": array((1, 2), (0, 1))}, {"y": array((6, 2), (0, 1))}, batch=2),
    ]
    (found,) = merge(runs)
    assert (found.largest_difference, found.magnitude, found.relative_difference) == (5, 10, 0.5)
    assert (found.same, found.of) == (3, 4)
    (refused,) = merge([*runs, compare({"y": array(1)}, {"y": array(1, 2)}, batch=2)])
    assert refused.reason == "its shape is [2], in the other [1]"


FEEDS = {"x": np.ones((2, 3), "f"), "n": np.ones(2, "i8")}
N = InputSpec("n", (2,), np.dtype("i8"))
REFUSED = "its input 'x' does not take the other's [2, 3]"
FITTED = {
    "another order, open dimensions": ([N, InputSpec("x", ("N", None), F)], None),
    "half": ([InputSpec("x", (2, 3), np.dtype("f2")), N], None),
    "other names": ([InputSpec("z", (2, 3), F), N], "its inputs are z, n, the other's x, n"),
    "fewer": ([N], "its inputs are n, the other's x, n"),
    "another size": ([InputSpec("x", ("N", 4), F), N], REFUSED),
    "more axes": ([InputSpec("x", (2, 3, 1), F), N], REFUSED),
    "another kind": (
        [InputSpec("x", (2, 3), np.dtype("i4")), N], "its input 'x' is int32, the other's float32"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FITTED)
def test_inputs_fit_or_not(case: str) -> None:
    specs, reason = FITTED[case]
    found = fitted(FEEDS, specs)
    if reason is None:
        assert not isinstance(found, str)
        assert {name: value.dtype for name, value in found.items()} == {one.name: one.dtype for one in specs}
    else:
        assert found == reason


def linear(path: Path, bias: float, features: int = 3) -> Path:
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 13]>
    net (float[N, {features}] x) => (float[N, {features}] y) <float[1] b = {{{bias}}}> {{ y = Add(x, b) }}""")
    path.write_bytes(model.SerializeToString())
    return path


def test_models_are_compared_at_every_batch_size(tmp_path: Path) -> None:
    paths = [
        linear(tmp_path / "a.onnx", 0.0),
        linear(tmp_path / "b.onnx", 0.25),
        linear(tmp_path / "c.onnx", 0, 4),
    ]
    options = {"batches": (1, 5), "rounds": 3, "threads": 1, "provider": "cpu"}
    assert speed.bench(paths, **options).to_json()["agreement"] is None
    found = speed.bench(paths, check=True, **options).to_json()["agreement"]
    assert [(one["index"], one["batch"], one["examples"]) for one in found] == [
        (1, 1, 16),
        (2, 1, 0),
        (1, 5, 20),
        (2, 5, 0),
    ]
    (output,) = found[0]["outputs"]
    assert output["largest_difference"] == pytest.approx(0.25, rel=1e-5)
    assert (output["same"], output["of"], output["not_finite"]) == (16, 16, 0)
    assert found[1]["outputs"] == ()
    assert found[1]["reason"] == "its input 'x' does not take the other's [1, 3]"
