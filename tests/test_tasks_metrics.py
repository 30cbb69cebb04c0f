"""Metrics by hand, splits as properties, synthesised inputs and the ancestor's outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graph_builder import Builder
from hypothesis import given
from hypothesis import strategies as st

from evonnx.errors import TaskError
from evonnx.evaluation import evaluate
from evonnx.network import load_network
from evonnx.tasks import find_task
from evonnx.tasks._outputs import ModelOutputs
from evonnx.tasks._synthetic import smooth_noise
from evonnx.tasks.data.splits import hold_out
from evonnx.tasks.distillation import DistillationTask
from evonnx.tasks.metrics import ACCURACY, AGREEMENT, Accuracy, Agreement, scores_per_class, top_classes
from evonnx.testing import tiny_classifier
from evonnx.testing.models import save


def test_metrics_say_direction_and_scale():
    assert ACCURACY.drop(0.9, 0.85) == pytest.approx(0.05)
    assert ACCURACY.better(0.9, 0.85)
    assert not AGREEMENT.better(0.9, 0.9)
    assert (ACCURACY.unit, ACCURACY.scale, AGREEMENT.unit, AGREEMENT.scale) == ("%", 1.0, "%", 1.0)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1, 1), (4, 3, 1)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_accuracy_counts_the_largest(shape, dtype):
    scores = np.array([[0, 2, 1], [5, 2, 1], [-3, -2, -1], [np.nan, 0, 0]], dtype)
    accuracy = Accuracy()
    rows = scores_per_class(scores.reshape(shape))
    assert rows is not None
    accuracy.add(rows, np.array([1, 1, 2, 0]))
    assert accuracy.value == 0.5  # NaN is never right
    assert top_classes(rows).tolist() == [1, 0, 2, -1]


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 2), (4, 3, 1, 2)])
def test_other_shapes_are_no_scores(shape):
    assert scores_per_class(np.zeros(shape)) is None


ROWS = np.eye(4)[[0, 1, 2, 3]] * 3.0
BOXES = np.arange(24, dtype=np.float64).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("ancestor", "offspring", "value"),
    [
        ({"y": ROWS}, {"y": ROWS * 0.1}, 1.0),  # same classes
        ({"y": ROWS}, {"y": ROWS[[0, 1, 3, 2]]}, 0.5),
        ({"y": ROWS}, {"y": np.full((4, 4), np.nan)}, 0.0),
        # One class throughout says nothing: energy reproduced.
        ({"y": np.full((4, 4), 2.0)}, {"y": np.full((4, 4), 1.5)}, 0.9375),
        ({"b": BOXES}, {"b": BOXES}, 1.0),
        ({"b": BOXES}, {"b": BOXES * 1.25}, 0.9375),
        ({"b": BOXES}, {"b": -BOXES}, 0.0),
        ({"b": BOXES}, {"b": BOXES + np.inf}, 0.0),
        ({"b": BOXES}, {"b": BOXES[:1]}, 0.0),  # other shapes
        ({"b": BOXES * 0}, {"b": BOXES * 0}, 1.0),
        ({"b": BOXES * 0}, {"b": BOXES}, 0.0),
        ({"b": BOXES, "y": ROWS}, {"b": BOXES * 1.5, "y": ROWS}, 0.875),  # mean of 0.75 and 1
        ({"n": np.array([1, 2, 3, 4])}, {"n": np.array([1, 2, 0, 4])}, 0.75),
        (
            {"n": np.array([1, 2]), "b": BOXES},
            {"n": np.array([7, 7]), "b": BOXES},
            1.0,
        ),  # integers do not count
    ],
)
def test_agreement(ancestor, offspring, value):
    agreement = Agreement()
    agreement.add(ancestor, offspring)
    assert agreement.value == pytest.approx(value)


def test_agreement_is_over_all_batches():
    whole, parts = Agreement(), Agreement()
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(30, 5, 2)), rng.normal(size=(30, 5, 2))
    whole.add({"b": one}, {"b": one + 0.1 * other})
    for start in range(0, 30, 7):
        rows = slice(start, start + 7)
        parts.add({"b": one[rows]}, {"b": (one + 0.1 * other)[rows]})
    assert parts.value == pytest.approx(whole.value)
    assert Agreement().value == 0.0


# --- splits


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=60),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_held_out_shares_are_stratified(labels, share, seed):
    values, every = np.array(labels), np.arange(len(labels))
    kept, held = hold_out(every, values, share, np.random.default_rng(seed))
    assert sorted([*kept, *held]) == every.tolist()
    assert len(held) > 0
    assert len(kept) > 0
    counts = np.bincount(values, minlength=5)
    for label, out in enumerate(np.bincount(values[held], minlength=5)):
        if counts[label] > 1:
            assert 1 <= out < counts[label]
            assert abs(out - share * counts[label]) <= 1
    again = hold_out(every, values, share, np.random.default_rng(seed))
    assert np.array_equal(held, again[1])


def test_examples_without_labels_are_held_out_too():
    kept, held = hold_out(np.arange(50), None, 0.1, np.random.default_rng(0))
    assert (len(kept), len(held)) == (45, 5)


# --- synthesised inputs


@pytest.mark.parametrize(
    ("shape", "axes"), [((3, 40, 30), (1, 2)), ((40, 30, 1), (0, 1)), ((64,), (0,)), ((2, 9, 100), (2,))]
)
def test_smooth_noise_is_smooth_and_scaled(shape, axes):
    many = np.stack([smooth_noise(shape, axes, np.random.default_rng(seed)) for seed in range(40)])
    assert many.dtype == np.float32
    assert 0.7 < many.std() < 1.6
    assert abs(many.mean()) < 0.35
    for axis in axes:
        step = np.diff(many, axis=axis + 1)
        assert step.std() < 0.9 * many.std() * np.sqrt(2)  # neighbours are alike: less than for white noise


def _begins(*steps):
    """A conv net on [N, 3, 8, 8] that begins with (operator, constant, place of the constant) steps."""
    b = Builder(["N", 3, 8, 8])
    y = "x"
    for operator, constant, place in steps:
        name = b.constant(np.asarray(constant, np.float32))
        y = b.node(operator, *((y, name) if place == 1 else (name, y)))
    b.output(b.node("Flatten", b.conv(y, 3, 2, 3)), ["N", 128], "y")
    return b


def _distillation(tmp_path, model, **config):
    path = save(model, tmp_path / "model.onnx")
    return DistillationTask(config, load_network(path)), path


CHANNELS = np.array([10.0, 20.0, 30.0], np.float32).reshape(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("steps", "mean", "deviation"),
    [
        ([], 0, 1),
        ([("Div", 255, 1)], 0, 255),
        ([("Sub", 127.5, 1), ("Div", 128, 1)], 127.5, 128),
        ([("Mul", 1 / 255, 1), ("Sub", 0.5, 1)], 127.5, 255),
        ([("Sub", 5, 0)], 5, 1),
        ([("Add", -CHANNELS, 1), ("Mul", 0.1, 0)], CHANNELS, 10),
        ([("Sub", CHANNELS, 1), ("Div", CHANNELS, 1)], CHANNELS, CHANNELS),
    ],
)
def test_inputs_suit_what_the_graph_begins_with(tmp_path, steps, mean, deviation):
    task, _ = _distillation(tmp_path, _begins(*steps).model(), train_size=200)
    (batch,) = task.batches("train", 200)
    plain = (batch.inputs["x"] - mean) / deviation
    assert 0.8 < plain.std() < 1.5
    assert abs(plain.mean()) < 0.15
    assert ("scaled for the graph's own" in task.describe()) == bool(steps)


def test_inputs_suit_a_batch_normalization(tmp_path):
    b = Builder(["N", 3, 8, 8])
    parameters = [np.ones(3), np.zeros(3), [100, 50, 0], [400, 100, 1]]
    names = [b.constant(np.asarray(values, np.float32)) for values in parameters]
    y = b.node("BatchNormalization", "x", *names)
    b.output(b.node("Flatten", b.conv(y, 3, 2, 3)), ["N", 128], "y")
    task, _ = _distillation(tmp_path, b.model(), train_size=200)
    (batch,) = task.batches("train", 200)
    plain = (batch.inputs["x"] - np.reshape([100, 50, 0], (3, 1, 1))) / np.reshape([20, 10, 1], (3, 1, 1))
    assert np.all((plain.std(axis=(0, 2, 3)) > 0.8) & (plain.std(axis=(0, 2, 3)) < 1.5))
    assert np.abs(plain.mean(axis=(0, 2, 3))).max() < 0.2


def test_integers_stay_within_their_table(tmp_path):
    b = Builder(["N", 5])
    b.inputs[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    b.inputs.append(onnx.helper.make_tensor_value_info("attention_mask", onnx.TensorProto.INT64, ["N", 5]))
    table = b.constant(np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32))
    mask = b.node("Unsqueeze", b.node("Cast", "attention_mask", to=1), b.ints(2))
    y = b.node("Mul", b.node("Gather", table, "x"), mask)
    b.output(b.matmul(y, 4, 3), ["N", 5, 3], "y")
    task, path = _distillation(tmp_path, b.model(), train_size=100)
    (batch,) = task.batches("train", 100)
    assert batch.inputs["x"].max() == 10
    assert batch.inputs["x"].min() == 0
    assert np.all(batch.inputs["attention_mask"] == 1)
    task.bind_ancestor(str(path))
    assert evaluate(path, task, "test", threads=1).value == 1.0


def test_eight_bit_images_span_their_range(tmp_path):
    b = Builder([1, 3, 16, 16])
    b.inputs[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    b.output(b.node("Flatten", b.conv(b.node("Cast", "x", to=1), 3, 2, 3)), [1, 512], "y")
    task, _ = _distillation(tmp_path, b.model(), train_size=50)
    (batch,) = task.batches("train", 50)
    assert batch.inputs["x"].dtype == np.uint8
    assert batch.inputs["x"].min() < 40
    assert batch.inputs["x"].max() > 215


def test_large_inputs_get_fewer_examples(tmp_path):
    small, _ = _distillation(tmp_path, _begins().model())
    assert [small.size(split) for split in ("train", "validation", "test")] == [512, 128, 256]
    b = Builder([1, 3, 480, 640])
    b.output(b.conv("x", 3, 2, 3), [1, 2, 480, 640], "y")
    large, _ = _distillation(tmp_path, b.model())
    assert [large.size(split) for split in ("train", "validation", "test")] == [18, 16, 16]


def test_examples_depend_on_seed_split_and_place_alone(tmp_path):
    one, _ = _distillation(tmp_path, _begins().model(), train_size=6)
    other, _ = _distillation(tmp_path, _begins().model(), train_size=20)
    seeded, _ = _distillation(tmp_path, _begins().model(), train_size=6, seed=1)
    (a,), b = one.batches("train", 6), next(iter(other.batches("train", 6)))
    (c,) = seeded.batches("train", 6)
    np.testing.assert_array_equal(a.inputs["x"], b.inputs["x"])
    assert not np.array_equal(a.inputs["x"], c.inputs["x"])


# --- scoring against the ancestor


def test_a_worse_offspring_agrees_less(tmp_path):
    model = tiny_classifier()
    path = save(model, tmp_path / "model.onnx")
    task, _, _ = find_task(path, load_network(path))
    task.bind_ancestor(str(path))
    scores = []
    for noise in (0.0, 0.05, 0.5, 5.0):
        rng = np.random.default_rng(0)
        other = onnx.ModelProto.FromString(model.SerializeToString())
        for one in other.graph.initializer:
            array = onnx.numpy_helper.to_array(one)
            changed = array + noise * rng.normal(size=array.shape).astype(array.dtype)
            one.CopyFrom(onnx.numpy_helper.from_array(changed, one.name))
        scores.append(evaluate(save(other, tmp_path / "o.onnx"), task, "test", threads=1).value)
    assert scores[0] == 1.0
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 0.9


def test_an_unbound_task_says_so(tmp_path):
    task, path = _distillation(tmp_path, tiny_classifier())
    with pytest.raises(TaskError, match="bind_ancestor"):
        evaluate(path, task, "test", threads=1)


def test_an_ancestor_that_cannot_run_is_named(tmp_path):
    b = Builder(["N", "L"])
    b.output(b.node("Reshape", "x", b.ints(-1, 7)), ["M", 7], "y")
    task, path = _distillation(tmp_path, b.model())
    task.bind_ancestor(str(path))
    with pytest.raises(TaskError, match="--input-shape"):
        task.score("test", ((batch, {}) for batch in task.batches("test", 2)))


def test_a_lost_output_is_named(tmp_path):
    task, path = _distillation(tmp_path, tiny_classifier())
    task.bind_ancestor(str(path))
    with pytest.raises(TaskError, match="no output 'scores'"):
        task.score("test", ((batch, {"other": np.zeros(3)}) for batch in task.batches("test", 2)))


@pytest.mark.parametrize("fixed", [1, 4])
def test_fixed_batches_are_fed_in_parts(tmp_path, fixed):
    """The ancestor's outputs are those of single examples, whatever batch its graph demands."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 3)).astype(np.float32)

    def model(batch):
        b = Builder([batch, 6])
        b.output(b.node("Relu", b.node("MatMul", "x", b.constant(weight))), [batch, 3], "y")
        return b.model()

    task, path = _distillation(tmp_path, model(fixed), test_size=10)
    (batch,) = task.batches("test", 10)
    outputs = ModelOutputs(str(path))(batch)
    np.testing.assert_allclose(outputs["y"], np.maximum(batch.inputs["x"] @ weight, 0), rtol=1e-5, atol=1e-6)
    task.bind_ancestor(str(path))
    assert evaluate(path, task, "test", threads=1).value == 1.0


def test_outputs_are_kept_by_example(tmp_path):
    task, path = _distillation(tmp_path, tiny_classifier(), test_size=8)
    outputs = ModelOutputs(str(path))
    first, second = task.batches("test", 4)
    assert outputs(first)["scores"] is outputs(first)["scores"]
    assert not np.array_equal(outputs(first)["scores"], outputs(second)["scores"])
    (shuffled,) = task.batches("test", 8, np.random.default_rng(1))
    plain = np.concatenate([outputs(first)["scores"], outputs(second)["scores"]])
    order = np.random.default_rng(1).permutation(8)
    np.testing.assert_allclose(outputs(shuffled)["scores"], plain[order], rtol=1e-5, atol=1e-6)
