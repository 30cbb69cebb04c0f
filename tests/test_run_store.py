"""A run directory: whole or not at all."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from evonnx.durable import is_storage_failure, sync_folder
from evonnx.errors import RunError
from evonnx.run_store import (
    LINEAGE_FILE,
    MASKS_FILE,
    METRICS_FILE,
    RunStore,
    load_tensors,
    read_json,
    save_lineage,
    save_masks,
    write_json,
)


def commit(store: RunStore, number: int) -> None:
    with store.new_generation(number) as folder:
        write_json(folder / METRICS_FILE, {"generation": number})


def test_rows_are_the_complete_generations_in_order(tmp_path):
    store = RunStore.create(tmp_path / "run", {"generations": []})
    for number in (1, 2, 3):
        commit(store, number)
    assert [row["generation"] for row in store.rows()] == [1, 2, 3]
    assert sorted(path.name for path in store.folder.iterdir()) == ["gen-01", "gen-02", "gen-03", "run.json"]


def test_a_generation_that_fails_leaves_nothing(tmp_path):
    store = RunStore.create(tmp_path / "run", {})

    def fail() -> None:
        with store.new_generation(1) as folder:
            (folder / "masked.onnx").write_bytes(b"half")
            raise RunError("no")

    with pytest.raises(RunError, match="no"):
        fail()
    assert [path.name for path in store.folder.iterdir()] == ["run.json"]
    store.abandon_if_empty()
    assert not store.folder.exists()


def test_abandoning_keeps_complete_generations_and_strangers_files(tmp_path):
    store = RunStore.create(tmp_path / "run", {})
    commit(store, 1)
    store.abandon_if_empty()
    assert store.rows()
    other = RunStore.create(tmp_path / "other", {})
    (other.folder / "mine.txt").write_text("kept")
    other.abandon_if_empty()
    assert (other.folder / "mine.txt").read_text() == "kept"


def test_resuming_clears_what_a_killed_process_left(tmp_path):
    store = RunStore.create(tmp_path / "run", {})
    commit(store, 1)
    (store.workspace("gen-02") / "masked.onnx").write_bytes(b"half")
    (store.folder / ".partial-123-run.json").write_bytes(b"half")
    again = RunStore.resume(tmp_path / "run")
    assert sorted(path.name for path in again.folder.iterdir()) == ["gen-01", "run.json"]
    assert [row["generation"] for row in again.rows()] == [1]


def test_a_new_run_never_touches_an_old_folder(tmp_path):
    RunStore.create(tmp_path / "run", {})
    with pytest.raises(RunError, match="--resume"):
        RunStore.create(tmp_path / "run", {})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="not an empty folder"):
        RunStore.create(tmp_path / "full", {})
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"{", "cannot be read"),
        (b"[]", "no JSON object"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=message):
        RunStore.resume(tmp_path)


def test_tensors_come_back_as_saved(tmp_path):
    masks = {"b": np.array([[True, False]]), "a": np.array([False])}
    lineage = {("a", 0): np.array([0, 2, 5])}
    save_masks(tmp_path / MASKS_FILE, masks)
    save_lineage(tmp_path / LINEAGE_FILE, lineage)
    read = load_tensors(tmp_path / MASKS_FILE)
    assert set(read) == {"a", "b"}
    assert all(np.array_equal(read[name], masks[name]) and read[name].dtype == bool for name in masks)
    assert np.array_equal(load_tensors(tmp_path / LINEAGE_FILE)["a:0"], [0, 2, 5])


def test_equal_masks_are_equal_bytes(tmp_path):
    masks = {name: np.arange(6).reshape(2, 3) % 2 == 0 for name in ("x", "a", "m")}
    save_masks(tmp_path / "one", masks)
    save_masks(tmp_path / "two", dict(reversed(masks.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_damaged_tensors_are_named(tmp_path):
    (tmp_path / "masks.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(RunError, match=r"masks\.safetensors"):
        load_tensors(tmp_path / "masks.safetensors")


def test_nan_never_reaches_a_document(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "run.json", {"score": float("nan")})
    assert not list(tmp_path.iterdir())
    write_json(tmp_path / "run.json", {"score": 1.0})
    assert read_json(tmp_path / "run.json") == {"score": 1.0}


def test_the_best_model_is_a_copy_with_the_file_of_its_weights(tmp_path):
    store = RunStore.create(tmp_path / "run", {})
    commit(store, 1)
    source = store.generation_folder(1) / "compact.onnx"
    source.write_bytes(b"model")
    source.with_name("compact.onnx.data").write_bytes(b"weights")
    source.with_name("masked.onnx.data").write_bytes(b"another's")
    store.keep_as_best(source)
    assert (store.folder / "best.onnx").read_bytes() == source.read_bytes() == b"model"
    assert (store.folder / "compact.onnx.data").read_bytes() == b"weights"
    assert {path.name for path in store.folder.iterdir()} == {
        *("run.json", "gen-01", "best.onnx", "compact.onnx.data")
    }


def test_what_cannot_be_put_in_place_is_told_and_leaves_what_was_there(tmp_path, monkeypatch):
    store = RunStore.create(tmp_path / "run", {})
    (store.folder / "best.onnx").write_bytes(b"old")
    (tmp_path / "new.onnx").write_bytes(b"new")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left") as told:
        store.keep_as_best(tmp_path / "new.onnx")
    assert is_storage_failure(told.value)
    assert (store.folder / "best.onnx").read_bytes() == b"old"
    assert {path.name for path in store.folder.iterdir()} == {"run.json", "best.onnx"}


@pytest.mark.parametrize(
    ("number", "raised"), [(errno.EIO, True), (errno.EINVAL, False), (errno.ENOTSUP, False)]
)
def test_a_folder_that_cannot_be_flushed_is_an_error_only_where_it_could_be(
    tmp_path, monkeypatch, number, raised
):
    def fails(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    if raised:
        with pytest.raises(OSError, match="error"):
            sync_folder(tmp_path)
    else:
        sync_folder(tmp_path)
