"""Faults of others: what an adapter, a task or a lack of memory does to a run, and what the report says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from evolution_support import options, run, write_case
from test_evolution import assert_same_run
from test_resume import timeless

from evonnx import evaluation
from evonnx.adapter import RetrainRequest, RetrainResult
from evonnx.errors import (
    AdapterError,
    AdapterHungError,
    AdapterMemoryError,
    EvonnxError,
    ModelMemoryError,
    ScoreError,
    TaskError,
)
from evonnx.evaluation import evaluate
from evonnx.evolution import evolve
from evonnx.evolution.judging import floor_of
from evonnx.evolution.watching import Watch
from evonnx.faults import Fault
from evonnx.network import load_network
from evonnx.report import markdown, read_run, write_report
from evonnx.run_store import read_json
from evonnx.sessions import run_session
from evonnx.task import Metric
from evonnx.tasks import load_task
from evonnx.testing import TinyTask, ToyAdapter

WEIGHT = "fc2.weight"
"""What the toy adapter trains."""


class Faulty(ToyAdapter):
    """Retrains well in generation 1 (one call), and then in the way that is asked for."""

    calls: ClassVar[int] = 0
    asked: ClassVar[list[tuple[float, float]]] = []
    """Shares of the batch size and the rate, call by call."""
    first = 2

    def retrain(self, request: RetrainRequest) -> RetrainResult:
        """As the toy, until the fault's turn."""
        type(self).calls += 1
        self.asked.append((request.budget.batch_share, request.budget.rate_share))
        result = super().retrain(request)
        return result if type(self).calls < self.first else self.spoil(request, result)

    def spoil(self, request: RetrainRequest, result: RetrainResult) -> RetrainResult:
        """The fault."""
        raise NotImplementedError


def _with(result: RetrainResult, array: Any) -> RetrainResult:
    return RetrainResult({**result.weights, WEIGHT: array}, result.history)


class Raises(Faulty):
    def spoil(self, request, result):
        raise KeyError("no such layer")


class Hangs(Faulty):
    def spoil(self, request, result):
        time.sleep(3600)


class ReturnsNothing(Faulty):
    def spoil(self, request, result):
        return None


class ReturnsAnUnknownName(Faulty):
    def spoil(self, request, result):
        return RetrainResult({"fc9.weight": result.weights[WEIGHT]})


class ReturnsAnotherShape(Faulty):
    def spoil(self, request, result):
        return _with(result, result.weights[WEIGHT][:-1])


class ReturnsAnotherType(Faulty):
    def spoil(self, request, result):
        return _with(result, result.weights[WEIGHT].astype(np.float64))


class ReturnsAList(Faulty):
    def spoil(self, request, result):
        return _with(result, result.weights[WEIGHT].tolist())


class BringsDeadOnesBack(Faulty):
    def spoil(self, request, result):
        mask = request.masks[WEIGHT]
        assert not mask.all(), "nothing is dead, so nothing can come back"
        return _with(result, np.where(mask, result.weights[WEIGHT], np.float32(1)))


class AlwaysNan(Faulty):
    def spoil(self, request, result):
        return _with(result, result.weights[WEIGHT] * np.float32(np.nan))


class NanAtFullRate(Faulty):
    def spoil(self, request, result):
        return _with(
            result, result.weights[WEIGHT] * np.float32(np.nan if request.budget.rate_share == 1 else 1)
        )


class NeedsSmallBatches(Faulty):
    interrupted = False

    def spoil(self, request, result):
        if request.budget.batch_share > 0.25:
            raise MemoryError
        if self.interrupted:
            raise KeyboardInterrupt
        return result


class NeverFits(Faulty):
    def spoil(self, request, result):
        raise AdapterMemoryError("The device is full.")


@dataclass(frozen=True)
class Bad:
    """An adapter that ends a run in generation 2."""

    adapter: type[Faulty]
    error: type[EvonnxError]
    says: str
    kinds: tuple[str, ...] = ("failure",)
    """Of the faults in the report."""
    timeout: float | None = None


