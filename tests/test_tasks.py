"""The built-in tasks over every kind of data, held to the task contract."""

from __future__ import annotations

import gzip

import numpy as np
import onnx
import pytest
from graph_builder import Builder
from PIL import Image

from evonnx.evaluation import evaluate
from evonnx.network import load_network
from evonnx.task import Loss
from evonnx.tasks import find_task, find_task_file, load_task, read_task_file
from evonnx.testing import TaskContract, TinyTask, tiny_classifier
from evonnx.testing.models import CLASSES, example_images, save

SPLIT_SIZES = {"train": 40, "validation": 15, "test": 21}


def images_uint8(count, seed):
    """(count, 8, 8) uint8 and labels."""
    images, labels = example_images(count, seed)
    return np.clip(images[:, 0] * 80 + 90, 0, 255).astype(np.uint8), labels


def write_idx(path, array):
    codes = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}
    head = bytes([0, 0, codes[array.dtype.name], array.ndim])
    head += b"".join(size.to_bytes(4, "big") for size in array.shape)
    data = head + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_image_folder(folder, images, labels, names=None):
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = str(label) if names is None else names[label]
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name / f"{index:03}.png")


def write_cifar10(path, images, labels):
    records = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(len(images), -1)], axis=1)
    path.write_bytes(records.tobytes())


