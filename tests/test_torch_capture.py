"""Captured training steps: on the CPU with a device that pretends to capture, on a GPU with one that does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import GRAPHS
from test_torch_training import distilled, random_masks
from torch_support import BUDGET, ArrayTask, digest, labelled, run, write

torch = pytest.importorskip("torch")

from evonnx.adapter import Progress, RetrainResult, check_result  # noqa: E402
from evonnx.errors import AdapterError  # noqa: E402
from evonnx.onnx_io import initializer_arrays, load_model  # noqa: E402
from evonnx.task import Batch  # noqa: E402
from evonnx_torch import retraining  # noqa: E402
from evonnx_torch.feeding import Chunk  # noqa: E402
from evonnx_torch.optim import Average, Optimizer  # noqa: E402
from evonnx_torch.stepping import CapturedStepper, Piece, Stepper  # noqa: E402


class FakeGraphs:
    """Captures as CUDA does, as far as a CPU can tell: work is run to warm up, kept, and done again on the
    same tensors. It refuses if told to, and if a tensor that was captured has moved."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses, self.captures, self.replays = refuses, 0, 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        for _ in range(3):
            work()
        if self.refuses:
            raise RuntimeError(self.refuses)
        self.captures += 1
        (stepper,) = (
            cell.cell_contents for cell in work.__closure__ if isinstance(cell.cell_contents, CapturedStepper)
        )
        captured = places(stepper)

        def replay() -> None:
            self.replays += 1
            assert places(stepper) == captured, "a graph would go on reading where tensors were"
            work()

        return replay


def places(stepper: CapturedStepper) -> list[int]:
    """Where everything lies that a step reads and writes."""
    average = [] if stepper.average is None else stepper.average.values
    tensors = [*stepper.optimizer.parameters, *stepper.optimizer.momenta().values(), *average]
    tensors += [*stepper._state.values(), *stepper._buffers, stepper._loss, stepper._factors]
    return [tensor.data_ptr() for tensor in tensors]


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeGraphs]:
    """Let the adapter believe that its device captures."""

    def install(refuses: str = "") -> FakeGraphs:
        fake = FakeGraphs(refuses)
        monkeypatch.setattr(retraining, "_is_captured", lambda *given: True)
        monkeypatch.setattr(retraining, "cuda_recorder", lambda device: fake)
        return fake

    return install


CASES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "plain": ("lenet", {}, {}),
    "norms and averaging": ("residual_bn", {"ema_decay": 0.9}, {}),
    "norms put back": ("residual_folded", {}, {"renormalize": "on"}),
    "dropout": ("activations", {}, {}),
    "adam": ("conv_bn", {"optimizer": "adam", "ema_decay": 0.5}, {}),
    "several outputs": ("two_outputs", {"clip_norm": 0.0}, {}),
    "moved images": ("lenet", {"augment": "shift:1"}, {}),
}


def retrained(case: str, path: Path) -> RetrainResult:
    """Three epochs of three batches of 32 and one of 4."""
    graph, settings, given = CASES[case]
    model = GRAPHS[graph]()
    write(model, path)
    budget = replace(BUDGET, epochs=3, **settings)
    task = distilled(labelled(model, count=100))
    return run(path, task, budget, masks=random_masks(path), ancestor=path, options=given)


def attempts(result: RetrainResult) -> int:
    """A retraining that did not help is tried twice."""
    return 2 if any("retried at a lower rate" in fault.action for fault in result.faults) else 1