BAD = [
    Bad(Raises, AdapterError, "'toy' failed while retraining compact.onnx: KeyError: 'no such layer'"),
    Bad(Hangs, AdapterHungError, "no sign of progress for 0.5 s", ("no sign of progress",), 0.5),
    Bad(ReturnsNothing, AdapterError, "returned NoneType instead of a RetrainResult"),
    Bad(ReturnsAnUnknownName, AdapterError, "'fc9.weight', which the model does not have"),
    Bad(ReturnsAnotherShape, AdapterError, "the model has float32"),
    Bad(ReturnsAnotherType, AdapterError, "as float64"),
    Bad(ReturnsAList, AdapterError, "as list, not as a numpy array"),
    Bad(BringsDeadOnesBack, AdapterError, "masked weights that are not zero"),
    Bad(AlwaysNan, AdapterError, "with NaN or infinite values", ("divergence",) * 4),
    Bad(NeverFits, AdapterMemoryError, "The device is full", ("out of memory",) * 4),
]


def begin(folder: Path, adapter: type[Faulty], **changes: Any) -> tuple[Path, Any]:
    """A model, and the options of a run with a faulty adapter."""
    adapter.calls, adapter.asked = 0, []
    model = write_case(folder / "case")
    return model, options(adapter=f"test_faults:{adapter.__name__}", keep=0.6, **changes)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.adapter.__name__)
def test_a_faulty_adapter_ends_the_run_clearly_and_what_was_done_stays(bad, tmp_path):
    model, asked = begin(tmp_path, bad.adapter)
    out = tmp_path / "run"
    with pytest.raises(bad.error, match=bad.says.replace("(", r"\(")):
        evolve(model, out=out, options=asked, retrain_timeout=bad.timeout)
    before = (out / "gen-01" / "compact.onnx").read_bytes()
    assert not (out / "gen-02").exists()
    faults = read_json(out / "run.json")["faults"]
    assert tuple(fault["kind"] for fault in faults) == bad.kinds
    assert bad.says.split("'")[-1] in faults[-1]["detail"]
    assert faults[-1]["action"] == "the run ended; --resume goes on"
    assert f"| {bad.kinds[-1]} |" in write_report(out)[1].read_text()

    bad.adapter.calls = -100  # the adapter is well again
    finished = evolve(model, out=out, options=asked, resume=True).record
    assert (out / "gen-01" / "compact.onnx").read_bytes() == before
    assert finished["faults"] == faults, "what happened is not forgotten"


def test_silence_is_only_counted_between_signs_of_progress():
    watch = Watch(0.3)

    def slow() -> str:
        for _ in range(5):
            time.sleep(0.1)
            watch.heard()
        return "done"

    assert watch.over(slow, "toy", "retraining") == "done"


def test_a_hanging_adapter_does_not_keep_the_process(tmp_path):
    model = write_case(tmp_path / "case")
    words = [sys.executable, "-m", "evonnx", "evolve", str(model), "--out", str(tmp_path / "run")]
    words += [
        "--adapter",
        "test_faults:Hangs",
        "--gens",
        "2",
        "--keep",
        "0.6",
        "--screen",
        "1",
        "--align",
        "1",
    ]
    words += ["--max-drop", "1", "--threads", "1", "--retrain-timeout", "1"]
    here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONPATH": here}
    )
    assert done.returncode == 1
    assert "evonnx: Adapter 'toy' gave no sign of progress for 1 s" in done.stderr
    assert "Traceback" not in done.stderr


def test_nan_is_undone_and_tried_at_a_lower_rate(tmp_path):
    model, asked = begin(tmp_path, NanAtFullRate)
    document = evolve(model, out=tmp_path / "run", options=asked).record
    assert [shares for shares in NanAtFullRate.asked if shares[1] < 1] == [(1, 0.3)] * 2
    assert document["generations"][0]["faults"] == []
    [fault] = document["generations"][1]["faults"]
    assert (fault["stage"], fault["kind"]) == ("retraining", "divergence")
    assert "0.3 of the learning rate" in fault["action"]
    assert len(document["best"]["faults"]) == 1, "recovery training had the same trouble"
    assert document["faults"] == []
    text = markdown(read_run(document))
    assert "## Faults" in text
    assert text.count("| divergence |") == 2


