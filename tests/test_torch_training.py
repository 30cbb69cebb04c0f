"""Retraining with the torch adapter: losses, masks, norms, rollback, determinism."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import GRAPHS
from torch_support import (
    BUDGET,
    ArrayTask,
    deep_residual,
    digest,
    feed_for,
    fold_norms,
    labelled,
    module_of,
    run,
    with_arrays,
    write,
)

torch = pytest.importorskip("torch")

from evonnx.adapter import (  # noqa: E402
    Progress,
    RetrainResult,
    TrainingBudget,
    check_result,
)
from evonnx.errors import AdapterError, AdapterMemoryError  # noqa: E402
from evonnx.masks import Masks  # noqa: E402
from evonnx.onnx_io import initializer_arrays, load_model  # noqa: E402
from evonnx.task import Batch, Loss  # noqa: E402
from evonnx_torch import TorchAdapter  # noqa: E402
from evonnx_torch.training import Trainer  # noqa: E402


def random_masks(model: Path, share: float = 0.7, seed: int = 0) -> Masks:
    rng = np.random.default_rng(seed)
    arrays = initializer_arrays(load_model(model))
    names = module_of(onnx.load(model)).roles.decayed
    return {name: rng.random(arrays[name].shape) < share for name in arrays if name in names}


def distilled(task: ArrayTask) -> ArrayTask:
    return ArrayTask(task.inputs, None, Loss("distillation"))


# --- whole retrainings


CLASSIFIERS = {
    "lenet": 5, "conv_bn": 4, "residual_bn": 4, "residual_folded": 4, "concat_fire": 4, "conv1d": 4,
    "conv3d": 3, "matmul_mlp": 3, "constant_nodes": 5, "relayouts": 3, "fp16": 5, "double": 3,
    "cntk_style": 5, "depthwise": 5, "initializers_as_inputs": 5,
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_learn_and_keep_the_contract(name: str, tmp_path: Path) -> None:
    model = GRAPHS[name]()
    path = write(model, tmp_path / "m.onnx")
    task, masks = labelled(model, classes=CLASSIFIERS[name]), random_masks(path)
    result = run(path, task, replace(BUDGET, epochs=4, learning_rate=0.05), masks=masks)
    check_result(initializer_arrays(load_model(path)), masks, result, "torch")
    assert result.history[-1].loss < result.history[0].loss
    assert not any("inherited" in note for note in result.notes)


@pytest.mark.parametrize(
    "name", ["two_outputs", "conv_transpose", "siamese", "shared_weights", "grouped", "lstm", "fp16_cast"]
)
def test_networks_of_other_kinds_learn_from_their_ancestor(name: str, tmp_path: Path) -> None:
    model = GRAPHS[name]()
    ancestor, path = write(model, tmp_path / "a.onnx"), tmp_path / "m.onnx"
    masks = random_masks(ancestor, 0.8)
    arrays = {n: np.where(mask, initializer_arrays(load_model(ancestor))[n], 0) for n, mask in masks.items()}
    write(with_arrays(model, arrays), path)
    rng = np.random.default_rng(0)
    feed = [feed_for(model, rng) for _ in range(24)]
    task = ArrayTask(
        {n: np.concatenate([one[n] for one in feed]) for n in feed[0]}, None, Loss("distillation")
    )
    result = run(path, task, replace(BUDGET, batch_size=8), masks=masks, ancestor=ancestor)
    check_result(initializer_arrays(load_model(path)), masks, result, "torch")
    assert digest({**arrays, **result.weights}) != digest(arrays)


def test_no_epochs_return_the_stored_bits(tmp_path: Path) -> None:
    model = GRAPHS["fp16"]()
    path = write(model, tmp_path / "m.onnx")
    arrays = initializer_arrays(load_model(path))
    result = run(path, labelled(model), TrainingBudget(epochs=0))
    assert result.weights
    for name, array in result.weights.items():
        np.testing.assert_array_equal(array.view(np.uint8), arrays[name].view(np.uint8))


def test_frozen_constants_and_unread_heads_stay_as_they_are(tmp_path: Path) -> None:
    model = GRAPHS["two_outputs"]()
    path = write(model, tmp_path / "m.onnx")
    arrays = initializer_arrays(load_model(path))
    task = labelled(model, classes=3)
    task.loss = Loss("cross_entropy", output="label")
    result = run(path, task)
    untouched = {name for name in result.weights if np.array_equal(result.weights[name], arrays[name])}
    # The other outputs hang on conv2 and conv3, which this loss does not reach: not even decay touches them.
    assert untouched == {"conv2.weight", "conv2.bias", "conv3.weight", "conv3.bias"}


def test_progress_and_history(tmp_path: Path) -> None:
    model = GRAPHS["lenet"]()
    news: list[Progress] = []
    task = labelled(model, classes=5)
    result = run(write(model, tmp_path / "m.onnx"), task, replace(BUDGET, epochs=2), progress=news.append)
    assert [record.epoch for record in result.history] == [1, 2]
    assert {(one.epoch, one.steps) for one in news} == {(1, 2), (2, 2)}
    assert result.history[0].learning_rate > result.history[1].learning_rate


# --- divergence


def test_divergence_is_undone_and_retried_more_gently(tmp_path: Path) -> None:
    model = GRAPHS["lenet"]()
    path = write(model, tmp_path / "m.onnx")
    hot = replace(BUDGET, epochs=2, learning_rate=300.0, clip_norm=0.0, warmup=0.0, schedule="constant")
    result = run(path, labelled(model, count=256, classes=5), hot)
    assert result.faults[0].kind == "divergence"
    assert result.faults[0].detail.startswith("In epoch 2 the loss")
    assert result.faults[0].action == "undone and retried at learning rate 90"
    check_result(initializer_arrays(load_model(path)), {}, result, "torch")


def test_hopeless_rates_are_an_error_that_names_the_remedy(tmp_path: Path) -> None:
    model = GRAPHS["lenet"]()
    hot = replace(BUDGET, learning_rate=1e12, clip_norm=0.0, warmup=0.0)
    with pytest.raises(AdapterError, match=r"diverged 5 times.*learning_rate"):
        run(write(model, tmp_path / "m.onnx"), labelled(model, count=256, classes=5), hot)


@pytest.mark.parametrize(
    "full",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: no"),
    ],
    ids=["device", "host"],
)
def test_a_lack_of_memory_is_told_as_such_and_smaller_batches_are_heard(
    full: RuntimeError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = GRAPHS["lenet"]()
    path, task = write(model, tmp_path / "m.onnx"), labelled(model, classes=5)
    sizes: list[int] = []
    step = Trainer.step

    def limited(self: Trainer, batch: Batch, *more: Any) -> Any:
        sizes.append(batch.size)
        if batch.size > 16:
            raise full
        return step(self, batch, *more)

    monkeypatch.setattr(Trainer, "step", limited)
    with pytest.raises(AdapterMemoryError, match=r"ran out of memory on m.onnx: .*allocate"):
        run(path, task, replace(BUDGET, batch_size=32))
    sizes.clear()
    run(path, task, replace(BUDGET, batch_size=32, batch_share=0.5))
    assert set(sizes) == {16}


def test_a_retraining_that_only_harms_is_undone(tmp_path: Path) -> None:
    """The ancestor itself, taught by itself, cannot improve."""
    model = GRAPHS["residual_folded"]()
    path = write(model, tmp_path / "m.onnx")
    arrays = initializer_arrays(load_model(path))
    decaying = replace(BUDGET, learning_rate=1.0, schedule="constant", weight_decay=0.9)
    result = run(path, distilled(labelled(model)), decaying, ancestor=path)
    assert [fault.kind for fault in result.faults] == ["no help"] * 2
    assert result.faults[1].action == "undone; weights as inherited"
    assert all(np.array_equal(array, arrays[name]) for name, array in result.weights.items())


def test_learning_moved_images_is_no_harm(tmp_path: Path) -> None:
    """Whoever knows the images as they are by heart does worse on them while it learns their other views."""
    model = GRAPHS["lenet"]()
    task = labelled(model, count=64, classes=5)
    fitted = replace(BUDGET, epochs=60, learning_rate=0.05)
    learned = run(write(model, tmp_path / "m.onnx"), task, fitted)
    path = write(with_arrays(model, learned.weights), tmp_path / "fitted.onnx")
    result = run(path, task, replace(fitted, augment="shift:1"))
    assert 2 * learned.history[-1].loss < result.history[-1].loss < result.history[0].loss
    assert not result.faults


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": 7}, "label is 7.*5 classes"),
        ({"targets": None}, "no targets"),
        ({"nan": True}, "not finite before the first"),
        ({"output": "nowhere"}, "nowhere"),
        ({"kind": "distillation"}, "no ancestor"),
        ({"budget": {"optimizer": "lion"}}, "lion.*sgd, adam"),
        ({"budget": {"augment": "cutout"}}, "cutout.*flip-shift"),
        ({"budget": {"schedule": "step"}}, "step.*one-cycle"),
        ({"budget": {"distill": 1.5}, "taught": True}, "distillation share is 1.5"),
        ({"options": {"renormalize": "maybe"}}, "renormalize.*maybe"),
        ({"options": {"device": "tpu"}}, "device.*tpu"),
        ({"masks": {"ghost": np.ones(3, bool)}}, "ghost.*no such tensor"),
        ({"empty": True}, "no training examples"),
    ],
    ids=lambda v: next(iter(v)) + str(next(iter(v.values())))[:20] if isinstance(v, dict) else "",
)
def test_bad_requests_are_explained(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = GRAPHS["lenet"]()
    task = labelled(model, classes=5)
    assert task.targets is not None
    if "labels" in change:
        task.targets = np.where(np.arange(64) == 3, change["labels"], task.targets)
    if "nan" in change:
        task.inputs = {"x": np.full_like(task.inputs["x"], np.nan)}
    if "targets" in change:
        task.targets = None
    if "empty" in change:
        task = ArrayTask({"x": task.inputs["x"][:0]}, task.targets[:0])
    task.loss = Loss(change.get("kind", "cross_entropy"), change.get("output"))
    budget = replace(BUDGET, **change.get("budget", {}))
    with pytest.raises(AdapterError, match=message):
        run(
            write(model, tmp_path / "m.onnx"), task, budget,
            masks=change.get("masks", {}), options=change.get("options", {}),
            ancestor=tmp_path / "m.onnx" if "taught" in change else None,
        )  # fmt: skip


# --- determinism and global state


SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
import test_torch_training as t
print(t.digest(t.standard_run(Path(sys.argv[2]), Path(sys.argv[3])).weights))
"""