def write_stl10(folder, split, images, labels):
    """(N, 3, 96, 96) images, stored column by column as STL-10's binary files are, and labels from 0."""
    (folder / f"{split}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
    if labels is not None:
        (folder / f"{split}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())


def cifar_model():
    b = Builder(["N", 3, 32, 32])
    y = b.node("Relu", b.conv("x", 3, 4, 3, strides=[4, 4]))
    b.output(b.gemm(b.node("Flatten", b.node("GlobalAveragePool", y)), 4, 10), ["N", 10], "y")
    return b.model()


class _Classification(TaskContract):
    @pytest.fixture
    def model(self, tmp_path):
        return save(tiny_classifier(), tmp_path / "model.onnx")

    @pytest.fixture
    def lines(self, tmp_path):
        """Writes data; gives the lines of [task] that name it."""
        raise NotImplementedError

    @pytest.fixture
    def task(self, model, lines, tmp_path):
        (tmp_path / "task.toml").write_text(f'[task]\nkind = "classification"\n{lines}\n')
        return load_task(tmp_path / "task.toml", load_network(model))


class TestNpz(_Classification):
    @pytest.fixture
    def lines(self, tmp_path):
        for seed, (split, size) in enumerate(SPLIT_SIZES.items()):
            images, labels = example_images(size, seed)
            np.savez(tmp_path / f"{split}.npz", x=images, y=labels)
        return "\n".join(f'{split} = "{split}.npz"' for split in SPLIT_SIZES)

    def test_holds_the_files_sizes(self, task):
        assert {split: task.size(split) for split in SPLIT_SIZES} == SPLIT_SIZES
        assert "train 40 (train.npz), validation 15 (validation.npz), test 21 (test.npz)" in task.describe()


class TestOneNpzForAll(_Classification):
    """Validation and test are shares of train."""

    @pytest.fixture
    def lines(self, tmp_path):
        images, labels = images_uint8(60, 0)
        np.savez_compressed(tmp_path / "all.npz", images=images, labels=labels.astype(np.uint8)[:, None])
        return 'train = {file = "all.npz", x = "images", y = "labels"}\nvalidation_share = 0.2\nseed = 3'

    def test_keeps_shares_apart(self, task):
        # 20 of each of 3 classes: 4 go to test, 3 of the 16 left go to validation.
        assert {split: task.size(split) for split in SPLIT_SIZES} == {
            "train": 39,
            "validation": 9,
            "test": 12,
        }
        for split, each in (("train", 13), ("validation", 3), ("test", 4)):
            (batch,) = task.batches(split, 100)
            assert np.bincount(batch.targets).tolist() == [each] * CLASSES
        assert "test 12 (20% of train kept apart, seed 3)" in task.describe()


class TestIdx(_Classification):
    @pytest.fixture
    def lines(self, tmp_path):
        for seed, (split, name) in enumerate([("train", "train"), ("test", "t10k")]):
            images, labels = images_uint8(SPLIT_SIZES[split], seed)
            write_idx(tmp_path / f"{name}-images-idx3-ubyte", images)
            write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", labels.astype(np.uint8))
        return 'train = "."\ntest = {images = "t10k-images-idx3-ubyte", labels = "t10k-labels-idx1-ubyte.gz"}'


class TestIdxGz(_Classification):
    @pytest.fixture
    def lines(self, tmp_path):
        images, labels = images_uint8(SPLIT_SIZES["train"], 0)
        write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels.astype(np.uint8))
        return 'train = "train-images-idx3-ubyte.gz"'


class TestImages(_Classification):
    """Named classes, other sizes than the model's."""

    @pytest.fixture
    def lines(self, tmp_path):
        for seed, split in enumerate(("train", "test")):
            images, labels = images_uint8(SPLIT_SIZES[split], seed)
            larger = images.repeat(3, axis=1).repeat(2, axis=2)
            write_image_folder(tmp_path / split, larger, labels, ["ant", "bee", "cat"])
        (tmp_path / "train" / "bee" / "notes.txt").write_text("no image")
        return 'train = "train"\ntest = "test"'


class TestCifar(_Classification):
    @pytest.fixture
    def model(self, tmp_path):
        return save(cifar_model(), tmp_path / "model.onnx")

    @pytest.fixture
    def lines(self, tmp_path):
        rng = np.random.default_rng(0)
        for name, count in (("data_batch_1", 30), ("data_batch_2", 20), ("test_batch", 20)):
            images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
            write_cifar10(tmp_path / f"{name}.bin", images, np.arange(count) % 10)
        return 'train = "."\ntest = ["test_batch.bin"]\nmean = [0.49, 0.48, 0.45]\nstd = [0.2, 0.2, 0.3]'

    def test_joins_the_batches(self, task):
        assert task.size("train") + task.size("validation") == 50


def stl10_model():
    b = Builder(["N", 3, 96, 96])
    y = b.node("Relu", b.conv("x", 3, 4, 3, strides=[8, 8]))
    b.output(b.gemm(b.node("Flatten", b.node("GlobalAveragePool", y)), 4, 10), ["N", 10], "y")
    return b.model()


class TestStl10(_Classification):
    @pytest.fixture
    def model(self, tmp_path):
        return save(stl10_model(), tmp_path / "model.onnx")

    @pytest.fixture
    def lines(self, tmp_path):
        rng = np.random.default_rng(0)
        for split, count in (("train", 30), ("test", 20), ("unlabeled", 3)):
            images = rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
            write_stl10(tmp_path, split, images, None if split == "unlabeled" else np.arange(count) % 10)
        return 'train = "."\ntest = "test_X.bin"'

    def test_rows_columns_and_classes(self, task):
        """The images and classes that were written, not their transposes or labels from 1."""
        rng = np.random.default_rng(0)
        rng.integers(0, 256, (30, 3, 96, 96), dtype=np.uint8)
        images = rng.integers(0, 256, (20, 3, 96, 96), dtype=np.uint8)
        (batch,) = task.batches("test", 100)
        np.testing.assert_allclose(batch.inputs["x"], images / 255, atol=1e-6)
        assert batch.targets.tolist() == [*range(10), *range(10)]

    def test_unlabelled_images_distil(self, task, model, tmp_path):
        (tmp_path / "plain.toml").write_text('[task]\nkind = "distillation"\ntrain = "unlabeled_X.bin"\n')
        plain = load_task(tmp_path / "plain.toml", load_network(model))
        assert sum(plain.size(split) for split in SPLIT_SIZES) == 3


class _Distillation(TaskContract):
    text = '[task]\nkind = "distillation"\n'

    @pytest.fixture
    def model(self, tmp_path):
        return save(tiny_classifier(), tmp_path / "model.onnx")

    @pytest.fixture
    def task(self, model, tmp_path):
        (tmp_path / "task.toml").write_text(self.text)
        return load_task(tmp_path / "task.toml", load_network(model))


class TestSynthesised(_Distillation):
    text = '[task]\nkind = "distillation"\ntrain_size = 20\nvalidation_size = 9\ntest_size = 11\nseed = 4'

    def test_sizes_are_asked_for(self, task):
        assert [task.size(split) for split in SPLIT_SIZES] == [20, 9, 11]
        assert "no data, inputs synthesised" in task.describe()


class TestUnlabelled(_Distillation):
    text = '[task]\nkind = "distillation"\ntrain = "x.npz"\n'

    @pytest.fixture
    def model(self, tmp_path):
        np.savez(tmp_path / "x.npz", x=images_uint8(50, 0)[0])
        return save(tiny_classifier(), tmp_path / "model.onnx")


class TestLooseImages(_Distillation):
    """A folder of images without classes."""

    text = '[task]\nkind = "distillation"\ntrain = "photos"\n'

    @pytest.fixture
    def model(self, tmp_path):
        (tmp_path / "photos").mkdir()
        for index, image in enumerate(images_uint8(40, 0)[0]):
            Image.fromarray(image).save(tmp_path / "photos" / f"{index}.png")
        return save(tiny_classifier(), tmp_path / "model.onnx")


def two_inputs():
    """y = Relu(a W + b V), [N, 6] and [N, 4], dynamic batch."""
    b = Builder(["N", 6])
    b.inputs.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", 4]))
    total = b.node("Add", b.matmul("x", 6, 5), b.matmul("z", 4, 5))
    b.output(b.node("Relu", total), ["N", 5], "y")
    b.output(b.node("Sigmoid", total), ["N", 5], "s")
    return b.model()


class TestTwoInputs(_Distillation):
    @pytest.fixture
    def model(self, tmp_path):
        return save(two_inputs(), tmp_path / "model.onnx")


class TestTwoInputsFromFiles(TestTwoInputs):
    text = '[task]\nkind = "distillation"\ntrain = "both.npz"\n'

    @pytest.fixture
    def model(self, tmp_path):
        rng = np.random.default_rng(0)
        np.savez(tmp_path / "both.npz", x=rng.normal(size=(40, 6)), z=rng.normal(size=(40, 4)))
        return save(two_inputs(), tmp_path / "model.onnx")


def recurrent():
    """A signal, a state whose batch is axis 1, and a sampling rate, as speech models have."""
    b = Builder([None, None])
    kinds = onnx.TensorProto
    b.inputs.append(onnx.helper.make_tensor_value_info("state", kinds.FLOAT, [2, "N", 8]))
    b.inputs.append(onnx.helper.make_tensor_value_info("sr", kinds.INT64, []))
    mean = b.node("ReduceMean", "state", axes=[0], keepdims=0)
    rate = b.node("Div", b.node("Cast", "sr", to=kinds.FLOAT), b.constant(np.float32(8000)))
    b.output(b.node("Mul", b.matmul(mean, 8, 3), rate), ["N", 3], "y")
    b.output(b.node("Mul", "x", rate), [None, None], "loud")
    return b.model()


class TestRecurrent(_Distillation):
    text = '[task]\nkind = "distillation"\ntrain_size = 6\nvalidation_size = 4\ntest_size = 5'

    @pytest.fixture
    def model(self, tmp_path):
        return save(recurrent(), tmp_path / "model.onnx")

    def test_scalars_are_plausible(self, task):
        for batch in task.batches("train", 4):
            assert batch.size == 1
            assert batch.inputs["sr"] == 16000
            assert batch.inputs["x"].shape == (1, 32)
            assert np.abs(batch.inputs["state"]).max() <= 1


class TestTinyTask(TaskContract):
    """The task that ships for adapters' tests."""

    @pytest.fixture
    def model(self, tmp_path):
        return save(tiny_classifier(), tmp_path / "model.onnx")

    @pytest.fixture
    def task(self):
        return TinyTask(loss=Loss("cross_entropy"))


# --- preparation of inputs


def load(tmp_path, model, **keys):
    """A classification task from keys of [task], and the network."""
    import json

    path = save(model, tmp_path / "model.onnx")
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
    (tmp_path / "task.toml").write_text(f'[task]\nkind = "classification"\n{text}\n')
    return load_task(tmp_path / "task.toml", load_network(path))


def flat_model(shape, classes=3, dtype=np.float32):
    """Takes any image as it is, flattens, one layer."""
    b = Builder(["N", *shape], dtype=dtype)
    b.output(b.gemm(b.node("Flatten", "x"), int(np.prod(shape)), classes), ["N", classes], "y")
    return b.model()


def first_batch(task, split="test"):
    (batch,) = task.batches(split, 1000)
    return batch.inputs["x"]


RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)  # N H W C
GREY = RGB[..., 0]
CHANNELS_FIRST = RGB.transpose(0, 3, 1, 2)
CUBE = RGB[:, :3, :3]