def test_where_memory_does_not_suffice_the_batch_is_halved(tmp_path):
    model, asked = begin(tmp_path, NeedsSmallBatches, recovery_epochs=0)
    document = evolve(model, out=tmp_path / "run", options=asked).record
    assert NeedsSmallBatches.asked == [(1, 1), (1, 1), (0.5, 1), (0.25, 1)]
    faults = document["generations"][1]["faults"]
    assert [fault["kind"] for fault in faults] == ["out of memory"] * 2
    assert "0.25 of the batch size" in faults[1]["action"]
    assert read_json(tmp_path / "run" / "gen-02" / "metrics.json")["faults"] == faults


def test_a_resumed_run_takes_the_small_batches_again_though_there_is_memory_now(tmp_path, monkeypatch):
    model, asked = begin(tmp_path, NeedsSmallBatches, recovery_epochs=0)
    alone = evolve(model, out=tmp_path / "alone", options=asked)
    monkeypatch.setattr(NeedsSmallBatches, "interrupted", True)
    NeedsSmallBatches.calls = 0
    with pytest.raises(KeyboardInterrupt):
        evolve(model, out=tmp_path / "killed", options=asked)
    NeedsSmallBatches.calls = -100
    NeedsSmallBatches.asked.clear()
    resumed = evolve(model, out=tmp_path / "killed", options=asked, resume=True)
    assert NeedsSmallBatches.asked == [(0.25, 1)]
    assert_same_run(alone.folder, resumed.folder)
    assert timeless(alone.folder) == timeless(resumed.folder)


@pytest.mark.parametrize("floor", [None, 2.0], ids=["default", "given"])
def test_a_collapsed_offspring_is_sampled_again_less_pruned(floor, tmp_path, monkeypatch):
    model = write_case(tmp_path / "case")
    scores = iter([0.9, 0.9, *((0.3, 0.4, 0.8) if floor is None else (1.0, 1.5, 2.5)), 0.8, 0.8, 0.8])
    monkeypatch.setattr(
        "evonnx.evolution.judging.evaluate",
        lambda model, task, split, threads: evaluation.Score(next(scores), "accuracy", split, 1, 0.0, "cpu"),
    )
    asked = options(keep=0.6, generations=1, screen=1, max_drop=0.04, recovery_epochs=0)
    document = evolve(model, out=tmp_path / "run", options=replace(asked, floor=floor)).record
    [row] = document["generations"]
    assert row["budget"] == pytest.approx(0.6**0.25)
    assert row["achieved"] <= 0.6**0.25
    assert [(fault["stage"], fault["kind"]) for fault in row["faults"]] == [("selection", "collapse")] * 2
    assert "accuracy 0.3 is beyond the floor of 0.45" in row["faults"][0]["detail"] or floor is not None
    assert {path.name for path in (tmp_path / "run" / "gen-01").iterdir()} == {
        *("masked.onnx", "compact.onnx", "masks.safetensors", "lineage.safetensors", "metrics.json")
    }


def test_where_nothing_helps_the_last_attempt_counts(tmp_path):
    model = write_case(tmp_path / "case")
    asked = options(keep=0.6, generations=3, screen=1, max_drop=0.0)
    record = evolve(model, out=tmp_path / "run", options=replace(asked, floor=2.0)).record
    assert [fault["action"] for fault in record["generations"][0]["faults"]] == [
        *["discarded, and sampled again with half of the step taken"] * 2
    ]


@pytest.mark.parametrize(
    ("metric", "ancestor", "max_drop", "floor"),
    [
        (Metric("accuracy"), 0.9, 0.04, 0.45),
        (Metric("accuracy"), 0.9, 0.6, 0.3),
        (Metric("r2"), -0.1, 0.04, None),
        (Metric("error", False), 0.1, 0.04, 0.55),
        (Metric("error", False), 0.1, 0.7, 0.8),
        (Metric("loss", False), 5.0, 0.04, 10.0),
        (Metric("log-likelihood", False), -5.0, 0.04, None),
    ],
)
def test_the_floor_is_half_of_the_way_to_the_worst(metric, ancestor, max_drop, floor):
    assert floor_of(metric, ancestor, max_drop) == (None if floor is None else pytest.approx(floor))


TASK_CODE = """
import numpy as np
from evonnx.testing import TinyTask
from evonnx.task import Batch

class Mine(TinyTask):
    def __init__(self, config, network):
        super().__init__()

{member}
"""

