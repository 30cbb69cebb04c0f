"""Preprocessing stated in the task file, held against Pillow by hand; tables of text; several inputs."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import Builder
from PIL import Image
from task_support import evolved, scores, train
from test_tasks import RGB, first_batch, flat_model, load, two_inputs, write_image_folder

from evonnx.errors import TaskError
from evonnx.network import load_network
from evonnx.tasks import load_task
from evonnx.testing import TaskContract
from evonnx.testing.models import save

WIDE = np.random.default_rng(1).integers(0, 256, (3, 20, 31, 3), dtype=np.uint8)


def by_hand(image, shorter, side):
    """torchvision's Resize(shorter) and CenterCrop(side)."""
    width, height = image.size
    scale = shorter / min(width, height)
    large = image.resize((int(scale * width + 1e-9), int(scale * height + 1e-9)), Image.Resampling.BILINEAR)
    left, top = (round((n - side) / 2) for n in large.size)
    return np.asarray(large.crop((left, top, left + side, top + side)))


@pytest.mark.parametrize("stored", ["folder", "nhwc", "nchw"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_what_a_model_zoo_asks_for(tmp_path, stored, order):
    """Shorter side, centre, channel order, scale, mean and deviation per channel, as the graph takes them."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    keys = {"resize": 16, "crop": 12, "channel_order": order, "mean": mean, "std": std}
    if stored == "folder":
        write_image_folder(tmp_path / "test", WIDE, [0, 1, 2])
        data = "test"
    else:
        images = WIDE if stored == "nhwc" else WIDE.transpose(0, 3, 1, 2)
        np.savez(tmp_path / "test.npz", x=images, y=np.arange(3))
        data = "test.npz"
    found = first_batch(load(tmp_path, flat_model((3, 12, 12)), test=data, **keys))
    want = np.stack([by_hand(Image.fromarray(image), 16, 12) for image in WIDE]) / 255
    want = ((want if order == "rgb" else want[..., ::-1]) - mean) / std
    np.testing.assert_allclose(found, want.transpose(0, 3, 1, 2), atol=1e-5)


def test_channels_last_and_integer_graphs_are_prepared_alike(tmp_path):
    write_image_folder(tmp_path / "test", RGB, [0, 1, 2, 1])
    b = Builder(["N", 6, 5, 3])
    b.inputs[0].type.tensor_type.elem_type = 2
    y = b.node("Flatten", b.node("Cast", "x", to=1))
    b.output(b.gemm(y, 90, 3), ["N", 3], "y")
    found = first_batch(load(tmp_path, b.model(), test="test", channel_order="bgr"))
    assert found.dtype == np.uint8
    order = [0, 1, 3, 2]  # by folder
    np.testing.assert_array_equal(found, RGB[order][..., ::-1])


def test_floats_are_resized_as_floats(tmp_path):
    ramp = np.linspace(0, 1, 8, dtype=np.float32)[None, None, :].repeat(8, 1).repeat(4, 0)
    np.savez(tmp_path / "test.npz", x=ramp[:, None], y=np.arange(4) % 3)
    found = first_batch(
        load(tmp_path, flat_model((1, 4, 4)), test="test.npz", resize=[4, 4], interpolation="box")
    )
    np.testing.assert_allclose(found[0, 0, 0], [1 / 14, 5 / 14, 9 / 14, 13 / 14], atol=1e-6)


def test_crop_decides_where_the_graph_leaves_the_size_open(tmp_path):
    b = Builder(["N", 3, "H", "W"])
    y = b.node("Flatten", b.node("GlobalAveragePool", b.conv("x", 3, 4, 3)))
    b.output(b.gemm(y, 4, 3), ["N", 3], "y")
    write_image_folder(tmp_path / "test", WIDE, [0, 1, 2])
    assert first_batch(load(tmp_path, b.model(), test="test", resize=18, crop=[16, 14])).shape == (
        3,
        3,
        16,
        14,
    )
    assert first_batch(load(tmp_path, b.model(), test="test", crop=10)).shape == (3, 3, 10, 10)


def test_the_order_of_classes_is_told(tmp_path):
    write_image_folder(tmp_path / "test", RGB, [0, 1, 2, 1], ["wasp", "ant", "bee"])
    task = load(tmp_path, flat_model((3, 6, 5)), test="test")
    assert "classes in order: ant, bee, wasp;" in task.describe()
    task = load(tmp_path, flat_model((3, 6, 5)), test="test", class_names=["wasp", "ant", "bee"])
    assert "classes in order: wasp, ant, bee;" in task.describe()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"resize": 0}, "resize must be the shorter side in pixels, or [height, width]"),
        ({"resize": [1, 2, 3]}, "resize must be the shorter side"),
        ({"resize": 2.5}, "resize must be the shorter side"),
        ({"resize": 10**6}, "resize must be the shorter side"),
        ({"crop": [4, 4, 4]}, "crop must be [height, width]"),
        ({"crop": 6, "size": [6, 5]}, "crop must be what size is, or left out"),
        ({"interpolation": "cubic"}, "interpolation must be one of bilinear, nearest, bicubic"),
        ({"channel_order": "gbr"}, "channel_order must be one of rgb, bgr"),
        ({"resize": 4}, "resize makes pictures of 4 x 6 pixels, from which 6 x 5 cannot be cut"),
    ],
)
def test_wrong_preparations(tmp_path, keys, says):
    write_image_folder(tmp_path / "test", WIDE, [0, 1, 2])
    with pytest.raises(TaskError) as caught:
        first_batch(load(tmp_path, flat_model((3, 6, 5)), test="test", **keys))
    assert says in str(caught.value)


def test_a_narrow_picture_does_not_become_endless(tmp_path):
    write_image_folder(tmp_path / "test", np.zeros((1, 4000, 1, 3), np.uint8), [0])
    with pytest.raises(TaskError, match=r"would become 24 x 96000, which is more than"):
        first_batch(load(tmp_path, flat_model((3, 6, 5)), test="test", resize=24))


def test_vectors_are_not_resized(tmp_path):
    np.savez(tmp_path / "test.npz", x=np.zeros((4, 30), np.float32), y=np.arange(4) % 3)
    with pytest.raises(TaskError, match="resize and crop are for images"):
        load(tmp_path, flat_model((30,)), test="test.npz", resize=4)
    np.savez(tmp_path / "test.npz", x=np.zeros((4, 6, 5), np.uint8), y=np.arange(4) % 3)
    with pytest.raises(TaskError, match="channel_order must be left out"):
        load(tmp_path, flat_model((1, 6, 5)), test="test.npz", channel_order="bgr")


# --- tables, several inputs


def write_table(path, count, seed):
    """Points whose class is the sum of two of four columns, and a column of text."""
    rng = np.random.default_rng([3, seed])
    points = rng.normal(size=(count, 4))
    labels = np.digitize(points[:, 0] + points[:, 2], [-0.6, 0.6])
    lines = ["id,a,b,c,d,class"]
    for index, (row, label) in enumerate(zip(points, labels, strict=True)):
        lines.append(",".join([f'"no. {index}"', *(f"{value:.4f}" for value in row), str(label)]))
    path.write_text("\r\n".join(lines))


def points_net():
    b = Builder(["N", 4])
    y = b.node("Relu", b.gemm("x", 4, 24))
    y = b.node("Relu", b.gemm(y, 24, 24))
    b.output(b.gemm(y, 24, 3), ["N", 3], "y")
    return b.model()


TABLE = """
[task]
kind = "classification"
train = "train.csv"
test = "test.csv"
label = "class"
[task.inputs.x]
columns = ["a", "b", "c", "d"]
"""


class TestTable(TaskContract):
    @pytest.fixture
    def model(self, tmp_path):
        return save(points_net(), tmp_path / "model.onnx")

    @pytest.fixture
    def task(self, model, tmp_path):
        write_table(tmp_path / "train.csv", 80, 0)
        write_table(tmp_path / "test.csv", 30, 1)
        (tmp_path / "model.toml").write_text(TABLE)
        return load_task(tmp_path / "model.toml", load_network(model))


def test_a_table_is_learnt_and_evolved(tmp_path):
    write_table(tmp_path / "train.csv", 240, 0)
    write_table(tmp_path / "test.csv", 90, 1)
    (tmp_path / "model.toml").write_text(TABLE + "[retrain]\noptimizer = 'adam'\nbatch_size = 16\n")
    model = save(points_net(), tmp_path / "model.onnx")
    train(model, epochs=12)
    assert scores(model).value > 0.8
    record = evolved(model, tmp_path / "run")
    assert record["best"]["score"] > 0.75
    assert record["best"]["architectural_efficiency"] > 1.2


def test_columns_in_the_split_itself(tmp_path):
    write_table(tmp_path / "a.csv", 30, 0)
    text = TABLE.split("train =")[0] + 'test = {file = "a.csv", x = ["a", "b", "c", "d"], y = "class"}'
    (tmp_path / "task.toml").write_text(text)
    task = load_task(tmp_path / "task.toml", load_network(save(points_net(), tmp_path / "model.onnx")))
    (batch,) = task.batches("test", 100)
    assert batch.inputs["x"].shape == (30, 4)
    assert set(batch.targets.tolist()) == {0, 1, 2}
    (tmp_path / "a.csv").write_text("a,b,c,d,class\n1,2,3,4,5\n")
    with pytest.raises(TaskError, match=r"label 5 at index 0 is out of range"):
        load_task(tmp_path / "task.toml", load_network(tmp_path / "model.onnx"))


def test_a_classifier_of_two_inputs(tmp_path):
    rng = np.random.default_rng(0)
    x, z, y = rng.normal(size=(20, 6)), rng.normal(size=(20, 4)), np.arange(20) % 5
    np.savez(tmp_path / "both.npz", x=x, side=z, y=y)
    text = '[task]\nkind = "classification"\ntrain = "both.npz"\nscale = 2\n'
    text += '[task.inputs.z]\ncolumn = "side"\nscale = 4\n'
    (tmp_path / "task.toml").write_text(text)
    task = load_task(tmp_path / "task.toml", load_network(save(two_inputs(), tmp_path / "model.onnx")))
    (batch,) = task.batches("train", 100)
    assert set(batch.inputs) == {"x", "z"}
    for place in range(batch.size):
        index = np.abs(x / 2 - batch.inputs["x"][place]).sum(axis=1).argmin()
        np.testing.assert_allclose(batch.inputs["z"][place], z[index] / 4, rtol=1e-5)
        assert batch.targets[place] == y[index]