@pytest.mark.parametrize(
    ("stored", "takes", "keys", "expected"),
    [
        (GREY, (1, 6, 5), {}, GREY[:, None] / 255),
        (GREY, (6, 5, 1), {}, GREY[..., None] / 255),
        (GREY, (30,), {}, GREY.reshape(4, 30) / 255),
        (GREY.reshape(4, 30), (30,), {}, GREY.reshape(4, 30) / 255),
        (RGB, (3, 6, 5), {}, CHANNELS_FIRST / 255),
        (CHANNELS_FIRST, (3, 6, 5), {}, CHANNELS_FIRST / 255),
        (CHANNELS_FIRST, (6, 5, 3), {}, RGB / 255),
        (CUBE, (3, 3, 3), {}, CUBE / 255),
        (CUBE, (3, 3, 3), {"layout": "nchw"}, CUBE / 255),
        (CUBE, (3, 3, 3), {"layout": "nhwc"}, CUBE.transpose(0, 3, 1, 2) / 255),
        (RGB, (3, 6, 5), {"scale": 1}, CHANNELS_FIRST),
        (RGB.astype(np.float64), (3, 6, 5), {}, CHANNELS_FIRST),
        (RGB.astype(np.int16), (3, 6, 5), {"scale": 127.5, "mean": 1}, CHANNELS_FIRST / 127.5 - 1),
        (
            RGB,
            (3, 6, 5),
            {"mean": [0.1, 0.2, 0.3], "std": [1, 2, 4]},
            (CHANNELS_FIRST / 255 - np.reshape([0.1, 0.2, 0.3], (3, 1, 1)))
            / np.reshape([1, 2, 4], (3, 1, 1)),
        ),
        (CHANNELS_FIRST, (6, 5, 3), {"mean": [0.1, 0.2, 0.3]}, RGB / 255 - np.array([0.1, 0.2, 0.3])),
    ],
)
def test_inputs_are_prepared(tmp_path, stored, takes, keys, expected):
    np.savez(tmp_path / "test.npz", x=stored, y=np.arange(4) % 3)
    inputs = first_batch(load(tmp_path, flat_model(takes), test="test.npz", **keys))
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(inputs, expected, atol=2e-6 * 255)