BATCHES = "    def batches(self, split, batch_size, rng=None):\n        "
BAD_TASKS = {
    "batches raise": (
        BATCHES + "yield from {}[split]",
        r"fails in batches\('validation'\): it raised KeyError: 'validation'",
    ),
    "no batches": (
        BATCHES + "return None",
        r"fails in batches\('validation'\): it raised TypeError",
    ),
    "other batches": (
        BATCHES + "yield [1, 2]",
        "it yields list, not a Batch",
    ),
    "empty batches": (
        BATCHES + "yield Batch({'images': np.zeros((0, 1))}, None, 0)",
        "it yields a batch of size 0",
    ),
    "no inputs": (
        BATCHES + "yield Batch({}, None, 3)",
        "whose inputs are dict, not arrays by input name",
    ),
    "lists": (
        BATCHES + "yield Batch({'images': [1.0]}, None, 1)",
        "input 'images' of a batch is list",
    ),
    "objects": (
        BATCHES + "yield Batch({'images': np.array([None])}, None, 1)",
        "input 'images' of a batch holds Python objects",
    ),
    "other lengths": (
        BATCHES + "for batch in super().batches(split, batch_size, rng):\n"
        "            yield Batch(batch.inputs, batch.targets[1:], batch.size)",
        r"targets of a batch of \d+ has shape",
    ),
    "size": ("    def size(self, split):\n        return None", r"fails in size\('validation'\): it is None"),
    "size raises": ("    def size(self, split):\n        return 1 / 0", "raised ZeroDivisionError"),
    "score raises": (
        "    def score(self, split, outputs):\n        raise OSError('gone')",
        "it raised OSError: gone",
    ),
    "score is text": (
        "    def score(self, split, outputs):\n        list(outputs)\n        return 'good'",
        "it is str, not a number",
    ),
    "describe raises": ("    def describe(self):\n        return self.nothing", "raised AttributeError"),
    "details raise": (
        "    def details(self, split, outputs):\n        return {}['precision']",
        r"fails in details\('validation'\): it raised KeyError",
    ),
    "bind_ancestor raises": (
        "    def bind_ancestor(self, path):\n        raise RuntimeError('no')",
        "fails in bind_ancestor: it raised RuntimeError: no",
    ),
}


def written_task(folder: Path, member: str) -> Path:
    """A task file with a class of the user's, and its model."""
    model = write_case(folder)
    (folder / "mine.py").write_text(TASK_CODE.replace("{member}", member))
    (folder / "model.toml").write_text('[task]\nkind = "mine.py:Mine"\n')
    return model


@pytest.mark.parametrize("name", BAD_TASKS)
def test_a_faulty_task_is_told_of_in_its_own_words(name, tmp_path):
    member, says = BAD_TASKS[name]
    model = written_task(tmp_path / "case", member)
    task = load_task(tmp_path / "case" / "model.toml", load_network(model))

    def used() -> None:
        task.describe()
        evaluate(model, task, "validation", ancestor=model)

    with pytest.raises(TaskError, match=says) as caught:
        used()
    if "raise" in name:
        assert caught.value.__cause__ is not None, "--debug shows where"


def test_a_task_of_the_users_keeps_all_its_members(tmp_path):
    members = "    limit = 7\n    def details(self, split, outputs):\n        "
    members += "return {self.metric.name: super().score(split, outputs), 'more': 1}"
    model = written_task(tmp_path / "case", members)
    task = load_task(tmp_path / "case" / "model.toml", load_network(model))
    assert task.limit == 7
    assert task.name == TinyTask().name
    assert evaluate(model, task, "validation").details == {"more": 1.0}
    with pytest.raises(AttributeError):
        task.nothing  # noqa: B018


def test_a_task_that_fails_later_ends_the_run_and_the_report_says_so(tmp_path):
    member = (
        "    calls = 0\n    def score(self, split, outputs):\n        type(self).calls += 1\n"
        "        if self.calls > 5:\n            raise ValueError('the disk went away')\n"
        "        return super().score(split, outputs)"
    )
    model = written_task(tmp_path / "case", member)
    out = tmp_path / "run"
    with pytest.raises(TaskError, match="the disk went away"):
        run(model, out, screen=1, generations=3)
    record = read_json(out / "run.json")
    assert len(list(out.glob("gen-*"))) == len(record["generations"]) >= 1
    [fault] = record["faults"]
    assert (fault["stage"], fault["kind"]) == ("scoring", "failure")
    assert "the disk went away" in write_report(out)[1].read_text()


