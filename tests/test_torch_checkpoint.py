"""Progress within an epoch: a retraining that dies after every step ends like one left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import GRAPHS
from torch_support import BUDGET, ArrayTask, digest, labelled, run, write

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402

from evonnx.adapter import EpochRecord, Progress, RetrainResult  # noqa: E402
from evonnx.errors import AdapterError  # noqa: E402
from evonnx.faults import Fault  # noqa: E402
from evonnx.task import Loss  # noqa: E402
from evonnx_torch.checkpoint import Checkpoint  # noqa: E402
from evonnx_training.checkpoint import Place, Within, before  # noqa: E402

HOT = {"epochs": 2, "learning_rate": 300.0, "clip_norm": 0.0, "warmup": 0.0, "schedule": "constant"}
HARMFUL = {"epochs": 2, "learning_rate": 1.0, "schedule": "constant", "weight_decay": 0.9}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], bool]] = {
    # name: graph, budget, task, whether the ancestor teaches
    "moving images": ("residual_bn", {"epochs": 2, "augment": "flip-shift:2", "ema_decay": 0.9}, {}, True),
    "dropout and adam": ("activations", {"epochs": 2, "optimizer": "adam"}, {}, True),
    "normalisation put back": ("residual_folded", {"epochs": 2}, {}, True),
    "rollbacks": ("lenet", HOT | {"ema_decay": 0.9}, {"count": 192, "classes": 5}, False),
    "a second attempt": ("residual_folded", HARMFUL, {}, True),
}


class Lives:
    """Retrains again and again; each process dies in the second step that it takes itself."""

    def __init__(self, ask: Callable[..., RetrainResult], kept: Path) -> None:
        self.ask, self.kept = ask, kept
        self.died_at: list[tuple[int, int]] = []

    def __call__(self) -> RetrainResult:
        while len(self.died_at) < 300:
            left = 2 + steps_of(self.kept)

            def hears(news: Progress) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    self.died_at.append((news.epoch, news.step))
                    raise KeyboardInterrupt

            try:
                return self.ask(progress=hears)
            except KeyboardInterrupt:
                continue
        raise AssertionError("it never ends")


def steps_of(kept: Path) -> int:
    """Steps of an epoch that are done and will be told of again, as a sign of life."""
    if not kept.exists():
        return 0
    with safe_open(kept, "numpy") as file:
        within = json.loads(file.metadata()["place"])["within"]
    return 0 if within is None else int(within["steps"])


@pytest.mark.parametrize("case", CASES)
def test_dying_in_every_step_changes_no_bit(case: str, tmp_path: Path) -> None:
    graph, settings, data, taught = CASES[case]
    model = GRAPHS[graph]()
    path, kept = write(model, tmp_path / "m.onnx"), tmp_path / "kept"
    task = labelled(model, **({"count": 96} | data))
    if case in ("dropout and adam", "a second attempt"):
        task = ArrayTask(task.inputs, None, Loss("distillation"))
    options = {"checkpoint": "0", "renormalize": "on" if case == "normalisation put back" else "auto"}

    def ask(**more: Any) -> RetrainResult:
        ancestor = path if taught else None
        return run(path, task, replace(BUDGET, **settings), options=options, ancestor=ancestor, **more)

    alone = ask()
    lives = Lives(lambda **more: ask(checkpoint=kept, **more), kept)
    again = lives()
    assert digest(again.weights) == digest(alone.weights)
    assert list(again.history) == list(alone.history)
    assert (list(again.notes), list(again.faults)) == (list(alone.notes), list(alone.faults))
    steps = -(-task.count // 32)
    assert len({at for at in lives.died_at if at[1] < steps}) >= steps, "some died within an epoch"
    if case == "rollbacks":
        assert any(fault.kind == "divergence" for fault in alone.faults)
    if case == "a second attempt":
        assert any("retried at a lower rate" in fault.action for fault in alone.faults)
        assert len(lives.died_at) <= 2 * 2 * (steps + 1), "no attempt is made twice"


FAULT = Fault("retraining", "divergence", "In epoch 1 the loss is not finite.", "undone")


def a_place(within: Within | None) -> Place:
    return Place(0, 1, 0, 1.0, (4, 0), (EpochRecord(1, 0.1, 0.2),), ("note",), (FAULT,), within)


def test_time_says_when_progress_is_kept(tmp_path: Path) -> None:
    now = [100.0]
    kept = Checkpoint(tmp_path / "kept", "key", seconds=30, clock=lambda: now[0])
    assert not kept.is_due()
    now[0] = 129.0
    assert not kept.is_due()
    now[0] = 130.0
    assert kept.is_due()
    kept.save(a_place(None), {})
    assert not kept.is_due()
    now[0] = 161.0
    assert kept.is_due()
    assert not Checkpoint(None, clock=lambda: now[0]).is_due()


def test_a_place_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    tensors = {"state/w": torch.ones(3), "momenta/0": torch.zeros(3), "random/cpu": torch.get_rng_state()}
    kept = Checkpoint(tmp_path / "kept", "key")
    place = a_place(Within(7, 0.1 + 0.2, 1 / 3, 2))
    kept.save(place, tensors | before({"state/w": torch.full((3,), 2.0)}))
    found = kept.load(tensors)
    assert found is not None
    assert found[0] == place
    assert found[1]["before/state/w"].tolist() == [2, 2, 2]
    assert Checkpoint(tmp_path / "kept", "other").load(tensors) is None
    # What a rollback would put back is missing.
    kept.save(place, tensors)
    assert kept.load(tensors) is None
    kept.save(a_place(None), tensors)
    assert kept.load(tensors) is not None


def test_nothing_that_grows_with_the_data_is_kept(tmp_path: Path) -> None:
    model = GRAPHS["lenet"]()
    path = write(model, tmp_path / "m.onnx")
    sizes = []
    for count in (64, 640):
        kept = tmp_path / str(count)
        task = labelled(model, count=count, classes=5)

        def dies(news: Progress) -> None:
            if news.step == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(path, task, BUDGET, checkpoint=kept, options={"checkpoint": "0"}, progress=dies)
        with safe_open(kept, "numpy") as file:
            assert json.loads(file.metadata()["place"])["within"]["steps"] == 1
        sizes.append(kept.stat().st_size)
    assert np.ptp(sizes) < 100


@pytest.mark.parametrize("seconds", ["soon", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, seconds: str) -> None:
    model = GRAPHS["lenet"]()
    with pytest.raises(AdapterError, match="number of seconds"):
        run(
            write(model, tmp_path / "m.onnx"),
            labelled(model, classes=5),
            BUDGET,
            options={"checkpoint": seconds},
        )
