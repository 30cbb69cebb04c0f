"""Regression: values, several outputs, pictures to pictures; figures by hand and evolution end to end."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graph_builder import Builder
from PIL import Image
from task_support import evolved, request, save, scores, train, write_task

from evonnx.errors import AdapterError, TaskError
from evonnx.evaluation import evaluate
from evonnx.network import load_network
from evonnx.plugins import get
from evonnx.task import Term
from evonnx.tasks import load_task
from evonnx.tasks._values import Errors, Guess
from evonnx.testing import TaskContract
from evonnx_training.heads import Head

SIZES = {"train": 160, "validation": 40, "test": 41}
FILES = 'train = "train.npz"\nvalidation = "validation.npz"\ntest = "test.npz"\n'


def values(count, seed):
    """(count, 6) inputs and (count, 2) targets in units of their own."""
    rng = np.random.default_rng([11, seed])
    x = rng.normal(size=(count, 6)).astype(np.float32)
    y = np.stack([1 + 3 * np.tanh(x[:, 0] + x[:, 1]), 2 * np.abs(x[:, 2])], axis=1)
    return x, y.astype(np.float32)


def mlp(outputs=2, hidden=24):
    b = Builder(["N", 6])
    y = b.node("Relu", b.gemm("x", 6, hidden))
    y = b.node("Relu", b.gemm(y, hidden, hidden))
    b.output(b.gemm(y, hidden, outputs), ["N", outputs], "y")
    return b.model()


def write_values(folder, **columns):
    for seed, (split, count) in enumerate(SIZES.items()):
        x, y = values(count, seed)
        np.savez(folder / f"{split}.npz", x=x, y=y, **columns)


def smooth(count, seed, size=16):
    """(count, size, size, 1) uint8 pictures of a few bright boxes, and the same with noise on them."""
    rng = np.random.default_rng([12, seed])
    clean = np.zeros((count, size, size, 1), np.uint8)
    for picture in clean:
        for _ in range(3):
            (top, left), (height, width) = rng.integers(0, size - 4, 2), rng.integers(3, 8, 2)
            picture[top : top + height, left : left + width] = rng.integers(80, 230)
    noisy = np.clip(clean + rng.normal(0, 50, clean.shape), 0, 255).astype(np.uint8)
    return clean, noisy


def filter_net(size=16, channels_last=False, up=1):
    b = Builder(["N", size, size, 1] if channels_last else ["N", 1, size, size])
    y = b.node("Transpose", "x", perm=[0, 3, 1, 2]) if channels_last else "x"
    y = b.node("Relu", b.conv(y, 1, 12, 3))
    y = b.node("Relu", b.conv(y, 12, 12, 3))
    y = b.conv(y, 12, 1, 3) if up == 1 else b.conv_transpose(y, 12, 1)
    if channels_last:
        y = b.node("Transpose", y, perm=[0, 2, 3, 1])
    shape = [size * up, size * up]
    b.output(y, ["N", *shape, 1] if channels_last else ["N", 1, *shape], "y")
    return b.model()


class _Regression(TaskContract):
    @pytest.fixture
    def model(self, tmp_path):
        return save(mlp(), tmp_path)

    @pytest.fixture
    def task(self, model, tmp_path):
        write_values(tmp_path)
        return load_task(write_task(tmp_path, "regression", FILES), load_network(model))


class TestValues(_Regression):
    def test_holds_the_files_sizes(self, task):
        assert {split: task.size(split) for split in SIZES} == SIZES
        assert "mse on 'y'" in task.describe()
        assert task.metric.name == "R2"


class TestPictureFolders(TaskContract):
    """Pairs of folders; validation and test are shares of train."""

    @pytest.fixture
    def model(self, tmp_path):
        return save(filter_net(), tmp_path)

    @pytest.fixture
    def task(self, model, tmp_path):
        clean, noisy = smooth(30, 0)
        for name, pictures in (("noisy", noisy), ("clean", clean)):
            (tmp_path / name).mkdir()
            for index, picture in enumerate(pictures[..., 0]):
                Image.fromarray(picture).save(tmp_path / name / f"{index:02}.png")
        text = 'train = {images = "noisy", targets = "clean"}\nmetric = "psnr"\nloss = "l1"'
        return load_task(write_task(tmp_path, "regression", text), load_network(model))

    def test_pairs_are_pairs(self, task):
        clean, noisy = smooth(30, 0)
        (batch,) = task.batches("train", 100)
        assert len(batch.targets["y"].values) == 24
        for x, y in zip(batch.inputs["x"], batch.targets["y"].values, strict=True):
            place = np.abs(noisy[..., 0] / 255 - x).sum(axis=(1, 2)).argmin()
            np.testing.assert_allclose(y[0], clean[place, ..., 0] / 255, atol=1e-6)


class TestTwoOfEach(TaskContract):
    """Two inputs and two outputs, one of them classes, in one table."""

    @pytest.fixture
    def model(self, tmp_path):
        return save(two_of_each(), tmp_path)

    @pytest.fixture
    def task(self, model, tmp_path):
        write_two_of_each(tmp_path)
        return load_task(write_task(tmp_path, "multi-output", TWO_OF_EACH), load_network(model))


TWO_OF_EACH = """
train = "all.csv"
[task.inputs.x]
columns = ["a", "b", "c", "d", "e", "f"]
[task.inputs.z]
column = "scale"
mean = 3.0
[task.outputs.amount]
column = "amount"
mean = 3000
std = 1200
loss = "huber"
weight = 2.0
[task.outputs.kind]
column = "kind"
loss = "cross_entropy"
"""


def two_of_each():
    b = Builder(["N", 6])
    b.inputs.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", 1]))
    joined = b.node("Concat", "x", "z", axis=1)
    y = b.node("Relu", b.gemm(joined, 7, 24))
    b.output(b.gemm(y, 24, 1), ["N", 1], "amount")
    b.output(b.node("Softmax", b.gemm(y, 24, 3), axis=1), ["N", 3], "kind")
    return b.model()


def write_two_of_each(folder, count=240):
    rng = np.random.default_rng(5)
    x, scale = rng.normal(size=(count, 6)), rng.uniform(1, 5, count)
    amount = 1000 * scale + 300 * x[:, 0]
    kind = (x[:, 1] > 0).astype(int) + (x[:, 2] > 0.5)
    lines = ["name,a,b,c,d,e,f,scale,amount,kind"]
    for index in range(count):
        numbers = ",".join(f"{value:.5f}" for value in (*x[index], scale[index], amount[index]))
        lines.append(f'"row, {index}",{numbers},{kind[index]}')
    (folder / "all.csv").write_text("\n".join(lines) + "\n")


# --- figures by hand


@pytest.mark.parametrize("sizes", [(7,), (1, 6), (3, 3, 1)])
def test_figures_are_those_of_the_whole_split(sizes):
    rng = np.random.default_rng(0)
    wanted, found = rng.normal(3, 2, (7, 4)), rng.normal(3, 2, (7, 4))
    errors, start = Errors(peak=10.0), 0
    for size in sizes:
        errors.add(found[start : start + size], wanted[start : start + size])
        start += size
    squares = (found - wanted) ** 2
    figures = errors.figures
    assert figures["mae"] == pytest.approx(np.abs(found - wanted).mean())
    assert figures["mse"] == pytest.approx(squares.mean())
    assert figures["rmse"] == pytest.approx(np.sqrt(squares.mean()))
    spread = ((wanted - wanted.mean(axis=0)) ** 2).sum()
    assert figures["r2"] == pytest.approx(1 - squares.sum() / spread)
    assert figures["psnr"] == pytest.approx((10 * np.log10(100 / squares.mean(axis=1))).mean())


def test_a_constant_guess_has_r2_0_and_no_error_100_dB():
    wanted = np.array([[1.0], [3.0], [5.0]])
    errors = Errors()
    errors.add(np.full((3, 1), 3.0), wanted)
    assert errors.figures["r2"] == 0
    errors = Errors(peak=1.0)
    errors.add(wanted, wanted)
    assert errors.figures["psnr"] == 100
    assert errors.figures["r2"] == 1


def test_guesses_by_hand():
    guess = Guess(np.array([0.0, 4.0, 0.0, 4.0]))
    assert [guess.error(kind) for kind in ("mae", "mse", "rmse")] == [2, 4, 2]
    assert guess.error("huber", 1.0) == 1.5
    assert guess.error("huber", 8.0) == 2.0
    assert Guess(np.full(3, 7.0)).error("mse") == 1  # nothing to divide by


@pytest.mark.parametrize("adapter", ["torch", "jax"])
def test_huber_by_hand(adapter):
    head, term = Head("y", "y", "raw"), Term("y", "huber", delta=2.0)
    found, wanted = np.array([[1.0, 5.0]], np.float32), np.array([[0.0, 0.0]], np.float32)
    if adapter == "torch":
        import torch

        from evonnx_torch.terms import term_loss

        got = float(term_loss(term, head, torch.from_numpy(found), torch.from_numpy(wanted), None))
    else:
        jnp = pytest.importorskip("jax.numpy")
        from evonnx_jax.losses import term_loss as jax_loss

        got = float(jax_loss(term, head, jnp.asarray(found), jnp.asarray(wanted), None))
    assert got == pytest.approx((0.5 + 2 * (5 - 1)) / 2)


# --- what a task file says


def task_of(folder, model, text, name="regression"):
    return load_task(write_task(folder, name, text), load_network(save(model, folder)))


def test_losses_are_of_the_size_of_one_in_any_unit(tmp_path):
    """A constant guess loses 1, whatever the targets' unit."""
    write_values(tmp_path)
    for loss in ("mse", "l1", "huber"):
        (term,) = task_of(tmp_path, mlp(), f'{FILES}loss = "{loss}"\ndelta = 5').loss.terms
        (batch,) = task_of(tmp_path, mlp(), FILES).batches("train", 1000)
        wanted = batch.targets["y"].values.astype(np.float64)
        distance = np.abs(wanted - wanted.mean())
        near = np.minimum(distance, 5)
        lost = {"mse": distance**2, "l1": distance, "huber": near * (distance - near / 2)}[loss]
        assert (term.kind, term.delta) == (loss, 5)
        assert term.weight * lost.mean() == pytest.approx(1, rel=1e-4)


