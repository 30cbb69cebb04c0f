"""Wrong task files and wrong data: each gives one TaskError that names the place and what to do."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_builder import Builder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_tasks import flat_model, two_inputs, write_idx, write_image_folder

from evonnx.errors import TaskError
from evonnx.network import load_network
from evonnx.tasks import load_task, read_task_file
from evonnx.tasks.data.arrays import read_idx, read_npz, read_stl10
from evonnx.testing import tiny_classifier
from evonnx.testing.models import save

GOOD_X = np.zeros((4, 1, 8, 8), np.float32)
GOOD_Y = np.arange(4) % 3


def fails(tmp_path: Path, text: str | bytes, model: onnx.ModelProto | None = None) -> str:
    """The message of the TaskError that a task file gives; it is one paragraph."""
    path = tmp_path / "task.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    network = load_network(save(model or tiny_classifier(), tmp_path / "model.onnx"))
    with pytest.raises(TaskError) as caught:
        load_task(path, network)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


TASK = '[task]\nkind = "classification"\n'
DATA = f'{TASK}test = "test.npz"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no [task] table"),
        ("[task", "task.toml is not a task file: it is not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        ("task = 3", "task must be a table"),
        ("[tasks]\n", "unknown key 'tasks'. Did you mean 'task'?"),
        ("[task]\n", "the key 'kind' is missing"),
        ("[task]\nkind = 3", "kind must be a string, not 3"),
        ('[task]\nkind = "clasification"', "Did you mean 'classification'?"),
        ('[task]\nkind = "nothing.py:Task"', "there is no file"),
        ('[task]\nkind = "no_such_module:Task"', "importing no_such_module failed"),
        ('[task]\nkind = "my_task.py:"', "names no code"),
        ("[task]\nkind = 'classification'\nfile = 'x'", "the key 'file' is evonnx's own"),
        (TASK, "no data is named"),
        (f'{TASK}trian = "x.npz"', "unknown key 'trian'. Did you mean 'train'?"),
        (f"{TASK}test = 3", "test must be a path"),
        (f"{TASK}test = []", "test must be a path"),
        (f"{TASK}test = {{}}", "test must be a path"),
        (f'{TASK}test = "nowhere.npz"', "test = 'nowhere.npz' does not exist"),
        (f'{TASK}test = {{file = "nowhere.npz"}}', "'nowhere.npz' does not exist"),
        (f'{TASK}test = {{file = "test.npz", z = "x"}}', "unknown key 'z'"),
        (f'{TASK}test = {{file = "test.npz", x = "inputs"}}', "no array 'inputs'; it has x, y"),
        (f'{TASK}test = {{file = "test.npz", y = "labels"}}', "no array 'labels'; it has x, y"),
        (f'{TASK}test = {{images = "i.idx"}}', "the key 'labels' is missing"),
        (f'{TASK}test = {{images = "i.idx", labels = "l.idx"}}', "'i.idx' does not exist"),
        (f"{DATA}scale = 0", "scale must be a number above 0"),
        (f'{DATA}scale = "255"', "scale must be a number above 0"),
        (f"{DATA}scale = true", "scale must be a number above 0"),
        (f"{DATA}mean = []", "mean must be a number or a list of numbers"),
        (f"{DATA}mean = [1, 2]", "mean must be one number or one per channel"),
        (f"{DATA}std = [0.0]", "std must be a number above 0"),
        (f"{DATA}mean = nan", "mean must be a number or a list"),
        (f'{DATA}layout = "hwc"', "layout must be one of nchw, nhwc (did you mean 'nhwc'?)"),
        (f"{DATA}validation_share = 1", "validation_share must be a share between 0 and 1"),
        (f"{DATA}seed = -1", "seed must be a whole number of at least 0"),
        (f"{DATA}seed = 1.5", "seed must be a whole number"),
        (f'{DATA}output = "score"', "output must be one of scores (did you mean 'scores'?)"),
        (f"{DATA}classes = 4", "classes = 4, but output 'scores'"),
        (f"{DATA}classes = 1", "classes must be a whole number of at least 2"),
        (f"{DATA}size = [8]", "size must be [height, width]"),
        (f"{DATA}memory_gib = 0", "memory_gib must be a number above 0"),
        (f"{DATA}memory_gib = 1e-7", "more than the limit"),
        (f'{DATA}class_names = ["a", "a"]', "a list of different strings"),
        (f"{DATA}[retrain]\nepoch = 1", "[retrain]: unknown key 'epoch'. Did you mean 'epochs'?"),
        (f"{DATA}[retrain]\nepochs = -1", "[retrain]: epochs must be a whole number of at least 0"),
        (f"{DATA}[retrain]\nlearning_rate = 0", "learning_rate must be a number above 0"),
        (f"{DATA}[retrain]\nlearning_rate = inf", "learning_rate must be a number above 0"),
        (
            f'{DATA}[retrain]\noptimizer = "adamw"',
            "optimizer must be one of sgd, adam (did you mean 'adam'?)",
        ),
        (f"{DATA}[retrain]\ndistill = 1.5", "distill must be a share from 0 to 1"),
        (f"{DATA}[retrain]\nema_decay = 1", "ema_decay must be a number from 0"),
        ('[task]\nkind = "distillation"\nscale = 2', "scale is about data"),
        ('[task]\nkind = "distillation"\ntrain_size = 0', "train_size must be a whole number of at least 1"),
        ('[task]\nkind = "distillation"\nlabels = "x"', "unknown key 'labels'"),
        ('[task]\nkind = "distillation"\ntest = "test.npz"\ntest_size = 3', "unknown key 'test_size'"),
    ],
)
def test_wrong_task_files(tmp_path, text, says):
    np.savez(tmp_path / "test.npz", x=GOOD_X, y=GOOD_Y)
    assert says in fails(tmp_path, text)


def test_a_task_file_that_cannot_be_read(tmp_path):
    with pytest.raises(TaskError, match="no task file"):
        read_task_file(tmp_path / "none.toml")
    with pytest.raises(TaskError, match="cannot be read"):
        read_task_file(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": GOOD_X, "y": np.array([0, 1, 2, 3])}, "array 'y': label 3 at index 3 is out of range"),
        (
            {"x": GOOD_X, "y": np.array([0, -1, 2, 9])},
            "label -1 at index 1 is out of range; the model's output",
        ),
        ({"x": GOOD_X, "y": np.array([0, 1, 2])}, "holds 4 examples, but"),
        ({"x": GOOD_X, "y": np.array([0.0, 1.0, 1.5, 2.0])}, "label 1.5 at index 2 is not a whole number"),
        ({"x": GOOD_X, "y": np.array([0.0, np.nan, 1, 2])}, "label nan at index 1"),
        ({"x": GOOD_X, "y": np.eye(3)[GOOD_Y]}, "one-hot"),
        ({"x": GOOD_X, "y": np.array(["a", "b", "c", "a"])}, "labels are class indices"),
        ({"x": GOOD_X}, "no array 'y'"),
        ({"y": GOOD_Y}, "no array 'x'"),
        ({"x": GOOD_X[:0], "y": GOOD_Y[:0]}, "holds no examples"),
        ({"x": np.float32(3), "y": GOOD_Y}, "single value"),
        ({"x": np.zeros((4, 1, 9, 9)), "y": GOOD_Y}, "holds examples of shape [1, 9, 9]"),
        ({"x": np.zeros((4, 3, 8, 8)), "y": GOOD_Y}, "the model's input 'images' takes [1, 8, 8]"),
        ({"x": np.zeros((4, 8)), "y": GOOD_Y}, "holds examples of shape [8]"),
        ({"x": np.zeros((4, 1, 8, 8), complex), "y": GOOD_Y}, "complex128"),
        ({"x": GOOD_X + np.array([0, 0, np.inf, 0]).reshape(4, 1, 1, 1), "y": GOOD_Y}, "example 2 has NaN"),
    ],
)
def test_wrong_arrays(tmp_path, arrays, says):
    np.savez(tmp_path / "test.npz", **arrays)
    message = fails(tmp_path, DATA)
    assert says in message
    assert "test.npz" in message


def test_pickled_arrays_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "boom",))

    np.savez(tmp_path / "test.npz", x=np.array([Bomb()], dtype=object), y=GOOD_Y)
    assert "pickled Python objects, which are never loaded" in fails(tmp_path, DATA)
    assert not (tmp_path / "boom").exists()


def _npz(path: Path, header: bytes, data: bytes = b"", name: str = "x.npy") -> None:
    """An .npz whose .npy header says whatever it likes."""
    padded = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + data)


HUGE = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000), }"
LIE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000, 8, 8), }"


def _cut(path: Path) -> None:
    np.savez(path, x=np.random.default_rng(0).random((50, 8, 8)), y=np.zeros(50))
    path.write_bytes(path.read_bytes()[:-2000])


def _flipped(path: Path) -> None:
    np.savez_compressed(path, x=np.random.default_rng(0).random((50, 8, 8)), y=np.zeros(50))
    data = bytearray(path.read_bytes())
    data[4000:4040] = bytes(40)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: _npz(path, HUGE), "more than the limit of 4.0 GiB"),
        (lambda path: _npz(path, LIE, b"1234"), "is damaged: its header promises 256,000 bytes"),
        (lambda path: _npz(path, b"{'descr': 'x" * 50), "cannot be read"),
        (lambda path: _npz(path, b"__import__('os')"), "cannot be read"),
        (_cut, "not a readable .npz file"),
        (_flipped, "cannot be read"),
        (lambda path: path.write_bytes(b""), "none of the files that hold examples"),
        (lambda path: path.write_text("a,b\n1,2\n"), "none of the files that hold examples"),
        (lambda path: np.save(path.open("wb"), GOOD_X), "none of the files that hold examples"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_damaged_npz(tmp_path, write, says):
    write(tmp_path / "test.npz")
    message = fails(tmp_path, DATA)
    assert says in message
    assert "test.npz" in message


def _idx_head(code: int, *shape: int) -> bytes:
    return bytes([0, 0, code, len(shape)]) + b"".join(struct.pack(">I", size) for size in shape)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an IDX file"),
        (b"\0\0", "not an IDX file"),
        (b"\1\2\3\4", "not an IDX file"),
        (bytes([0, 0, 7, 1]), "not an IDX file"),
        (bytes([0, 0, 8, 0]), "not an IDX file"),
        (bytes([0, 0, 8, 3, 0, 0]), "ends inside its IDX header"),
        (_idx_head(8, 10**6, 10**6), "more than the limit"),
        (_idx_head(14, 2**32 - 1, 2**32 - 1, 2**32 - 1), "more than the limit"),
        (_idx_head(8, 4, 8, 8) + bytes(255), "is damaged"),
        (_idx_head(8, 4, 8, 8) + bytes(257), "is damaged"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_that_lie(tmp_path, data, says, packed):
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(TaskError, match="images") as caught:
        read_idx(path, 2**32)
    assert says in str(caught.value)


def test_a_damaged_gzip_stream_is_named(tmp_path):
    packed = gzip.compress(_idx_head(8, 40, 8, 8) + np.random.default_rng(0).bytes(40 * 64))
    for name, data in (("short", packed[:-900]), ("flipped", packed[:300] + bytes(9) + packed[309:])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TaskError, match=f"{name} "):
            read_idx(tmp_path / name, 2**30)


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    """A header that promises little before zeros without end: reading stops at what was promised."""
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(_idx_head(8, 4, 8, 8) + bytes(50_000_000)))
    with pytest.raises(TaskError, match="it holds more than the 256 bytes"):
        read_idx(path, 2**30)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_is_read_in_every_dtype(tmp_path, dtype, suffix):
    array = np.random.default_rng(0).integers(-100, 100, (3, 4, 5)).astype(dtype)
    write_idx(tmp_path / f"a{suffix}", array)
    found = read_idx(tmp_path / f"a{suffix}", 10**6)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@given(data=st.binary(max_size=200), known=st.booleans())
def test_no_bytes_break_the_readers(data, known, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "file"
    path.write_bytes(b"\0\0\x08\x01" + data if known else data)
    with_header = io.BytesIO()
    with zipfile.ZipFile(with_header, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + data)
    with contextlib.suppress(TaskError):
        assert read_idx(path, 1000).nbytes <= 1000
    path.write_bytes(with_header.getvalue())
    with pytest.raises(TaskError):
        read_npz(path, "x", 1000)


def test_idx_files_that_do_not_fit_together(tmp_path):
    images = np.zeros((4, 8, 8), np.uint8)
    write_idx(tmp_path / "train-images-idx3-ubyte", images)
    text = f'{TASK}train = "train-images-idx3-ubyte"'
    assert "looked for train-labels-idx1-ubyte beside it" in fails(tmp_path, text)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([0, 1, 3, 2], np.uint8))
    message = fails(tmp_path, text)
    assert "train-labels-idx1-ubyte: label 3 at index 2" in message
    write_idx(tmp_path / "train-labels-idx1-ubyte", images)
    assert "has shape [4, 8, 8]; labels are one class index per example" in fails(tmp_path, text)
    text = f'{TASK}train = {{images = "train-labels-idx1-ubyte", labels = "train-images-idx3-ubyte"}}'
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([0, 1, 1, 2], np.uint8))
    assert "holds labels, not images" in fails(tmp_path, text)
    write_idx(tmp_path / "train2-images-idx3-ubyte", images)
    assert "has 2 IDX files of images for train" in fails(tmp_path, f'{TASK}train = "."')


@pytest.mark.parametrize("size", [0, 3072, 3074, 6147])
def test_cifar_files_of_odd_sizes(tmp_path, size):
    (tmp_path / "a.bin").write_bytes(bytes(size))
    assert "whole number of 3073-byte records" in fails(tmp_path, f'{TASK}test = "a.bin"')


def test_cifar_labels_are_checked(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    model = flat_model((3, 32, 32), 10)
    assert "label 10 at index 0" in fails(tmp_path, f'{TASK}test = "."', model)
    assert "no CIFAR-10 file for train" in fails(tmp_path, f'{TASK}train = "."', model)


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (b"", b"", "whole number of 27,648-byte images"),
        (bytes(27647), b"\1", "whole number of 27,648-byte images"),
        (bytes(2 * 27648), b"\1", "train_y.bin holds 1 labels of one byte, but train_X.bin holds 2 images"),
        (bytes(27648), b"\1\1", "holds 2 labels of one byte, but train_X.bin holds 1 images"),
        (bytes(2 * 27648), b"\1\0", "label 0 at index 1; STL-10's are from 1 to 10"),
        (bytes(27648), b"\x0b", "label 11 at index 0; STL-10's are from 1 to 10"),
        (bytes(27648), None, "looked for train_y.bin beside it"),
    ],
)
def test_stl10_files_that_are_wrong(tmp_path, images, labels, says):
    (tmp_path / "train_X.bin").write_bytes(images)
    if labels is not None:
        (tmp_path / "train_y.bin").write_bytes(labels)
    model = flat_model((3, 96, 96), 10)
    assert says in fails(tmp_path, f'{TASK}train = "."', model)
    assert says in fails(tmp_path, f'{TASK}train = "train_X.bin"', model)


def test_stl10_sizes_are_held_against_the_limit_before_anything_is_read(tmp_path):
    with (tmp_path / "train_X.bin").open("wb") as file:
        file.truncate(200_000 * 27648)  # sparse: takes no room on disk
    with (tmp_path / "train_y.bin").open("wb") as file:
        file.truncate(200_000)
    with pytest.raises(TaskError, match="more than the limit"):
        read_stl10(tmp_path / "train_X.bin", tmp_path / "train_y.bin", 2**30)
    text = f'{TASK}validation = "."'
    assert "has 0 STL-10 files of images for validation" in fails(tmp_path, text, flat_model((3, 96, 96), 10))


def test_image_folders(tmp_path, monkeypatch):
    images = np.zeros((3, 8, 8), np.uint8)
    text = f'{TASK}train = "train"\ntest = "test"'
    (tmp_path / "train").mkdir()
    assert "holds no examples" in fails(tmp_path, text)
    write_image_folder(tmp_path / "train", images, [0, 1, 1], ["ant", "bee"])
    assert "has 2 class folders, but the model's output 'scores' has 3" in fails(tmp_path, text)
    write_image_folder(tmp_path / "train", images, [0, 1, 2], ["ant", "bee", "cat"])
    write_image_folder(tmp_path / "test", images, [0, 1, 1], ["ant", "dog"])
    assert "has a class 'dog' that is not among the classes ant, bee, cat" in fails(tmp_path, text)
    import builtins

    real = builtins.__import__

    def without_pillow(name, *rest):
        if name == "PIL":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    assert "pip install 'evonnx[images]'" in fails(tmp_path, text)


def test_a_broken_image_is_named_when_it_is_read(tmp_path):
    write_image_folder(tmp_path / "test", np.zeros((3, 8, 8), np.uint8), [0, 1, 2])
    (tmp_path / "test" / "1" / "001.png").write_bytes(b"\x89PNG nothing")
    (tmp_path / "task.toml").write_text(f'{TASK}test = "test"')
    task = load_task(tmp_path / "task.toml", load_network(save(tiny_classifier(), tmp_path / "m.onnx")))
    with pytest.raises(TaskError, match=r"001\.png cannot be read"):
        list(task.batches("test", 8))


def test_an_image_bomb_is_refused(tmp_path, monkeypatch):
    write_image_folder(tmp_path / "test", np.zeros((3, 8, 8), np.uint8), [0, 1, 2])
    (tmp_path / "task.toml").write_text(f'{TASK}test = "test"')
    task = load_task(tmp_path / "task.toml", load_network(save(tiny_classifier(), tmp_path / "m.onnx")))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(TaskError, match="cannot be read"):
        list(task.batches("test", 8))


def test_files_of_one_split_must_agree(tmp_path):
    np.savez(tmp_path / "a.npz", x=GOOD_X, y=GOOD_Y)
    np.savez(tmp_path / "b.npz", x=GOOD_X[:, :, :4], y=GOOD_Y)
    write_image_folder(tmp_path / "c", np.zeros((3, 8, 8), np.uint8), [0, 1, 2])
    assert "files of one split must agree" in fails(tmp_path, f'{TASK}test = ["a.npz", "b.npz"]')
    assert "can hold only files" in fails(tmp_path, f'{TASK}test = ["a.npz", "c"]')


def test_one_example_cannot_be_shared_out(tmp_path):
    np.savez(tmp_path / "a.npz", x=GOOD_X[:1], y=GOOD_Y[:1])
    assert "single example" in fails(tmp_path, f'{TASK}train = "a.npz"')


def _boxes():
    b = Builder(["N", 1, 8, 8])
    b.output(b.conv("x", 1, 4, 3), ["N", 4, 8, 8], "y")
    return b.model()


def _no_inputs():
    b = Builder(["N", 4])
    b.inputs.clear()
    b.output(b.matmul(b.constant(np.ones((2, 4), np.float32)), 4, 3), [2, 3], "y")
    return b.model()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (_boxes, "classification needs scores per class, [N, C]"),
        (lambda: flat_model((1, 8, 8), 1), "has shape [1, 1]"),
        (two_inputs, "has no array 'z'; it has x, y"),
        (_no_inputs, "has no inputs"),
    ],
)
def test_models_that_are_no_classifiers(tmp_path, build, says):
    np.savez(tmp_path / "test.npz", x=GOOD_X, y=GOOD_Y)
    assert says in fails(tmp_path, DATA, build())


def test_integer_inputs_take_no_scaling(tmp_path):
    b = Builder(["N", 1, 8, 8])
    b.inputs[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    b.output(b.gemm(b.node("Flatten", b.node("Cast", "x", to=1)), 64, 3), ["N", 3], "y")
    np.savez(tmp_path / "test.npz", x=GOOD_X, y=GOOD_Y)
    assert "scale is for floating-point inputs" in fails(tmp_path, f"{DATA}scale = 2", b.model())
    assert "holds float32 examples; 'x' takes uint8" in fails(tmp_path, DATA, b.model())


def test_distillation_files_for_several_inputs(tmp_path):
    text = '[task]\nkind = "distillation"\ntrain = "both.npz"'
    np.savez(tmp_path / "both.npz", x=np.zeros((4, 6)))
    assert "no array 'z'; it has x" in fails(tmp_path, text, two_inputs())
    np.savez(tmp_path / "both.npz", x=np.zeros((4, 6)), z=np.zeros((5, 4)))
    assert "differ in length" in fails(tmp_path, text, two_inputs())
    assert "train must be a file with columns (.npz, .csv)" in fails(
        tmp_path, text.replace('"both.npz"', "3"), two_inputs()
    )


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1", "my_task.py has no 'MyTask'"),
        ("class MyTasks: pass", "Did you mean 'MyTasks'?"),
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("def MyTask(", "SyntaxError"),
        ("import sys; sys.exit(2)", "SystemExit: 2"),
        ("MyTask = 3", "must name a class"),
        ("class MyTask: pass", "could not be constructed as MyTask(config, network)"),
        ("class MyTask:\n def __init__(self, config, network): config['data']", "KeyError: 'data'"),
        (
            "class MyTask:\n name = 3\n size = 1\n def __init__(self, config, network): pass",
            "name is not a str; metric is missing; loss is missing; describe is missing; size is not a "
            "method; "
            "batches is missing; score is missing",
        ),
    ],
)
def test_task_classes_that_are_none(tmp_path, code, says):
    (tmp_path / "my_task.py").write_text(code)
    assert says in fails(tmp_path, '[task]\nkind = "my_task.py:MyTask"')
