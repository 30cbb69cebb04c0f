"""Arrow data: folders as Hugging Face's `save_to_disk` writes them, Parquet files, and wrong ones."""

from __future__ import annotations

import builtins
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from task_support import write_task
from test_tasks import flat_model

from evonnx.errors import TaskError
from evonnx.network import load_network
from evonnx.tasks import load_task
from evonnx.testing import TaskContract
from evonnx.testing.models import example_images, save, tiny_classifier


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def table_of(count, seed):
    """Pictures as bytes with their paths, labels, lists of numbers, and text."""
    images, labels = example_images(count, seed)
    images = np.clip(images[:, 0] * 80 + 90, 0, 255).astype(np.uint8)
    pictures = pa.array(
        [{"bytes": png(image), "path": f"{index}.png"} for index, image in enumerate(images)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    lists = pa.array(images.tolist(), pa.list_(pa.list_(pa.uint8())))
    columns = {"image": pictures, "label": labels, "pixels": lists, "note": ["text"] * count}
    return pa.table({**columns, "half": labels / 2, "even": labels % 2 == 0})


def write_folder(folder, table, parts=2):
    """As `Dataset.save_to_disk` does: Arrow streams, and state.json that names them."""
    folder.mkdir(parents=True)
    names = [f"data-{part:05}-of-{parts:05}.arrow" for part in range(parts)]
    for part, name in enumerate(names):
        start, end = (table.num_rows * place // parts for place in (part, part + 1))
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            for batch in table.slice(start, end - start).to_batches(max_chunksize=7):
                stream.write_batch(batch)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def write_splits(folder):
    folder.mkdir()
    for seed, (split, count) in enumerate((("train", 40), ("valid", 15), ("test", 21))):
        write_folder(folder / split, table_of(count, seed))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "valid", "test"]}))


COLUMNS = 'label = "label"\n[task.inputs.{name}]\ncolumn = "{column}"\n'


def task_of(folder, text, column="image", kind="classification", model=None):
    path = save(model or tiny_classifier(), folder / "model.onnx")
    network = load_network(path)
    (name,) = network.input_shapes
    if kind != "classification":
        return load_task(write_task(folder, kind, text), network)
    text = f'[task]\nkind = "classification"\n{text}\n{COLUMNS.format(name=name, column=column)}'
    (folder / "model.toml").write_text(text)
    return load_task(folder / "model.toml", network)


class TestFolder(TaskContract):
    @pytest.fixture
    def model(self, tmp_path):
        return save(tiny_classifier(), tmp_path / "model.onnx")

    @pytest.fixture
    def task(self, model, tmp_path):
        write_splits(tmp_path / "data")
        return task_of(tmp_path, 'train = "data"\nvalidation = "data/valid"\ntest = "data"')


def answers(task, split="test"):
    (batch,) = task.batches(split, 1000)
    (inputs,) = batch.inputs.values()
    return inputs, batch.targets


@pytest.mark.parametrize("column", ["image", "pixels"])
@pytest.mark.parametrize("stored", ["folder", "splits", "parquet", "parts", "file"])
def test_every_way_holds_the_same(tmp_path, stored, column):
    table = table_of(21, 2)
    if stored == "folder":
        write_folder(tmp_path / "data", table, parts=3)
        text = 'test = "data"'
    elif stored == "splits":
        write_splits(tmp_path / "data")
        text = 'test = "data"'
    elif stored == "file":
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
            out.write_table(table, max_chunksize=5)
        text = 'test = "a.arrow"'
    else:
        pq.write_table(table.slice(0, 10), tmp_path / "a.parquet", row_group_size=4)
        pq.write_table(table.slice(10), tmp_path / "b.parquet")
        pq.write_table(table, tmp_path / "all.parquet", row_group_size=6)
        text = 'test = "all.parquet"'
        if stored == "parts" and column == "pixels":
            text = 'test = ["a.parquet", "b.parquet"]'
    images, labels = example_images(21, 2)
    found, wanted = answers(task_of(tmp_path, text, column))
    np.testing.assert_allclose(found[:, 0], np.clip(images[:, 0] * 80 + 90, 0, 255).astype(np.uint8) / 255)
    np.testing.assert_array_equal(wanted, labels)


