"""Segmentation: label maps in arrays and pictures, mean IoU by hand, and evolution end to end."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import Builder
from PIL import Image
from task_support import evolved, save, scores, train, write_task

from evonnx.errors import AdapterError, TaskError
from evonnx.network import load_network
from evonnx.tasks import load_task
from evonnx.tasks.segmentation import Confusion
from evonnx.testing import TaskContract
from evonnx_training.augmentation import read_augmentation

SIDE = 16
ARRAYS = 'train = "train.npz"\nvalidation = "validation.npz"\ntest = "test.npz"\n'
SIZES = {"train": 32, "validation": 12, "test": 13}


def scenes(count, seed, side=SIDE):
    """(count, side, side, 3) uint8 pictures of boxes in two colours, and their classes, 255 at one edge."""
    rng = np.random.default_rng([13, seed])
    images = rng.integers(0, 60, (count, side, side, 3)).astype(np.uint8)
    labels = np.zeros((count, side, side), np.uint8)
    for image, label in zip(images, labels, strict=True):
        for kind in (1, 2):
            (top, left), (height, width) = rng.integers(0, side - 5, 2), rng.integers(4, 9, 2)
            place = slice(top, top + height), slice(left, left + width)
            image[place], label[place] = rng.integers(0, 60, 3), kind
            image[(*place, 0 if kind == 1 else 2)] = rng.integers(170, 255)
        label[0] = 255
    return images, labels


def net(classes=3, stride=1, layout="nchw", softmax=True, side=SIDE):
    """Three convolutions; a class per pixel or per `stride` pixels."""
    last = layout == "nhwc"
    b = Builder(["N", side, side, 3] if last else ["N", 3, side, side])
    y = b.node("Transpose", "x", perm=[0, 3, 1, 2]) if last else "x"
    y = b.node("Relu", b.conv(y, 3, 12, 3, strides=[stride, stride]))
    y = b.conv(b.node("Relu", b.conv(y, 12, 12, 3)), 12, classes, 1)
    sides = [side // stride, side // stride] if isinstance(side, int) else ["h", "w"]
    if last:
        y = b.node("Transpose", y, perm=[0, 2, 3, 1])
    if softmax:
        y = b.node("Softmax", y, axis=3 if last else 1) if classes > 1 else b.node("Sigmoid", y)
    b.output(y, ["N", *sides, classes] if last else ["N", classes, *sides], "y")
    return b.model()


def write_arrays(folder):
    for seed, (split, count) in enumerate(SIZES.items()):
        images, labels = scenes(count, seed)
        np.savez(folder / f"{split}.npz", x=images, y=labels)


def write_pictures(folder, count=40, times=2):
    """Palette pictures of labels beside photos, `times` as large as the model's input."""
    images, labels = scenes(count, 0)
    for name in ("photos/a", "masks/a"):
        (folder / name).mkdir(parents=True)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        large = image.repeat(times, 0).repeat(times, 1)
        Image.fromarray(large).save(folder / "photos" / "a" / f"{index:02}.png")
        mask = Image.fromarray(label.repeat(times, 0).repeat(times, 1)).convert("P")
        mask.putpalette([channel for value in range(256) for channel in (value, 0, 255 - value)])
        pixels = Image.new("P", mask.size)
        pixels.putpalette(mask.getpalette())
        pixels.putdata(label.repeat(times, 0).repeat(times, 1).reshape(-1).tolist())
        pixels.save(folder / "masks" / "a" / f"{index:02}.png")


def task_of(folder, model, text):
    return load_task(write_task(folder, "segmentation", text), load_network(save(model, folder)))


class TestArrays(TaskContract):
    @pytest.fixture
    def model(self, tmp_path):
        return save(net(), tmp_path)

    @pytest.fixture
    def task(self, model, tmp_path):
        write_arrays(tmp_path)
        return load_task(write_task(tmp_path, "segmentation", ARRAYS), load_network(model))