def test_metrics_say_their_direction_and_scale(tmp_path):
    write_values(tmp_path)
    for key, higher in (("r2", True), ("mae", False), ("mse", False), ("rmse", False), ("psnr", True)):
        metric = task_of(tmp_path, mlp(), f'{FILES}metric = "{key}"').metric
        assert metric.higher_is_better == higher
    (batch,) = task_of(tmp_path, mlp(), FILES).batches("train", 1000)
    rmse = task_of(tmp_path, mlp(), f'{FILES}metric = "rmse"').metric
    assert rmse.scale == pytest.approx(batch.targets["y"].values.std(), rel=1e-4)


def test_targets_are_prepared_as_inputs_are(tmp_path):
    clean, _ = smooth(8, 0)
    np.savez(tmp_path / "a.npz", x=clean, y=clean.transpose(0, 3, 1, 2))
    text = 'test = "a.npz"\nmean = 0.5\n[task.outputs.y]\nmean = 0.25\nstd = 2'
    (batch,) = task_of(tmp_path, filter_net(channels_last=True), text).batches("test", 10)
    np.testing.assert_allclose(batch.inputs["x"], clean / 255 - 0.5, atol=1e-6)
    np.testing.assert_allclose(batch.targets["y"].values, (clean / 255 - 0.25) / 2, atol=1e-6)


