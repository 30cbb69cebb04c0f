"""Losses of several terms in the torch adapter, and a detector evolved from end to end."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
import torch
from cli_support import CommandLine
from detection_support import HEIGHT, TASK, WIDTH, detector, write_case
from evolution_support import options
from graph_builder import Builder
from safetensors.numpy import load_file

from evonnx.adapter import RetrainRequest, TrainingBudget
from evonnx.errors import AdapterError, TaskError
from evonnx.evaluation import evaluate
from evonnx.evolution import evolve
from evonnx.masks import live_masks
from evonnx.network import load_network
from evonnx.plugins import get
from evonnx.report import markdown, read_run
from evonnx.task import Batch, Loss, Metric, Target, Term
from evonnx.tasks import load_task
from evonnx_torch.terms import taught_loss, term_loss
from evonnx_training.heads import Head

OUTPUT = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
WANTED = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
WEIGHTS = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
RAW, SIGMOID, CLASSES = (Head("y", "y", kind) for kind in ("raw", "sigmoid", "softmax"))


def softplus(x: float) -> float:
    return float(np.log1p(np.exp(x)))


@pytest.mark.parametrize(
    ("kind", "head", "wanted", "weights", "value"),
    [
        ("mse", RAW, WANTED, None, (1 + 9 + 0.25 + 16) / 4),
        ("mse", RAW, WANTED, WEIGHTS, (1 + 3 * 16) / 4),
        ("l1", RAW, WANTED, WEIGHTS, (1 + 3 * 4) / 4),
        ("l1", RAW, WANTED, 0 * WEIGHTS, 0.0),
        ("bce", SIGMOID, WANTED, WEIGHTS, (softplus(1) + 3 * softplus(4)) / 4),
        ("cross_entropy", CLASSES, torch.tensor([0, -1]), None, softplus(-3)),
        ("cross_entropy", CLASSES, torch.tensor([0, 0]), torch.tensor([1.0, 3.0]), None),
    ],
)
def test_terms_by_hand(kind, head, wanted, weights, value):
    if value is None:
        value = (softplus(-3) + 3 * softplus(3.5)) / 4
    got = term_loss(Term("y", kind), head, OUTPUT, wanted, weights)
    assert float(got) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "head"), [("mse", RAW), ("l1", RAW), ("bce", SIGMOID), ("cross_entropy", CLASSES)]
)
def test_a_teacher_that_agrees_teaches_nothing(kind, head):
    weights = None if kind == "cross_entropy" else WEIGHTS
    term = Term("y", kind)
    assert float(taught_loss(term, head, OUTPUT, OUTPUT, weights, 2.0)) == pytest.approx(0, abs=1e-6)
    other = OUTPUT + torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert float(taught_loss(term, head, OUTPUT, other, weights, 2.0)) > 1e-3


def test_elements_without_weight_are_not_taught():
    other = OUTPUT + torch.tensor([[0.0, 1.0], [5.0, 0.0]])
    assert float(taught_loss(Term("y", "l1"), RAW, OUTPUT, other, WEIGHTS, 1.0)) == 0


class DenseTask:
    """Every pixel's class, and an image to reproduce where the left half counts only."""

    name = "dense"
    metric = Metric("agreement")
    loss = Loss("terms", terms=(Term("classes", "cross_entropy"), Term("copy", "mse", 0.5)))

    def describe(self):
        return "dense"

    def size(self, split):
        return 16

    def batches(self, split, batch_size, rng=None):
        images = np.random.default_rng(0).random((16, 1, 6, 6)).astype(np.float32)
        order = np.arange(16) if rng is None else rng.permutation(16)
        weights = np.concatenate([np.ones((1, 1, 1, 3)), np.zeros((1, 1, 1, 3))], axis=-1)
        for start in range(0, 16, batch_size):
            x = images[order[start : start + batch_size]]
            named = {
                "classes": Target((x[:, 0] > 0.5).astype(np.int64)),
                "copy": Target(x, weights.repeat(len(x), 0)),
            }
            yield Batch({"x": x}, named, len(x))

    def score(self, split, outputs):
        return 0.0


def dense_model(path):
    b = Builder(["N", 1, 6, 6])
    y = b.node("Relu", b.conv("x", 1, 6, 3, pads=[1, 1, 1, 1]))
    b.output(b.conv(y, 6, 2, 1), ["N", 2, 6, 6], "classes")
    b.output(b.conv(y, 6, 1, 1), ["N", 1, 6, 6], "copy")
    onnx.save(b.model(), path)
    return path


def request_for(path, task, **budget):
    return RetrainRequest(
        model=path,
        masks=live_masks(load_network(path)),
        task=task,
        budget=TrainingBudget(**{"epochs": 12, "batch_size": 4, "threads": 1, "optimizer": "adam", **budget}),
        seed=0,
    )


def test_dense_tasks_of_several_outputs_are_learnt(tmp_path):
    request = request_for(dense_model(tmp_path / "m.onnx"), DenseTask(), learning_rate=0.05, epochs=25)
    history = get("adapters", "torch")().retrain(request).history
    assert history[-1].loss < 0.5 * history[0].loss


def no_target(task):
    task.loss = Loss("terms", terms=(Term("classes", "cross_entropy"),))
    task.batches = lambda *rest: iter([Batch({"x": np.zeros((4, 1, 6, 6), np.float32)}, {}, 4)])


def wrong_shape(task):
    task.loss = Loss("terms", terms=(Term("copy", "l1"),))
    named = {"copy": Target(np.zeros((4, 1, 6, 5), np.float32))}
    task.batches = lambda *rest: iter([Batch({"x": np.zeros((4, 1, 6, 6), np.float32)}, named, 4)])