class TestPictures(TaskContract):
    """Folders of pictures, channels last, labels at half the size."""

    @pytest.fixture
    def model(self, tmp_path):
        return save(net(stride=2, layout="nhwc"), tmp_path)

    @pytest.fixture
    def task(self, model, tmp_path):
        write_pictures(tmp_path, 20)
        text = 'train = {images = "photos", labels = "masks"}\nresize_labels = true'
        return load_task(write_task(tmp_path, "segmentation", text), load_network(model))


# --- labels


def test_label_maps_are_the_pictures_own(tmp_path):
    """Through palettes, resizing and cutting, each pixel keeps its label."""
    write_pictures(tmp_path, 6)
    images, labels = scenes(6, 0)
    text = 'test = {images = "photos", labels = "masks"}\ninterpolation = "nearest"\n'
    (batch,) = task_of(tmp_path, net(), text).batches("test", 10)
    np.testing.assert_allclose(batch.inputs["x"], images.transpose(0, 3, 1, 2) / 255, atol=1e-6)
    np.testing.assert_array_equal(batch.targets["y"].values, np.where(labels == 255, -1, labels.astype(int)))
    # The shorter side to 24 pixels, of which 16 are kept: still what the picture itself shows there.
    (batch,) = task_of(tmp_path, net(), text + "resize = 24\nscale = 1").batches("test", 10)
    red, blue = batch.inputs["x"][:, 0] >= 170, batch.inputs["x"][:, 2] >= 170
    values = batch.targets["y"].values
    np.testing.assert_array_equal(values, np.where(values < 0, -1, np.where(blue, 2, red)))
    assert {-1, 0, 1, 2} >= set(np.unique(values).tolist()) >= {0, 1, 2}


def test_arrays_are_resized_and_cut_alike(tmp_path):
    images, labels = scenes(5, 0)
    np.savez(tmp_path / "a.npz", x=images.repeat(2, 1).repeat(2, 2), y=labels.repeat(2, 1).repeat(2, 2))
    (batch,) = task_of(tmp_path, net(), 'test = "a.npz"\nresize = 16').batches("test", 10)
    assert batch.inputs["x"].shape == (5, 3, 16, 16)
    np.testing.assert_array_equal(batch.targets["y"].values, np.where(labels == 255, -1, labels.astype(int)))


def test_smaller_outputs_get_the_nearest_label(tmp_path):
    images, labels = scenes(5, 0)
    np.savez(tmp_path / "a.npz", x=images, y=labels)
    np.savez(tmp_path / "b.npz", x=images, y=labels[:, 1::2, 1::2])
    with pytest.raises(TaskError, match="set resize_labels = true"):
        task_of(tmp_path, net(stride=2), 'test = "a.npz"')
    want = np.where(labels == 255, -1, labels.astype(int))[:, 1::2, 1::2]
    for text in ('test = "a.npz"\nresize_labels = true', 'test = "b.npz"'):
        (batch,) = task_of(tmp_path, net(stride=2), text).batches("test", 10)
        np.testing.assert_array_equal(batch.targets["y"].values, want)


def test_label_values_and_ignored_ones(tmp_path):
    images, labels = scenes(4, 0)
    other = np.select([labels == 0, labels == 1, labels == 2], [7, 40, 8], -3).astype(np.int16)
    np.savez(tmp_path / "a.npz", x=images, y=other[:, None])
    (batch,) = task_of(tmp_path, net(), 'test = "a.npz"\nlabel_values = [7, 40, 8]').batches("test", 9)
    np.testing.assert_array_equal(batch.targets["y"].values, np.where(labels == 255, -1, labels.astype(int)))
    with pytest.raises(TaskError, match=r"label 7 .* knows classes from 0 to 2, and ignore_index = -3"):
        task_of(tmp_path, net(), 'test = "a.npz"\nignore_index = -3')