def test_small_whole_numbers_are_no_pictures(tmp_path):
    x, _ = values(9, 0)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(9, dtype=np.uint8))
    (batch,) = task_of(tmp_path, mlp(outputs=1), 'test = "a.npz"').batches("test", 10)
    assert batch.targets["y"].values[:, 0].tolist() == list(range(9))


WRONG = [
    ("", "no data is named"),
    ('test = "a.npz"\nmetric = "r3"', "metric must be one of r2, mae, mse, rmse, psnr"),
    ('test = "a.npz"\nloss = "cross_entropy"', "loss must be one of mse, l1, huber"),
    ('test = "a.npz"\nweight = 2', "unknown key 'weight'"),
    ('test = "a.npz"\n[task.outputs.z]\nweight = 2', "outputs: unknown key 'z'. Known keys: y"),
    ('test = "a.npz"\n[task.outputs.y]\nweight = 0', "outputs.y: weight must be a number above 0"),
    ('test = "a.npz"\n[task.outputs.y]\ncolum = "y"', "unknown key 'colum'. Did you mean 'column'?"),
    (
        'test = "a.npz"\n[task.inputs.x]\ncolumn = "q"',
        "no array 'q'; it has x, y, short, wide, bad",
    ),
    ('test = "a.npz"\n[task.outputs.y]\ncolumn = "wide"', "shape [3]; the model's output 'y' gives [2] each"),
    ('test = "a.npz"\n[task.outputs.y]\ncolumn = "short"', "columns differ in length: {'x': 5, 'y': 4}"),
    ('test = "a.npz"\n[task.outputs.y]\ncolumn = "bad"', "example 1 has NaN or infinite values"),
    ('test = "b.csv"', "b.csv has no column 'x'; its first line names p, q"),
    ('test = {file = "b.csv", x = ["p", "q"], y = "p"}', "could not convert string 'no' to float64 at row 1"),
    ('test = {file = "c.csv", x = "p", y = "p"}', "two columns are called 'p'"),
    ('test = "b.txt"', "b.txt has no named columns: it is neither .npz, .csv or .parquet"),
    ('test = "gone.csv"', "'gone.csv' does not exist"),
    ('test = {images = "a", targets = "gone"}', "targets = 'gone' is no folder"),
    ('test = {images = "a", targets = "b"}', "'2' is in 'a' only (2 pictures have no counterpart)"),
]


