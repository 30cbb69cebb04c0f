"""The teacher's outputs: kept per view of each example, the same bits whatever came before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_builder import Builder
from graphs import GRAPHS
from hypothesis import given
from hypothesis import strategies as st
from torch_support import ArrayTask, deep_residual, digest, labelled, module_of, run, write

torch = pytest.importorskip("torch")

from evonnx.adapter import TrainingBudget  # noqa: E402
from evonnx.task import Batch  # noqa: E402
from evonnx_torch import TorchAdapter, teacher  # noqa: E402
from evonnx_torch.feeding import Chunk, chunks  # noqa: E402
from evonnx_torch.teacher import Teacher  # noqa: E402
from evonnx_training.augmentation import Augmentation, read_augmentation  # noqa: E402
from evonnx_training.heads import find_head  # noqa: E402

SHIFT = read_augmentation("shift:1")


def teacher_of(model: onnx.ModelProto) -> Teacher:
    module = module_of(model)
    module.use_channels_last()
    return Teacher(module, tuple(find_head(module.graph, name) for name in module.graph.outputs))


def remembering(model: onnx.ModelProto, task: ArrayTask, augmentation: Augmentation) -> Teacher:
    """A teacher that keeps outputs."""
    found = teacher_of(model)
    if not found.remember(task, augmentation):
        pytest.skip("on this machine outputs depend on the place in a batch, so none are kept")
    return found


def drawn(taught: Teacher, task: ArrayTask, augmentation: Augmentation, seed: int, size: int) -> list[Chunk]:
    """One epoch of chunks as training makes them."""
    rng = np.random.default_rng(seed)
    found = []
    for batch in task.batches("train", size, rng):
        seen, views = augmentation(batch, rng)
        found += chunks(taught.module, seen, None, batch, views)
    return found


@pytest.mark.parametrize("name", ["none", "shift:1", "flip-shift:2", "flip-shift:2/3"])
def test_what_is_kept_is_what_would_be_computed(name: str) -> None:
    model, augmentation = deep_residual(), read_augmentation(name)
    task = labelled(model, count=70)
    warm = remembering(model, task, augmentation)
    for seed in range(3):
        for chunk in drawn(warm, task, augmentation, seed, 32):
            warm(chunk)
    plain = teacher_of(model)
    for size in (32, 17):
        cold = remembering(model, task, augmentation)
        for chunk in drawn(warm, task, augmentation, 9, size)[::-1]:
            kept, fresh, direct = warm(chunk), cold(chunk), plain(chunk)
            for one, two, three in zip(kept, fresh, direct, strict=True):
                assert torch.equal(one, two)
                assert torch.allclose(one, three, rtol=1e-4, atol=1e-5)
                assert not one.is_inference()


def test_a_view_that_came_before_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = deep_residual()
    task = labelled(model, count=40)
    taught = remembering(model, task, SHIFT)
    parts = drawn(taught, task, SHIFT, 0, 40)
    want = taught(parts[0])
    monkeypatch.setattr(taught.module, "forward", lambda *_: pytest.fail("it was computed again"))
    assert all(torch.equal(one, two) for one, two in zip(taught(parts[0]), want, strict=True))


def test_an_example_as_given_is_the_view_that_was_not_moved() -> None:
    model = deep_residual()
    task = labelled(model, count=40)
    taught, plain = remembering(model, task, SHIFT), teacher_of(model)
    for seed in range(12):
        for chunk in drawn(taught, task, SHIFT, seed, 40):
            taught(chunk)
    (chunk,) = chunks(taught.module, next(iter(task.batches("train", 40))), None)
    for one, two in zip(taught(chunk), plain(chunk), strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-5)


def test_examples_that_were_not_promised_are_computed() -> None:
    model = deep_residual()
    few, others, plain = labelled(model, count=8), labelled(model, count=30, seed=1), teacher_of(model)
    for augmentation in (Augmentation(), SHIFT):
        taught = remembering(model, few, augmentation)
        for chunk in drawn(taught, others, augmentation, 0, 30):
            for one, two in zip(taught(chunk), plain(chunk), strict=True):
                assert torch.allclose(one, two, rtol=1e-4, atol=1e-5)


def test_nothing_is_kept_where_examples_look_at_one_another() -> None:
    b = Builder(["n", 1, 6, 6])
    flat = b.node("Flatten", "x")
    b.output(b.gemm(b.node("Sub", flat, b.node("ReduceMean", flat, axes=[0])), 36, 4), ["n", 4], "y")
    model = b.model()
    task = labelled(model, count=64)
    taught = teacher_of(model)
    assert not taught.remember(task, SHIFT)
    (chunk,) = drawn(taught, task, SHIFT, 0, 64)
    want = taught.module(chunk.inputs)["y"]
    assert torch.equal(taught(chunk)[0], want.detach())


def test_nothing_is_kept_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = deep_residual()
    task = labelled(model, count=40)
    monkeypatch.setattr(teacher, "CACHE_BYTES", 40 * 9 * 10 * 4)
    remembering(model, task, SHIFT)
    monkeypatch.setattr(teacher, "CACHE_BYTES", 40 * 9 * 10 * 4 - 1)
    assert not teacher_of(model).remember(task, SHIFT)


@given(st.data())
def test_examples_are_told_apart_by_any_bit(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 21))
    array = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, (4, width), np.uint8)
    other = array.copy()
    row, column = data.draw(st.integers(0, 3)), data.draw(st.integers(0, width - 1))
    other[row, column] ^= 1 << data.draw(st.integers(0, 7))
    before, after = teacher._keys({"x": array}, 4), teacher._keys({"x": other}, 4)
    assert before is not None
    assert after is not None
    assert [one == two for one, two in zip(before, after, strict=True)] == [i != row for i in range(4)]
    assert teacher._keys({"x": array[::-1]}, 4) == before[::-1]
    assert teacher._keys({"x": array, "scale": np.float32(2)}, 4) is None


def test_a_resumed_run_with_augmentation_gives_the_same_bytes(tmp_path: Path) -> None:
    """A second generation with the teacher of the first, and with a new one."""
    model = deep_residual()
    path = write(model, tmp_path / "m.onnx")
    task = labelled(model, count=100)
    budget = TrainingBudget(epochs=2, batch_size=32, threads=1, augment="shift:1")
    adapter = TorchAdapter()
    first = digest(run(path, task, budget, ancestor=path, seed=3, adapter=adapter).weights)
    second = digest(run(path, task, budget, ancestor=path, seed=4, adapter=adapter).weights)
    assert first != second
    assert digest(run(path, task, budget, ancestor=path, seed=4).weights) == second


def test_unaugmented_inputs_of_other_ranks_are_kept_too() -> None:
    model = GRAPHS["matmul_mlp"]()
    task = labelled(model, count=30, classes=3)
    taught = teacher_of(model)
    assert taught.remember(task, SHIFT)
    batch = next(iter(task.batches("train", 30)))
    assert SHIFT(batch, np.random.default_rng(0)) == (batch, None)
    assert isinstance(batch, Batch)