def test_the_size_may_be_given_for_dynamic_graphs(tmp_path):
    images, labels = scenes(3, 0, side=24)
    np.savez(tmp_path / "a.npz", x=images, y=labels)
    task = task_of(tmp_path, net(side="S"), 'test = "a.npz"\nsize = [24, 24]')
    (batch,) = task.batches("test", 9)
    assert batch.targets["y"].values.shape == (3, 24, 24)


WRONG = [
    ('test = "a.npz"\nmetric = "iou"', "metric must be one of miou, accuracy"),
    ('test = "a.npz"\nclass_names = ["a"]', "class_names must be 3 names"),
    ('test = "a.npz"\nclass_weights = [1, 2]', "class_weights must be 3 numbers"),
    ('test = "a.npz"\nlabel_values = [1, 1, 2]', "label_values must be 3 different numbers"),
    ('test = "b.npz"', "label 9 (1 pixels are out of range); the output knows classes from 0 to 2"),
    ('test = "c.npz"', "hold float32[16, 16]; label maps are whole numbers"),
    ('test = "d.npz"', "are 12 x 12, the pictures 16 x 16; label maps have the size"),
    ('test = {images = "photos", labels = "masks"}', None),
]


@pytest.mark.parametrize(("text", "says"), WRONG)
def test_wrong_task_files(tmp_path, text, says):
    images, labels = scenes(4, 0)
    strange = labels.copy()
    strange[2, 5, 5] = 9
    for name, y in (
        ("a", labels),
        ("b", strange),
        ("c", labels.astype(np.float32)),
        ("d", labels[:, 4:, 4:]),
    ):
        np.savez(tmp_path / f"{name}.npz", x=images, y=y)
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(images[0]).save(tmp_path / folder / "1.png")
    if says is not None:
        with pytest.raises(TaskError) as caught:
            task_of(tmp_path, net(), text)
        assert says in str(caught.value)
        return
    with pytest.raises(TaskError, match=r"1\.png is a picture in colours \(RGB\); save class indices"):
        next(task_of(tmp_path, net(), text).batches("test", 2))


# --- figures


def test_confusion_by_hand():
    labels = np.array([0, 0, 0, 1, 1, -1, 2])
    answers = np.array([0, 0, 1, 1, -1, 0, 2])
    whole, parts = Confusion(4), Confusion(4)
    whole.add(answers, labels)
    for start in range(0, 7, 2):
        parts.add(answers[start : start + 2], labels[start : start + 2])
    np.testing.assert_array_equal(whole.counts, parts.counts)
    np.testing.assert_allclose(whole.iou, [2 / 3, 1 / 3, 1, 0])
    assert whole.mean_iou == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)  # the fourth class occurs nowhere
    assert whole.accuracy == pytest.approx(4 / 6)
    assert Confusion(3).mean_iou == 0


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("classes", [1, 3])
def test_right_answers_score_1(tmp_path, layout, classes):
    """And each wrong pixel costs; what is ignored does not. One channel tells two classes apart."""
    images, labels = scenes(6, 0)
    labels = np.where(labels == 255, 255, np.minimum(labels, max(1, classes - 1)))
    np.savez(tmp_path / "a.npz", x=images, y=labels)
    task = task_of(tmp_path, net(classes, layout=layout), 'test = "a.npz"')

    def answers(spoilt):
        for batch in task.batches("test", 4):
            right = (
                np.squeeze(batch.targets["y"].values, 3 if layout == "nhwc" else 1)
                if classes == 1
                else (batch.targets["y"].values)
            )
            right = np.where(right < 0, 1, right).astype(int)
            right[:, -1, :spoilt] = 1 - np.minimum(right[:, -1, :spoilt], 1)
            found = right[..., None] if classes == 1 else np.eye(3)[right]
            yield batch, {"y": found if layout == "nhwc" else np.moveaxis(found, 3, 1)}

    assert task.score("test", answers(0)) == 1
    figures = task.details("test", answers(3))
    counted = (labels != 255).sum()
    assert figures["pixel accuracy"] == pytest.approx(1 - 6 * 3 / counted)
    assert figures["mIoU"] < 1