@pytest.mark.parametrize(("text", "says"), WRONG)
def test_wrong_task_files(tmp_path, text, says):
    x, y = values(5, 0)
    bad = np.where(np.arange(10).reshape(5, 2) == 3, np.nan, y)
    np.savez(tmp_path / "a.npz", x=x, y=y, short=y[:4], wide=x[:, :3], bad=bad)
    (tmp_path / "b.csv").write_text("p,q\n1,2\nno,3\n")
    (tmp_path / "c.csv").write_text("p,p\n1,2\n")
    (tmp_path / "b.txt").write_text("p,q\n1,2\n")
    for folder, names in (("a", "12"), ("b", "13")):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.new("L", (4, 4)).save(tmp_path / folder / f"{name}.png")
    with pytest.raises(TaskError) as caught:
        task_of(tmp_path, mlp(), text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_outputs_are_named(tmp_path):
    write_two_of_each(tmp_path)
    inputs = TWO_OF_EACH.split("[task.outputs")[0]
    with pytest.raises(TaskError, match="has 2 outputs"):
        task_of(tmp_path, two_of_each(), inputs)
    with pytest.raises(TaskError, match="loss must be one of mse, l1, huber"):
        task_of(tmp_path, two_of_each(), TWO_OF_EACH)
    apart = TWO_OF_EACH.replace('loss = "huber"', 'metric = "mae"')
    with pytest.raises(TaskError, match='say which decides: score = "amount"'):
        task_of(tmp_path, two_of_each(), apart, "multi-output")
    one = task_of(tmp_path, two_of_each(), 'score = "kind"\n' + apart, "multi-output")
    assert one.metric.name == "accuracy"
    both = task_of(tmp_path, two_of_each(), TWO_OF_EACH, "multi-output")
    assert both.metric.name == "mean R2 and accuracy"
    assert set(both.details("test", iter(_answers(both)))) == {
        *("mean R2 and accuracy", "kind accuracy"),
        *(f"amount {name}" for name in ("R2", "MAE", "MSE", "RMSE")),
    }


def _answers(task):
    for batch in task.batches("test", 7):
        found = {"amount": batch.targets["amount"].values, "kind": np.eye(3)[batch.targets["kind"].values]}
        yield batch, found


# --- augmentation


def moved(task, folder, augment):
    get("adapters", "torch")().retrain(request(folder / "model.onnx", task, epochs=1, augment=augment))


def test_targets_move_with_their_pictures(tmp_path):
    """Moved and mirrored alike; what enters at the border does not count."""
    from evonnx_training.augmentation import read_augmentation

    for last in (False, True):
        clean, _ = smooth(12, 0)
        np.savez(tmp_path / "a.npz", x=clean, y=clean)
        (batch,) = task_of(tmp_path, filter_net(channels_last=last), 'test = "a.npz"').batches("test", 20)
        seen, views = read_augmentation("flip-shift:3")(batch, np.random.default_rng(0))
        values, weights = seen.targets["y"]
        assert len(set(views.tolist())) > 5
        np.testing.assert_array_equal(values, seen.inputs["x"])
        assert 0.6 < weights.mean() < 1
        assert values[weights == 0].sum() == 0
        mirrored, _ = read_augmentation("flip-shift:0")(batch, np.random.default_rng(0))
        assert mirrored.targets["y"].weights is None


def test_targets_of_another_size_are_only_mirrored(tmp_path):
    clean, _ = smooth(12, 0)
    np.savez(tmp_path / "a.npz", x=clean, y=clean.repeat(2, 1).repeat(2, 2))
    task = task_of(tmp_path, filter_net(up=2), 'train = "a.npz"')
    with pytest.raises(AdapterError, match="their targets for 'y'"):
        moved(task, tmp_path, "shift")
    moved(task_of(tmp_path, filter_net(up=2), 'train = "a.npz"\nmoves = false'), tmp_path, "shift")


# --- end to end


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("values")
    write_values(folder)
    model = save(mlp(), folder)
    write_task(folder, "regression", FILES + "[retrain]\nbatch_size = 16\noptimizer = 'adam'\ndistill = 0.5")
    train(model, epochs=25)
    return model


def test_values_are_learnt_and_evolved(trained, tmp_path):
    before = scores(trained)
    assert before.value > 0.6
    assert set(before.details) == {"MAE", "MSE", "RMSE"}
    record = evolved(trained, tmp_path / "run", generations=2, epochs=5)
    assert record["best"]["architectural_efficiency"] > 1.3
    assert record["best"]["score"] > 0.5


def test_pictures_are_learnt_and_evolved(tmp_path):
    for split, count, seed in (("train", 48, 0), ("test", 16, 1)):
        clean, noisy = smooth(count, seed)
        np.savez(tmp_path / f"{split}.npz", x=noisy, y=clean)
    model = save(filter_net(), tmp_path)
    write_task(
        tmp_path,
        "regression",
        'train = "train.npz"\ntest = "test.npz"\nmetric = "psnr"\n[retrain]\naugment = "flip-shift:1"\n'
        'batch_size = 8\noptimizer = "adam"',
    )
    train(model, epochs=8, augment="flip-shift:1", batch_size=8)
    _, noisy = smooth(16, 1)
    clean, _ = smooth(16, 1)
    noise = float(
        (10 * np.log10(1 / np.square((noisy - clean.astype(float)) / 255).mean(axis=(1, 2, 3)))).mean()
    )
    assert scores(model).value > noise + 2
    record = evolved(model, tmp_path / "run", epochs=3)
    assert record["best"]["score"] > noise + 1
    assert record["best"]["architectural_efficiency"] > 1.2


def test_several_inputs_and_outputs_are_learnt(tmp_path):
    write_two_of_each(tmp_path)
    model = save(two_of_each(), tmp_path)
    write_task(tmp_path, "multi-output", TWO_OF_EACH + "[retrain]\nbatch_size = 16\noptimizer = 'adam'\n")
    train(model, epochs=25)
    details = scores(model).details
    assert details["amount R2"] > 0.9
    assert details["kind accuracy"] > 0.75
    record = evolved(model, tmp_path / "run", epochs=6)
    assert record["best"]["score"] > 0.8


def test_jax_trains_it_too(tmp_path):
    pytest.importorskip("jax")
    write_two_of_each(tmp_path)
    model = save(two_of_each(), tmp_path)
    write_task(tmp_path, "multi-output", TWO_OF_EACH)
    history = train(model, "jax", epochs=12, batch_size=32)
    assert history[-1].loss < 0.6 * history[0].loss


def test_an_output_of_another_shape_is_told(trained, tmp_path):
    task = load_task(trained.with_suffix(".toml"), load_network(trained))
    onnx.save(mlp(outputs=3), tmp_path / "other.onnx")
    with pytest.raises(TaskError, match=r"has shape \[41, 3\], its targets \[41, 2\]"):
        evaluate(tmp_path / "other.onnx", task, "test", threads=1)