def standard_run(path: Path, ancestor: Path, adapter: TorchAdapter | None = None) -> RetrainResult:
    task = labelled(onnx.load(path), count=100, classes=4)
    budget = replace(BUDGET, epochs=2, augment="none")
    return run(path, task, budget, masks=random_masks(path), ancestor=ancestor, seed=5, adapter=adapter)


def test_equal_seeds_give_equal_bytes_in_any_process_and_adapter(tmp_path: Path) -> None:
    model = GRAPHS["residual_bn"]()
    path = write(model, tmp_path / "m.onnx")
    ancestor = write(model, tmp_path / "a.onnx")
    adapter = TorchAdapter()
    first = digest(standard_run(path, ancestor, adapter).weights)
    assert digest(standard_run(path, ancestor, adapter).weights) == first  # teacher's outputs kept
    there = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(path), str(ancestor)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert there.stdout.strip() == first


def test_torch_is_left_as_it_was_found(tmp_path: Path) -> None:
    model = GRAPHS["activations"]()
    path = write(model, tmp_path / "m.onnx")
    torch.manual_seed(11)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    run(path, distilled(labelled(model)), replace(BUDGET, threads=threads + 1), ancestor=path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.is_grad_enabled()


def test_renormalization_helps_a_folded_residual_network(tmp_path: Path) -> None:
    """Train with norms, fold them, prune half of all synapses, retrain both ways."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images, labels = (digits.images[:800, None] / 16).astype(np.float32), digits.target[:800].astype(np.int64)
    task = ArrayTask({"x": images}, labels)
    model = deep_residual(seed=0)
    budget = TrainingBudget(epochs=4, batch_size=32, learning_rate=0.1, optimizer="sgd", threads=1)
    trained = with_arrays(model, run(write(model, tmp_path / "bn.onnx"), task, budget).weights)
    folded = write(fold_norms(trained), tmp_path / "folded.onnx")
    masks = random_masks(folded, 0.5, seed=3)
    arrays = initializer_arrays(load_model(folded))
    pruned = with_arrays(onnx.load(folded), {n: np.where(mask, arrays[n], 0) for n, mask in masks.items()})
    path = write(pruned, tmp_path / "pruned.onnx")
    losses = {}
    for option in ("off", "auto"):
        result = run(path, task, replace(budget, epochs=4), masks=masks, options={"renormalize": option})
        check_result(arrays, masks, result, "torch")
        module = module_of(with_arrays(pruned, result.weights))
        module.eval()
        with torch.no_grad():
            rows = module({"x": torch.from_numpy(images)})["y"]
            losses[option] = float(torch.nn.functional.cross_entropy(rows, torch.from_numpy(labels)))
    assert losses["auto"] < 0.7 * losses["off"]


@pytest.mark.gpu
def test_cuda_retrains_deterministically(tmp_path: Path, torch_cuda: str) -> None:
    model = GRAPHS["residual_bn"]()
    path = write(model, tmp_path / "m.onnx")
    masks = random_masks(path)
    for precision in ("fp32", "amp"):
        results = [
            run(
                path,
                labelled(model),
                masks=masks,
                ancestor=path,
                options={"device": torch_cuda, "precision": precision},
            )
            for _ in range(2)
        ]
        assert digest(results[0].weights) == digest(results[1].weights)
        check_result(initializer_arrays(load_model(path)), masks, results[0], "torch")


# --- killed and asked again


def _dying_in(epoch: int) -> Callable[[Progress], None]:
    def hears(news: Progress) -> None:
        if news.epoch == epoch:
            raise KeyboardInterrupt

    return hears


@pytest.mark.parametrize(
    ("graph", "settings", "options"),
    [
        ("residual_bn", {}, {}),
        ("residual_folded", {}, {"renormalize": "on"}),
        ("lenet", {"optimizer": "adam", "schedule": "constant"}, {}),
        ("activations", {"ema_decay": 0.9}, {}),
    ],
)
def test_a_killed_retraining_goes_on_where_it_stopped(
    tmp_path: Path, graph: str, settings: dict[str, Any], options: dict[str, str]
) -> None:
    model = GRAPHS[graph]()
    path, task = write(model, tmp_path / "m.onnx"), distilled(labelled(model))
    budget = replace(BUDGET, epochs=4, augment="none", **settings)
    masks = random_masks(path)
    kept = tmp_path / "kept"

    def ask(**more: Any) -> RetrainResult:
        return run(path, task, budget, masks=masks, options=options, ancestor=path, **more)

    alone = ask()
    with pytest.raises(KeyboardInterrupt):
        ask(checkpoint=kept, progress=_dying_in(3))
    news: list[Progress] = []
    again = ask(checkpoint=kept, progress=news.append)
    assert {one.epoch for one in news} == {3, 4}
    assert digest(again.weights) == digest(alone.weights)
    assert (list(again.history), list(again.notes)) == (list(alone.history), list(alone.notes))
    # Complete already: nothing is left to train.
    news.clear()
    assert digest(ask(checkpoint=kept, progress=news.append).weights) == digest(alone.weights)
    assert not news


def _other_seed(path: Path) -> dict[str, Any]:
    return {"seed": 1}


def _cut_short(path: Path) -> dict[str, Any]:
    path.write_bytes(path.read_bytes()[:-7])
    return {}


def _garbage(path: Path) -> dict[str, Any]:
    path.write_bytes(b"\xff" * 100)
    return {}


@pytest.mark.parametrize("spoilt", [_other_seed, _cut_short, _garbage])
def test_progress_that_is_not_this_retrainings_is_not_read(tmp_path: Path, spoilt: Any) -> None:
    model = GRAPHS["lenet"]()
    path, task, kept = write(model, tmp_path / "m.onnx"), labelled(model), tmp_path / "kept"
    budget = replace(BUDGET, epochs=2)
    run(path, task, budget, checkpoint=kept)
    changed = spoilt(kept)
    news: list[Progress] = []
    found = run(path, task, budget, checkpoint=kept, progress=news.append, **changed)
    assert {one.epoch for one in news} == {1, 2}
    assert digest(found.weights) == digest(run(path, task, budget, **changed).weights)


def test_progress_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    model = GRAPHS["lenet"]()
    with pytest.raises(AdapterError, match="progress of this retraining"):
        run(
            write(model, tmp_path / "m.onnx"),
            labelled(model),
            BUDGET,
            checkpoint=tmp_path / "nowhere" / "kept",
        )