def test_numbers_are_targets_too(tmp_path):
    pq.write_table(table_of(9, 0), tmp_path / "a.parquet")
    text = 'test = {file = "a.parquet", x = ["half", "even"], y = "half"}'
    task = task_of(tmp_path, text, kind="regression", model=flat_model((2,), 1))
    (batch,) = task.batches("test", 10)
    _, labels = example_images(9, 0)
    np.testing.assert_allclose(batch.inputs["x"], np.stack([labels / 2, labels % 2 == 0], axis=1))
    np.testing.assert_allclose(batch.targets["y"].values[:, 0], labels / 2)


def spoil_state(folder, **changes):
    path = folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def outside(folder):
    (folder.parent / "secret.arrow").write_bytes((folder / "data-00000-of-00002.arrow").read_bytes())
    spoil_state(folder, _data_files=[{"filename": "../secret.arrow"}])


def linked(folder):
    target = folder / "data-00000-of-00002.arrow"
    target.rename(folder.parent / "elsewhere.arrow")
    target.symlink_to(folder.parent / "elsewhere.arrow")


def cut(folder):
    path = folder / "data-00001-of-00002.arrow"
    path.write_bytes(path.read_bytes()[:-700])


def flipped(folder):
    path = folder / "data-00000-of-00002.arrow"
    path.write_bytes(b"\0" * 40 + path.read_bytes()[40:])


def missing(folder):
    (folder / "data-00001-of-00002.arrow").unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (outside, "names '../secret.arrow' as its own, which leads out of it"),
        (linked, "data-00000-of-00002.arrow is a link"),
        (missing, "data-00001-of-00002.arrow is missing"),
        (cut, "data-00001-of-00002.arrow cannot be read"),
        (flipped, "data-00000-of-00002.arrow cannot be read"),
        (lambda folder: (folder / "state.json").write_text("["), "state.json cannot be read"),
        (lambda folder: (folder / "state.json").write_text("[]"), "holds no JSON object"),
        (lambda folder: spoil_state(folder, _data_files=7), "names no data files"),
        (lambda folder: spoil_state(folder, _data_files=[3, {}]), "names no data files"),
    ],
)
def test_folders_that_strangers_spoilt(tmp_path, spoil, says):
    write_folder(tmp_path / "data", table_of(20, 0))
    spoil(tmp_path / "data")
    with pytest.raises(TaskError) as caught:
        task_of(tmp_path, 'test = "data"')
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("x", [[1.0], [1.0, 2.0]], "its lists are 1 to 2 long; examples need one shape"),
        ("x", [1.0, None], "1 values are missing"),
        ("x", ["a", "b"], "holds string; numbers, lists of them, or pictures can be read"),
        ("x", [[[1.0]], None], "1 values are missing"),
        ("x", [b"no picture", b"no picture"], "The image in row 0 of"),
        ("x", [None, b""], "The file in row 0 of"),
        ("z", [1, 2], "has no column 'x'; it has z, label"),
    ],
)
def test_columns_that_cannot_be_read(tmp_path, column, values, says):
    pq.write_table(pa.table({column: values, "label": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(TaskError) as caught:
        answers(task_of(tmp_path, 'test = "a.parquet"', "x"))
    assert says in str(caught.value)


def test_more_than_the_limit_is_not_read(tmp_path):
    """A few bytes of Parquet can promise any number of rows."""
    pq.write_table(pa.table({"x": np.zeros(10**6), "label": np.zeros(10**6)}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 20_000
    with pytest.raises(TaskError, match="memory_gib"):
        task_of(tmp_path, 'test = "a.parquet"\nmemory_gib = 0.001', "x", model=flat_model((1,)))


def test_a_split_that_is_not_there(tmp_path):
    write_folder(tmp_path / "data" / "all", table_of(9, 0))
    (tmp_path / "data" / "dataset_dict.json").write_text(json.dumps({"splits": ["all"]}))
    with pytest.raises(
        TaskError, match=r'has the splits all, none of which is called test; .*test = "data/all"'
    ):
        task_of(tmp_path, 'test = "data"')
    assert task_of(tmp_path, 'test = "data/all"').size("test") == 9


def test_without_pyarrow_one_error_says_what_to_install(tmp_path, monkeypatch):
    pq.write_table(table_of(5, 0), tmp_path / "a.parquet")
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TaskError, match=r"pip install 'evonnx\[datasets\]'"):
        task_of(tmp_path, 'test = "a.parquet"')
