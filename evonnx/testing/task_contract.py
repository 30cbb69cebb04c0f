"""What every task must do; the built-in ones run this too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from evonnx.network import Array, load_network
from evonnx.sessions import input_specs, make_session, run_session
from evonnx.task import Batch, Detailed, Metric, NeedsAncestor, Split, Task
from evonnx.tasks import check_protocol

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class TaskContract:
    """Override `model` (an ONNX file) and `task` (a task for it)."""

    disjoint = True
    """Whether no example of train may appear in validation or test."""

    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        """A model that the task can feed; it serves as the ancestor too."""
        raise NotImplementedError("override the fixture `model`")

    @pytest.fixture
    def task(self, model: Path) -> Task:
        """The task under test."""
        raise NotImplementedError("override the fixture `task`")

    def test_follows_the_protocol(self, task: Task) -> None:
        """All members are there, and a metric says what it means."""
        check_protocol(task, type(task).__name__)
        assert isinstance(task, Task)
        assert task.name
        assert task.metric.name
        assert _worse(task.metric) != task.metric.scale
        assert task.metric.better(task.metric.scale, _worse(task.metric))

    def test_describes_itself_in_one_line(self, task: Task) -> None:
        """One line of text."""
        text = task.describe()
        assert text.strip()
        assert "\n" not in text

    @pytest.mark.parametrize("split", SPLITS)
    def test_batches_hold_every_example_once(self, task: Task, split: Split) -> None:
        """Sizes add up to the split's, whatever the batch size, and the order is always the same."""
        size = task.size(split)
        assert size > 0, f"no {split} examples"
        every = _examples(task, split, 7)
        assert len(every) == size
        assert every == _examples(task, split, 5)
        largest = max(batch.size for batch in task.batches(split, 7))
        assert largest <= 7

    def test_shuffling_keeps_the_examples(self, task: Task) -> None:
        """A generator decides the order, equal generators the same; nothing is lost."""
        plain = _examples(task, "train", 8)
        one = _examples(task, "train", 8, np.random.default_rng(1))
        other = _examples(task, "train", 8, np.random.default_rng(1))
        assert one == other
        assert sorted(one) == sorted(plain)
        assert one != plain or len(plain) < 3

    def test_splits_share_no_example(self, task: Task) -> None:
        """What is trained on is not what is scored."""
        if not self.disjoint:
            pytest.skip("the data has the same example in several splits")
        train = set(_examples(task, "train", 16))
        for split in ("validation", "test"):
            assert not train & set(_examples(task, split, 16)), split

    @pytest.mark.parametrize("split", SPLITS)
    def test_inputs_fit_the_model(self, task: Task, model: Path, split: Split) -> None:
        """Names, dtypes and shapes are the graph's, and every value is finite."""
        specs = {spec.name: spec for spec in input_specs(make_session(model, threads=1))}
        for batch in task.batches(split, 4):
            assert set(batch.inputs) == set(specs)
            for name, array in batch.inputs.items():
                assert array.dtype == specs[name].dtype
                assert len(array.shape) == len(specs[name].shape)
                assert np.all(np.isfinite(array.astype(np.float64)))
            if task.loss.kind != "distillation":
                _check_targets(task, batch)

    def test_scores_are_on_the_scale(self, task: Task, model: Path) -> None:
        """Scoring the model itself is repeatable and within the metric's scale."""
        if isinstance(task, NeedsAncestor):
            task.bind_ancestor(str(model))
        score = task.score("test", _outputs(task, "test", model, 6))
        assert score == task.score("test", _outputs(task, "test", model, 6))
        assert np.isfinite(score)
        if task.metric.higher_is_better:
            assert score <= task.metric.scale + 1e-6
        if isinstance(task, NeedsAncestor):
            assert score == pytest.approx(task.metric.scale, abs=1e-4)

    def test_details_hold_the_score(self, task: Task, model: Path) -> None:
        """A task with more figures gives finite ones, and its score among them."""
        if not isinstance(task, Detailed):
            pytest.skip("the task has its score only")
        details = task.details("test", _outputs(task, "test", model, 6))
        assert details[task.metric.name] == task.score("test", _outputs(task, "test", model, 6))
        assert all(np.isfinite(value) for value in details.values())

    def test_batch_size_does_not_change_the_score(self, task: Task, model: Path) -> None:
        """The metric is over the whole split."""
        if isinstance(task, NeedsAncestor):
            task.bind_ancestor(str(model))
        one, other = (task.score("test", _outputs(task, "test", model, size)) for size in (3, 16))
        assert one == pytest.approx(other, abs=1e-5)

    def test_model_is_a_network(self, model: Path) -> None:
        """The fixture itself is a model that evonnx can read."""
        assert load_network(model).input_shapes


def _check_targets(task: Task, batch: Batch) -> None:
    """One target per example: an array, or for a loss of terms one per term's output with its weights."""
    assert batch.targets is not None
    if task.loss.kind != "terms":
        assert len(batch.targets) == batch.size
        return
    assert isinstance(batch.targets, Mapping)
    assert task.loss.terms
    assert set(batch.targets) == {term.output for term in task.loss.terms}
    for values, weights in batch.targets.values():
        assert len(values) == batch.size
        assert np.all(np.isfinite(values))
        if weights is not None:
            assert np.all(weights.astype(np.float64) >= 0)
            assert np.broadcast_shapes(weights.shape, values.shape) == values.shape


def _worse(metric: Metric) -> float:
    return metric.scale - 1 if metric.higher_is_better else metric.scale + 1


def _examples(task: Task, split: Split, size: int, rng: np.random.Generator | None = None) -> list[bytes]:
    """Every example as bytes, in order. Inputs without the batch axis belong to the whole batch."""
    found = []
    for batch in task.batches(split, size, rng):
        for place in range(batch.size):
            rows = [
                array[place] if array.ndim and len(array) == batch.size else array
                for _, array in sorted(batch.inputs.items())
            ]
            found.append(b"".join(np.ascontiguousarray(row).tobytes() for row in rows))
    return found


def _outputs(task: Task, split: Split, model: Path, size: int) -> Iterator[tuple[Batch, Mapping[str, Array]]]:
    session = make_session(model, threads=1)
    for batch in task.batches(split, size):
        yield batch, run_session(session, batch.inputs)