@pytest.mark.parametrize("case", CASES)
def test_replayed_steps_are_the_launched_ones(
    case: str, tmp_path: Path, capturing: Callable[..., FakeGraphs]
) -> None:
    path = tmp_path / "m.onnx"
    plain = retrained(case, path)
    fake = capturing()
    captured = retrained(case, path)
    assert fake.captures == attempts(captured)
    assert fake.replays == 9 * fake.captures, "full batches; the smaller last ones are launched"
    refusing = capturing("operation not permitted when stream is capturing.\nmore")
    launched = retrained(case, path)
    assert refusing.replays == 0
    # Warming up and capturing changed nothing, and what is copied in is all that a step reads.
    assert digest(captured.weights) == digest(launched.weights)
    assert captured.history == launched.history
    assert captured.notes == plain.notes
    assert [note for note in launched.notes if note not in plain.notes] == [
        "steps could not be captured as a CUDA graph (operation not permitted when stream is capturing); "
        "they were launched operation by operation, with the same result"
    ]
    # Learning rates as tensors round differently.
    for name, array in plain.weights.items():
        np.testing.assert_allclose(captured.weights[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
    assert [one.loss for one in captured.history] == pytest.approx(
        [one.loss for one in plain.history], rel=1e-4
    )


def test_after_a_rollback_the_captured_step_goes_on(
    tmp_path: Path, capturing: Callable[..., FakeGraphs]
) -> None:
    model = GRAPHS["lenet"]()
    path = write(model, tmp_path / "m.onnx")
    hot = replace(
        BUDGET, epochs=2, learning_rate=300.0, clip_norm=0.0, warmup=0.0, schedule="constant", ema_decay=0.9
    )
    found = []
    for refuses in ("", "no"):
        fake = capturing(refuses)
        found.append(run(path, labelled(model, count=256, classes=5), hot))
        assert fake.captures == (0 if refuses else attempts(found[0]))
    assert any(fault.kind == "divergence" for fault in found[0].faults)
    assert digest(found[0].weights) == digest(found[1].weights)


def test_a_killed_retraining_captures_again_and_ends_alike(
    tmp_path: Path, capturing: Callable[..., FakeGraphs]
) -> None:
    model = GRAPHS["residual_bn"]()
    path, kept = write(model, tmp_path / "m.onnx"), tmp_path / "kept"
    task, budget = distilled(labelled(model, count=100)), replace(BUDGET, epochs=4, ema_decay=0.9)

    def dying(news: Progress) -> None:
        if news.epoch == 3:
            raise KeyboardInterrupt

    capturing()
    asked = {"masks": random_masks(path), "ancestor": path}
    alone = run(path, task, budget, **asked)
    assert attempts(alone) == 1
    with pytest.raises(KeyboardInterrupt):
        run(path, task, budget, checkpoint=kept, progress=dying, **asked)
    fake = capturing()
    assert digest(run(path, task, budget, checkpoint=kept, **asked).weights) == digest(alone.weights)
    assert (fake.captures, fake.replays) == (1, 6), "of epochs 3 and 4"


class Shrinking(ArrayTask):
    """Every batch is smaller than the one before."""

    def batches(self, split: str, batch_size: int, rng: Any = None) -> Iterator[Batch]:
        for batch in super().batches(split, batch_size, rng):
            for size in (32, 24, 16):
                inputs = {name: array[:size] for name, array in batch.inputs.items()}
                yield Batch(inputs, batch.targets[:size], size)


def test_steps_of_many_shapes_are_launched_and_that_is_said(
    tmp_path: Path, capturing: Callable[..., FakeGraphs]
) -> None:
    model = GRAPHS["lenet"]()
    base = labelled(model, classes=5)
    fake = capturing()
    result = run(write(model, tmp_path / "m.onnx"), Shrinking(base.inputs, base.targets), BUDGET)
    assert (fake.captures, fake.replays) == (1, 2)
    assert any(note.startswith("4 of 6 steps had other shapes") for note in result.notes)


def test_labels_are_checked_although_steps_are_replayed(
    tmp_path: Path, capturing: Callable[..., FakeGraphs]
) -> None:
    model = GRAPHS["lenet"]()
    task = labelled(model, count=96, classes=5)
    task.targets = np.where(np.arange(96) == 90, 7, task.targets)  # not among those looked at before training
    capturing()
    with pytest.raises(AdapterError, match=r"label is 7.*5 classes"):
        run(write(model, tmp_path / "m.onnx"), task)


def test_losses_are_kept_although_replays_write_over_them() -> None:
    """On a GPU they are read some steps later. A weight's name may be any, such as an average's number."""
    found, ends = [], []
    for captured in (False, True):
        weight = torch.zeros(3, requires_grad=True)

        def gradients(pieces: Sequence[Piece], weight: Any = weight) -> Any:
            loss = (pieces[0].chunk.inputs["x"] - weight).square().sum()
            loss.backward()
            return loss.detach()

        optimizer, average = Optimizer([weight], [None], [False], 0.0, "sgd", 0.0), Average([weight], 0.9)
        cpu, fake = torch.device("cpu"), FakeGraphs()
        stepper = (
            CapturedStepper(gradients, optimizer, average, fake, {"0": weight}, frozenset(), cpu)
            if captured
            else Stepper(gradients, optimizer, average)
        )
        data = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
        pieces = [[Piece(Chunk({}, {"x": torch.from_numpy(x)}, None, 1), None)] for x in data]
        found.append(torch.stack([stepper(piece, 0.01) for piece in pieces]))
        ends.append(average.values[0])
        assert fake.replays == (5 if captured else 0)
    assert len(found[0].unique()) == 5
    assert torch.allclose(*found)
    assert torch.allclose(*ends)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_rates_as_tensors_do_what_rates_as_numbers_do(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 3, generator=generator), torch.randn(5, generator=generator)]
    ends = []
    for as_tensors in (False, True):
        weights = [tensor.clone().requires_grad_() for tensor in start]
        optimizer = Optimizer(weights, [None, None], [True, False], 0.1, kind, clip=0.5)
        average = Average(weights, 0.9)
        for step in range(5):
            sum((w.square() * 3 - w).sum() for w in weights).backward()
            numbers, share = optimizer.factors(0.05 / (step + 1)), average.share()
            optimizer.update(torch.tensor(numbers).unbind() if as_tensors else numbers)
            average.take(torch.tensor(share) if as_tensors else share)
        ends.append([*weights, *average.values])
    for number, tensor, before in zip(*ends, start * 2, strict=True):
        assert torch.allclose(number, tensor, atol=1e-6)
        assert not torch.allclose(number, before, atol=1e-3)


def test_capturing_on_a_cpu_is_not_done_and_said(tmp_path: Path) -> None:
    model = GRAPHS["lenet"]()
    path = write(model, tmp_path / "m.onnx")
    asked = run(path, labelled(model, classes=5), options={"device": "cpu", "capture": "on"})
    assert any("CUDA" in note for note in asked.notes)
    left = run(path, labelled(model, classes=5), options={"device": "cpu"})
    assert not left.notes
    assert digest(asked.weights) == digest(left.weights)


def test_what_is_captured_is_a_fixed_rule() -> None:
    import onnx_ir as ir

    model = ir.from_proto(GRAPHS["lenet"]())
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert retraining._is_captured(model, 32, "auto", cuda)
    assert not retraining._is_captured(model, 10**9, "auto", cuda), "kernels last longer than launching them"
    assert retraining._is_captured(model, 10**9, "on", cuda)
    assert not retraining._is_captured(model, 32, "off", cuda)
    assert not retraining._is_captured(model, 32, "on", cpu)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_replays_what_it_would_launch(case: str, tmp_path: Path, torch_cuda: str) -> None:
    graph, settings, given = CASES[case]
    model = GRAPHS[graph]()
    path = write(model, tmp_path / "m.onnx")
    masks = random_masks(path)
    budget = replace(BUDGET, epochs=3, **settings)

    def ask(capture: str, **more: str) -> RetrainResult:
        options = {**given, **more, "device": torch_cuda, "capture": capture}
        task = distilled(labelled(model, count=100))
        return run(path, task, budget, masks=masks, ancestor=path, options=options)

    for precision in ("fp32", "amp"):
        launched, captured, again = (ask(how, precision=precision) for how in ("off", "on", "on"))
        assert not any("captured" in note for note in captured.notes), captured.notes
        assert digest(captured.weights) == digest(again.weights)
        check_result(initializer_arrays(load_model(path)), masks, captured, "torch")
        rel = 1e-3 if precision == "fp32" else 5e-2
        assert [one.loss for one in captured.history] == pytest.approx(
            [one.loss for one in launched.history], rel=rel
        )