def test_a_score_that_is_no_number_is_refused(tmp_path):
    member = "    def score(self, split, outputs):\n        list(outputs)\n        return float('nan')"
    model = written_task(tmp_path / "case", member)
    task = load_task(tmp_path / "case" / "model.toml", load_network(model))
    with pytest.raises(ScoreError, match=r"model.onnx on validation data is nan"):
        evaluate(model, task, "validation")


def test_offspring_without_a_score_are_sampled_again_and_at_last_given_up(tmp_path, monkeypatch):
    model = write_case(tmp_path / "case")

    def scored(path: Any, task: Any, split: str, threads: int) -> evaluation.Score:
        if Path(str(path)) != model:
            raise ScoreError("The accuracy is nan.")
        return evaluation.Score(0.9, "accuracy", split, 1, 0.0, "cpu")

    monkeypatch.setattr("evonnx.evolution.judging.evaluate", scored)
    with pytest.raises(ScoreError, match="No offspring of generation 1 has a accuracy that is a number"):
        evolve(model, out=tmp_path / "run", options=options(generations=1))


class Small:
    """A session that has memory for so many examples at a time."""

    def __init__(self, session: Any, most: int) -> None:
        self.session, self.most = session, most

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, names: Any, feeds: Any) -> Any:
        """Run, if it fits."""
        if len(next(iter(feeds.values()))) > self.most:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 17179869184")
        return self.session.run(names, feeds)


@pytest.mark.parametrize(("most", "halvings"), [(1000, 0), (16, 2), (1, 6)])
def test_scoring_halves_its_batches_where_memory_does_not_suffice(most, halvings, tmp_path, monkeypatch):
    model = write_case(tmp_path / "case")
    task = load_task(tmp_path / "case" / "model.toml", load_network(model))
    usual = evaluate(model, task, "validation", batch_size=64)
    make = evaluation.make_session
    monkeypatch.setattr(evaluation, "make_session", lambda *args, **more: Small(make(*args, **more), most))
    found = evaluate(model, task, "validation", batch_size=64)
    assert (found.value, found.examples) == (usual.value, usual.examples)
    assert (found.batch_size, found.halvings) == (64 >> halvings, halvings)


def test_scoring_without_any_memory_is_one_clear_error(tmp_path, monkeypatch):
    model = write_case(tmp_path / "case")
    task = load_task(tmp_path / "case" / "model.toml", load_network(model))
    make = evaluation.make_session
    monkeypatch.setattr(evaluation, "make_session", lambda *args, **more: Small(make(*args, **more), 0))
    with pytest.raises(ModelMemoryError, match=r"not enough memory to run the model on images \[1, "):
        evaluate(model, task, "validation")


@pytest.mark.parametrize(
    "words",
    [
        "std::bad_alloc",
        "Failed to allocate memory for requested buffer",
        "CUDA out of memory",
        "bad allocation",
    ],
)
def test_onnxruntimes_words_for_a_lack_of_memory_are_known(words):
    class Full:
        def run(self, names: Any, feeds: Any) -> Any:
            raise RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {words}")

    with pytest.raises(ModelMemoryError):
        run_session(Full(), {"x": np.zeros((2, 3))}, ["y"])


def test_halved_scoring_is_in_the_row(tmp_path, monkeypatch):
    model = write_case(tmp_path / "case")
    make = evaluation.make_session
    monkeypatch.setattr(evaluation, "make_session", lambda *args, **more: Small(make(*args, **more), 32))
    document = run(model, tmp_path / "run", generations=1, screen=1)
    assert {fault["kind"] for fault in document["generations"][0]["faults"]} == {"out of memory"}
    assert all(fault["stage"] == "scoring" for fault in document["generations"][0]["faults"])


def test_faults_are_plain_data():
    fault = Fault("retraining", "divergence", "It is NaN.", "tried again")
    assert Fault(**json.loads(json.dumps(fault.to_json()))) == fault