def wrong_label(task):
    task.loss = Loss("terms", terms=(Term("classes", "cross_entropy"),))
    named = {"classes": Target(np.full((4, 6, 6), 2))}
    task.batches = lambda *rest: iter([Batch({"x": np.zeros((4, 1, 6, 6), np.float32)}, named, 4)])


def unknown_output(task):
    task.loss = Loss("terms", terms=(Term("depth", "mse"),))


def no_terms(task):
    task.loss = Loss("terms")


def one_output_twice(task):
    task.loss = Loss("terms", terms=(Term("copy", "mse"), Term("copy", "l1")))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (no_target, "a term for output 'classes', but its batches have targets for: none"),
        (wrong_shape, "a l1 term cannot compare them"),
        (wrong_label, "A label is 2, but output 'classes' has 2 classes"),
        (unknown_output, "reads output 'depth'; the model's floating-point outputs are: classes, copy"),
        (no_terms, "one or more terms, each of another output"),
        (one_output_twice, "one or more terms, each of another output"),
    ],
)
def test_wrong_terms(tmp_path, spoil, says):
    task = DenseTask()
    spoil(task)
    with pytest.raises(AdapterError) as caught:
        get("adapters", "torch")().retrain(request_for(dense_model(tmp_path / "m.onnx"), task))
    assert says in str(caught.value)


def test_images_are_not_moved_without_their_boxes(tmp_path):
    request = request_for(dense_model(tmp_path / "m.onnx"), DenseTask(), augment="shift")
    with pytest.raises(AdapterError, match="augment"):
        get("adapters", "torch")().retrain(request)


def test_the_toy_adapter_says_that_it_knows_no_terms(tmp_path):
    request = request_for(dense_model(tmp_path / "m.onnx"), DenseTask())
    with pytest.raises(AdapterError, match="knows no loss 'terms'"):
        get("adapters", "evonnx.testing:ToyAdapter")().retrain(request)


def test_programs_are_given_every_target(tmp_path):
    """The command adapter writes targets and weights by output."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, numpy as np\n"
        "from safetensors.numpy import save_file\n"
        "data = np.load(sys.argv[1])\n"
        "save_file({name: data[name] for name in data.files}, sys.argv[2] + '.seen')\n"
        "sys.exit(3)\n"
    )
    request = request_for(dense_model(tmp_path / "m.onnx"), DenseTask())
    out = tmp_path / "out"
    command = f"'{sys.executable}' {script} {{data}} {out} {{output}}"
    with pytest.raises(AdapterError, match="ended with code 3"):
        get("adapters", "command")().retrain(
            RetrainRequest(**{**vars(request), "options": {"command": command}})
        )
    seen = load_file(f"{out}.seen")
    assert {name: array.shape for name, array in seen.items()} == {
        "x": (16, 1, 6, 6),
        "targets.classes": (16, 6, 6),
        "targets.copy": (16, 1, 6, 6),
        "weights.copy": (16, 1, 6, 6),
    }
    assert seen["weights.copy"].mean() == 0.5


def test_details_without_the_score_are_refused(tmp_path):
    task = DenseTask()
    task.details = lambda split, outputs: {"precision": 1.0}
    with pytest.raises(TaskError, match=r"are precision; its score 'agreement' must be among them"):
        evaluate(dense_model(tmp_path / "m.onnx"), task, threads=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A detector that finds most of the bright boxes, trained by the adapter itself."""
    folder = tmp_path_factory.mktemp("trained")
    text = TASK + 'coverage_loss = "bce"\n[retrain]\noptimizer = "adam"\nbatch_size = 4\ndistill = 0.5\n'
    model = write_case(folder, text)
    task = load_task(folder / "model.toml", load_network(model))
    result = get("adapters", "torch")().retrain(request_for(model, task, epochs=40, learning_rate=0.01))
    proto = detector()
    for tensor in proto.graph.initializer:
        if tensor.name in result.weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(result.weights[tensor.name], tensor.name))
    onnx.save(proto, model)
    return model


def test_training_finds_objects(trained):
    task = load_task(trained.with_suffix(".toml"), load_network(trained))
    score = evaluate(trained, task, "test", threads=1)
    assert score.value > 0.6
    assert score.details["mAP"] > 0.5


def test_a_detector_is_evolved(trained, tmp_path, capsys):
    """Rows, report and `evaluate` tell precision and recall; what is evolved is smaller and still finds."""
    out = tmp_path / "run"
    quick = options(adapter="torch", generations=1, keep=0.6, screen=2, epochs=6, recovery_epochs=1)
    record = evolve(trained, out=out, options=quick).record
    rows = [record["ancestor"], *record["generations"], record["best"]]
    assert all(set(row["details"]) == {"precision", "recall", "mAP"} for row in rows)
    best = record["best"]
    assert best["architectural_efficiency"] > 1.6
    assert best["score"] > 0.4
    text = markdown(read_run(record))
    assert "| Gen. | A-E | F1 % | precision | recall | mAP | validation |" in text
    asked = ("evaluate", out / "best.onnx", "--task", trained.with_suffix(".toml"))
    shown = CommandLine(capsys)(*asked, "--json").document
    assert shown["value"] == pytest.approx(best["score"])
    assert shown["details"] == pytest.approx(best["details"])
    recall = f"recall {100 * best['details']['recall']:.2f}%"
    assert recall in CommandLine(capsys)(*asked).out


def test_the_scene_is_as_large_as_the_model(trained):
    assert load_network(trained).input_shapes["x"][2:] == (HEIGHT, WIDTH)
