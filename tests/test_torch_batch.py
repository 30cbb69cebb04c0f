"""Graphs written for one batch size, run with others: what the torch adapter makes follow the batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graph_builder import Builder
from torch_support import feed_for, module_of, reference

torch = pytest.importorskip("torch")

from evonnx.errors import AdapterError  # noqa: E402
from evonnx.task import Batch  # noqa: E402
from evonnx_torch.feeding import accepted_chunk  # noqa: E402


def windows(b: Builder, batch: int) -> str:
    """Windows of 2 x 2 pixels as examples of their own, with a mask per window, and back."""
    y = b.node("Reshape", "x", b.ints(batch, 3, 2, 2, 2, 2))
    y = b.node("Transpose", y, perm=[0, 2, 4, 3, 5, 1])
    y = b.node("Reshape", y, b.ints(4 * batch, 4, 3))
    mask = b.values(1, 4, 4, 3).repeat(batch, 0).reshape(-1, 4, 3)
    y = b.matmul(b.node("Add", y, b.constant(mask)), 3, 5)
    return b.node("Reshape", y, b.ints(batch, 4, -1))


def class_token(b: Builder, batch: int) -> str:
    """A token expanded to the declared batch, before the others."""
    y = b.node("Transpose", b.node("Reshape", "x", b.ints(0, 3, -1)), perm=[0, 2, 1])
    token = b.node("Expand", b.constant(b.values(1, 1, 3)), b.ints(batch, 1, 3))
    return b.matmul(b.node("Concat", token, y, axis=1), 3, 5)


def shared_keys(b: Builder, batch: int) -> str:
    """One key head for two query heads."""
    y = b.node("Unsqueeze", b.node("Reshape", "x", b.ints(batch, 3, 16)), b.ints(2))
    y = b.node("Expand", y, b.ints(batch, 3, 2, 16))
    return b.matmul(b.node("Reshape", y, b.ints(batch, 6, 16)), 16, 5)


def recurrent(b: Builder, batch: int) -> str:
    """Columns as a sequence of as many steps as there are examples, with initial states of the declared
    batch."""
    y = b.node("Transpose", b.node("Reshape", "x", b.ints(batch, 12, 4)), perm=[2, 0, 1])
    w, r = (b.constant(b.values(1, 20, n)) for n in (12, 5))
    start = b.constant(np.zeros((1, batch, 5), np.float32))
    y = b.node("LSTM", y, w, r, "", "", start, start, hidden_size=5)
    y = b.node("Reshape", b.node("Transpose", y, perm=[0, 2, 1, 3]), b.ints(4, batch, 5))
    return b.node("Transpose", y, perm=[1, 0, 2])


def mixed(b: Builder, batch: int) -> str:
    """Examples attend to one another: no batch size but the declared one gives the same."""
    y = b.node("Reshape", "x", b.ints(batch, 48))
    scores = b.node("MatMul", y, b.node("Transpose", y, perm=[1, 0]))
    scores = b.node("Softmax", b.node("Tanh", scores), axis=-1)
    return b.matmul(b.node("MatMul", scores, y), 48, 5)


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("make", [windows, class_token, shared_keys, recurrent, mixed])
def test_a_declared_batch_is_left_where_examples_stay_apart(
    make: Callable[[Builder, int], str], batch: int
) -> None:
    b = Builder([batch, 3, 4, 4])
    y = make(b, batch)
    b.output(y, [None] * (2 if make is mixed else 3), "y")
    model = b.model()
    module = module_of(model)
    rng = np.random.default_rng(1)
    parts = [feed_for(model, rng)["x"] for _ in range(4)]
    whole = np.concatenate(parts)
    free = make is not mixed
    chunk = accepted_chunk(module, Batch({"x": whole}, None, len(whole)), ("y",))
    assert chunk == (None if free else batch)
    module.eval()
    for count in (1, 3, 4) if free else (1,):
        want = np.concatenate([reference(model, {"x": part})["y"] for part in parts[:count]])
        with torch.no_grad():
            got = module(module.tensors({"x": whole[: count * batch]}))["y"].numpy()
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_constant_of_the_wrong_batch_is_refused() -> None:
    b = Builder([2, 3, 4, 4])
    b.output(
        b.node("Add", b.node("Relu", b.conv("x", 3, 4)), b.constant(b.values(2, 4, 4, 4))), [None] * 4, "y"
    )
    module = module_of(b.model())
    with pytest.raises(AdapterError, match="Add"):
        module({"x": torch.zeros(6, 3, 4, 4)})