def test_inputs_have_the_graphs_dtype(tmp_path):
    np.savez(tmp_path / "test.npz", x=GREY, y=np.arange(4) % 3)
    inputs = first_batch(load(tmp_path, flat_model((1, 6, 5), dtype=np.float16), test="test.npz"))
    assert inputs.dtype == np.float16
    np.testing.assert_allclose(inputs, GREY[:, None] / 255, atol=1e-3)


def test_integer_inputs_stay_as_they_are(tmp_path):
    b = Builder(["N", 1, 6, 5])
    b.inputs[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    y = b.node("Flatten", b.node("Cast", "x", to=onnx.TensorProto.FLOAT))
    b.output(b.gemm(y, 30, 3), ["N", 3], "y")
    np.savez(tmp_path / "test.npz", x=GREY, y=np.arange(4) % 3)
    inputs = first_batch(load(tmp_path, b.model(), test="test.npz"))
    assert inputs.dtype == np.uint8
    np.testing.assert_array_equal(inputs, GREY[:, None])


def test_image_folders_by_number_keep_their_numbers(tmp_path):
    write_image_folder(tmp_path / "test", GREY, [2, 0, 2, 2])
    task = load(tmp_path, flat_model((1, 6, 5)), test="test")
    (batch,) = task.batches("test", 10)
    assert batch.targets.tolist() == [0, 2, 2, 2]
    np.testing.assert_allclose(batch.inputs["x"][0, 0], GREY[1] / 255, atol=1e-6)


def test_class_names_give_the_order(tmp_path):
    write_image_folder(tmp_path / "test", GREY, [0, 0, 1, 1], ["zebra", "ape"])
    task = load(tmp_path, flat_model((1, 6, 5)), test="test", class_names=["zebra", "ape", "bear"])
    (batch,) = task.batches("test", 10)
    assert batch.targets.tolist() == [1, 1, 0, 0]  # read in the order of the folders' names


def test_image_size_may_be_given_for_dynamic_graphs(tmp_path):
    b = Builder(["N", 3, "H", "W"])
    y = b.node("Flatten", b.node("GlobalAveragePool", b.conv("x", 3, 4, 3)))
    b.output(b.gemm(y, 4, 3), ["N", 3], "y")
    write_image_folder(tmp_path / "test", RGB, [0, 1, 2, 1])
    task = load(tmp_path, b.model(), test="test", size=[12, 10])
    assert first_batch(task).shape == (4, 3, 12, 10)
    task = load(tmp_path, b.model(), test="test")
    assert first_batch(task).shape == (4, 3, 224, 224)


def test_uint8_data_stays_uint8_in_memory(tmp_path):
    np.savez(tmp_path / "test.npz", x=GREY, y=np.arange(4) % 3)
    task = load(tmp_path, flat_model((1, 6, 5)), test="test.npz")
    assert task._parts["test"].source.examples.array.nbytes == GREY.size


def test_accuracy_is_onnxruntimes(tmp_path):
    """A model whose layer reads the band's columns gets the labels right, a random one does not."""
    images, labels = example_images(60, 5)
    np.savez(tmp_path / "test.npz", x=images, y=labels)
    b = Builder(["N", 1, 8, 8])
    weight = np.zeros((3, 1, 8, 8), np.float32)
    for label in range(3):
        weight[label, 0, :, 2 * label + 1 : 2 * label + 3] = 1
    y = b.node("MatMul", b.node("Flatten", "x"), b.constant(weight.reshape(3, 64).T.copy()))
    b.output(b.node("Softmax", y, axis=1), ["N", 3], "y")
    task = load(tmp_path, b.model(), test="test.npz")
    assert evaluate(tmp_path / "model.onnx", task, "test", threads=1).value == 1.0
    assert evaluate(save(flat_model((1, 8, 8)), tmp_path / "m2.onnx"), task, "test", threads=1).value < 0.9


# --- finding tasks


def test_tasks_are_found_in_order(tmp_path):
    model = save(tiny_classifier(), tmp_path / "model.onnx")
    network = load_network(model)
    images, labels = example_images(12, 0)
    np.savez(tmp_path / "d.npz", x=images, y=labels)
    assert find_task_file(model) is None
    task, how, retrain = find_task(model, network)
    assert task.name == "distillation"
    assert "no model.toml" in how
    assert "data-free self-distillation" in how
    assert retrain == {"epochs": 5, "recovery_epochs": 10}
    (tmp_path / "model.toml").write_text(
        '[task]\nkind = "classification"\ntest = "d.npz"\n[retrain]\nepochs = 3\n'
    )
    task, how, retrain = find_task(model, network)
    assert task.name == "classification"
    assert "found beside the model" in how
    assert retrain == {"epochs": 3}
    (tmp_path / "other.toml").write_text('[task]\nkind = "distillation"\ntrain_size = 3\n')
    task, how, retrain = find_task(model, network, tmp_path / "other.toml")
    assert task.size("train") == 3
    assert how == "Task from other.toml, as given."


OWN = """
from evonnx.testing import TinyTask

class MyTask(TinyTask):
    name = "mine"
    def __init__(self, config, network):
        super().__init__(train=config["count"])
        self.config = config
"""


def test_a_class_of_the_users_own(tmp_path):
    (tmp_path / "my_task.py").write_text(OWN)
    (tmp_path / "task.toml").write_text('[task]\nkind = "my_task.py:MyTask"\ncount = 12\n')
    network = load_network(save(tiny_classifier(), tmp_path / "model.onnx"))
    task = load_task(tmp_path / "task.toml", network)
    assert task.name == "mine"
    assert task.size("train") == 12
    assert task.config == {"count": 12, "file": "task.toml", "directory": str(tmp_path.resolve())}


def test_retrain_is_read(tmp_path):
    text = """
    [task]
    kind = "distillation"
    [retrain]
    epochs = 2
    recovery_epochs = 5
    batch_size = 64
    learning_rate = 0.02
    optimizer = "adam"
    weight_decay = 0
    schedule = "cosine"
    warmup = 0.1
    clip_norm = 5.0
    ema_decay = 0.99
    distill = 0.5
    temperature = 3
    augment = "shift"
    threads = 2
    """
    (tmp_path / "task.toml").write_text(text)
    from evonnx.adapter import TrainingBudget

    retrain = dict(read_task_file(tmp_path / "task.toml").retrain)
    assert retrain.pop("recovery_epochs") == 5
    # The shares are evonnx's own, for a second attempt.
    assert {*retrain, "batch_share", "rate_share"} == set(TrainingBudget.__dataclass_fields__)
    assert TrainingBudget(**retrain).learning_rate == 0.02