def test_class_indices_can_be_scored(tmp_path):
    b = Builder(["N", 3, SIDE, SIDE])
    y = b.node("ArgMax", b.conv("x", 3, 3, 1), axis=1, keepdims=0)
    b.output(y, ["N", SIDE, SIDE], "y")
    b.outputs[0].type.tensor_type.elem_type = 7
    images, labels = scenes(6, 0)
    np.savez(tmp_path / "a.npz", x=images, y=labels)
    with pytest.raises(TaskError, match="name them: class_names"):
        task_of(tmp_path, b.model(), 'test = "a.npz"')
    task_of(tmp_path, b.model(), 'test = "a.npz"\nclass_names = ["ground", "red", "blue"]')
    figures = scores(tmp_path / "model.onnx").details
    assert set(figures) == {"pixel accuracy", "IoU ground", "IoU red", "IoU blue"}


def test_labels_move_with_their_pictures(tmp_path):
    """Moved as the picture is; what enters at the border is unlabelled."""
    images, labels = scenes(20, 0)
    images[..., 1] = labels + 1  # what enters is 0
    np.savez(tmp_path / "a.npz", x=images, y=labels)
    (batch,) = task_of(tmp_path, net(), 'test = "a.npz"\nscale = 1').batches("test", 20)
    seen, _ = read_augmentation("flip-shift:3")(batch, np.random.default_rng(0))
    shown = seen.inputs["x"][:, 1].astype(int) - 1
    np.testing.assert_array_equal(seen.targets["y"].values, np.where(shown == 255, -1, shown))
    (half,) = task_of(tmp_path, net(stride=2), 'test = "a.npz"\nresize_labels = true').batches("test", 20)
    with pytest.raises(AdapterError, match=r"are 8 x 8, the images 16 x 16.*flip-shift:0"):
        read_augmentation("shift")(half, np.random.default_rng(0))
    mirrored, _ = read_augmentation("flip-shift:0")(half, np.random.default_rng(0))
    assert mirrored.targets["y"].values.shape == (20, 8, 8)


# --- end to end


def test_segmentation_is_learnt_and_evolved(tmp_path):
    write_arrays(tmp_path)
    model = save(net(), tmp_path)
    before = write_task(
        tmp_path,
        "segmentation",
        ARRAYS
        + 'class_names = ["ground", "red", "blue"]\n[retrain]\naugment = "flip-shift:1"\nbatch_size = 8\n'
        'optimizer = "adam"',
    )
    assert before.exists()
    chance = scores(model).value
    train(model, epochs=8, batch_size=8, augment="flip-shift:1")
    learnt = scores(model)
    assert learnt.value > max(0.6, chance + 0.2)
    assert set(learnt.details) == {"pixel accuracy", "IoU ground", "IoU red", "IoU blue"}
    record = evolved(model, tmp_path / "run", epochs=3)
    assert record["best"]["score"] > 0.5
    assert record["best"]["architectural_efficiency"] > 1.2


@pytest.mark.parametrize(("adapter", "classes", "layout"), [("jax", 3, "nhwc"), ("torch", 1, "nchw")])
def test_other_layouts_and_adapters_learn_it(tmp_path, adapter, classes, layout):
    pytest.importorskip(adapter)
    images, labels = scenes(32, 0)
    labels = np.where(labels == 255, 255, np.minimum(labels, max(1, classes - 1)))
    np.savez(tmp_path / "a.npz", x=images, y=labels)
    model = save(net(classes, layout=layout, softmax=classes == 1), tmp_path)
    weights = "class_weights = [1, 2, 2]" if classes == 3 else ""
    write_task(tmp_path, "segmentation", f'train = "a.npz"\n{weights}')
    history = train(model, adapter, epochs=6, batch_size=8)
    assert history[-1].loss < 0.6 * history[0].loss
