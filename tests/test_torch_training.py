"""Retraining with the torch adapter: losses, masks, norms, rollback, determinism."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import GRAPHS
from hypothesis import given
from hypothesis import strategies as st
from torch_support import ArrayTask, deep_residual, feed_for, fold_norms, with_arrays

torch = pytest.importorskip("torch")

from evonnx.adapter import (  # noqa: E402
    Progress,
    RetrainRequest,
    RetrainResult,
    TrainingBudget,
    check_result,
)
from evonnx.errors import AdapterError  # noqa: E402
from evonnx.masks import Masks  # noqa: E402
from evonnx.onnx_io import initializer_arrays, load_model  # noqa: E402
from evonnx.task import Batch, Loss  # noqa: E402
from evonnx_torch import TorchAdapter  # noqa: E402
from evonnx_torch.feeding import accepted_chunk, augmented, chunks  # noqa: E402
from evonnx_torch.heads import find_head, softened_divergence  # noqa: E402
from evonnx_torch.module import OnnxModule  # noqa: E402
from evonnx_torch.objective import Objective  # noqa: E402
from evonnx_torch.optim import Average, Optimizer, Schedule  # noqa: E402
from evonnx_torch.renormalize import Renormalization, candidates, wanted  # noqa: E402
from evonnx_torch.settings import choose_batch_size, resolve  # noqa: E402

BUDGET = TrainingBudget(epochs=1, batch_size=32, threads=1)


def write(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def module_of(model: onnx.ModelProto) -> OnnxModule:
    return OnnxModule(ir.from_proto(model))


def random_masks(model: Path, share: float = 0.7, seed: int = 0) -> Masks:
    rng = np.random.default_rng(seed)
    arrays = initializer_arrays(load_model(model))
    names = module_of(onnx.load(model)).roles.decayed
    return {name: rng.random(arrays[name].shape) < share for name in arrays if name in names}


def labelled(model: onnx.ModelProto, count: int = 64, classes: int = 4, seed: int = 0) -> ArrayTask:
    """Random inputs; labels from a fixed linear rule, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    inputs = {
        name: rng.normal(size=(count, *array.shape[1:])).astype(np.float32)
        for name, array in feed_for(model, rng).items()
    }
    flat = np.concatenate([array.reshape(count, -1) for array in inputs.values()], axis=1)
    labels = (flat @ rng.normal(size=(flat.shape[1], classes))).argmax(1)
    return ArrayTask(inputs, labels.astype(np.int64))


def distilled(task: ArrayTask) -> ArrayTask:
    return ArrayTask(task.inputs, None, Loss("distillation"))


def run(path: Path, task: Any, budget: TrainingBudget = BUDGET, **fields: Any) -> RetrainResult:
    adapter = fields.pop("adapter", None) or TorchAdapter()
    return adapter.retrain(
        RetrainRequest(path, fields.pop("masks", {}), task, budget, fields.pop("seed", 0), **fields)
    )


def digest(weights: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode() + np.ascontiguousarray(weights[name]).tobytes())
    return found.hexdigest()


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
    assert any("diverged in epoch" in note and "retried" in note for note in result.notes)
    check_result(initializer_arrays(load_model(path)), {}, result, "torch")


def test_hopeless_rates_are_an_error_that_names_the_remedy(tmp_path: Path) -> None:
    model = GRAPHS["lenet"]()
    hot = replace(BUDGET, learning_rate=1e12, clip_norm=0.0, warmup=0.0)
    with pytest.raises(AdapterError, match=r"diverged 5 times.*learning_rate"):
        run(write(model, tmp_path / "m.onnx"), labelled(model, count=256, classes=5), hot)


def test_a_retraining_that_only_harms_is_undone(tmp_path: Path) -> None:
    """The ancestor itself, taught by itself, cannot improve."""
    model = GRAPHS["residual_folded"]()
    path = write(model, tmp_path / "m.onnx")
    arrays = initializer_arrays(load_model(path))
    decaying = replace(BUDGET, learning_rate=1.0, schedule="constant", weight_decay=0.9)
    result = run(path, distilled(labelled(model)), decaying, ancestor=path)
    assert any("as inherited" in note for note in result.notes)
    assert all(np.array_equal(array, arrays[name]) for name, array in result.weights.items())


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


# --- norms


def test_batch_normalization_trains_on_batch_statistics() -> None:
    model = GRAPHS["conv_bn"]()
    module = module_of(model)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)) * 3 + 1
    names = next(node for node in model.graph.node if node.op_type == "BatchNormalization").input
    before = {name: module.statistics[name].clone() for name in names[3:]}
    module.train()
    y = torch.nn.functional.conv2d(x, module.weights["conv1.weight"], padding=1)
    module({"x": x})
    for name, batch in ((names[3], y.mean((0, 2, 3))), (names[4], y.var((0, 2, 3), correction=1))):
        assert torch.allclose(module.statistics[name], 0.9 * before[name] + 0.1 * batch, atol=1e-5)
    returned = module.arrays()
    np.testing.assert_array_equal(returned[names[3]], module.statistics[names[3]].numpy())


def test_dropout_acts_in_training_only() -> None:
    module = module_of(GRAPHS["activations"]())
    x = {"x": torch.ones(1, 3, 6, 6)}
    with torch.no_grad():
        module.eval()
        assert torch.equal(*(next(iter(module(x).values())) for _ in range(2)))
        module.train()
        assert not torch.equal(*(next(iter(module(x).values())) for _ in range(2)))


def test_renormalization_changes_nothing_and_folds_exactly() -> None:
    model = fold_norms(deep_residual(seed=1))
    module = module_of(model)
    rng = np.random.default_rng(2)
    inputs = {"x": torch.from_numpy(rng.normal(size=(32, 1, 8, 8)).astype(np.float32))}
    module.eval()
    with torch.no_grad():
        want = module(inputs)["y"]
    nodes = wanted(module.graph, module.roles, "auto")
    assert len(nodes) == 9
    renormalization = Renormalization(module, nodes, inputs)
    with torch.no_grad():
        for training in (False, True):
            module.train(training)
            assert torch.allclose(module(inputs)["y"], want, atol=1e-5 * float(want.abs().max()))
        generator = torch.Generator().manual_seed(0)
        for parameter in renormalization.parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        module.eval()
        moved = module(inputs)["y"]
        assert not torch.allclose(moved, want, atol=1e-2)
        renormalization.fold()
        folded = module(inputs)["y"]
    assert torch.allclose(folded, moved, atol=1e-5 * float(moved.abs().max()))


@pytest.mark.parametrize(
    ("name", "option", "count"),
    [
        ("residual_folded", "auto", 0),
        ("residual_folded", "on", 6),
        ("residual_bn", "on", 0),
        ("shared_weights", "on", 0),
        ("residual_folded", "off", 0),
    ],
)
def test_which_convolutions_are_renormalized(name: str, option: str, count: int) -> None:
    module = module_of(GRAPHS[name]())
    assert len(wanted(module.graph, module.roles, option)) == count
    assert len(candidates(module.graph, module.roles)) >= count


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


# --- parts


@pytest.mark.parametrize(("kind", "theirs"), [("sgd", "SGD"), ("adam", "AdamW")])
def test_optimizer_agrees_with_torch(kind: str, theirs: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 3, generator=generator), torch.randn(5, generator=generator)]
    mine = [t.clone().requires_grad_() for t in start]
    other = [t.clone().requires_grad_() for t in start]
    extra = {"momentum": 0.9, "nesterov": True} if kind == "sgd" else {}
    reference = getattr(torch.optim, theirs)(
        [{"params": other[:1], "weight_decay": 0.1}, {"params": other[1:], "weight_decay": 0.0}],
        lr=0.05,
        **extra,
    )
    optimizer = Optimizer(mine, [None, None], [True, False], 0.1, kind, clip=0.5)
    for _ in range(5):
        for parameters in (mine, other):
            sum((p.square() * 3 - p).sum() for p in parameters).backward()
        torch.nn.utils.clip_grad_norm_(other, 0.5)
        reference.step()
        reference.zero_grad()
        optimizer.step(0.05)
    for a, b in zip(mine, other, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@given(
    kind=st.sampled_from(["sgd", "adam"]), seed=st.integers(0, 100), rate=st.sampled_from([1e-4, 0.1, 10.0])
)
def test_masked_entries_are_zero_after_every_step(kind: str, seed: int, rate: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 5, generator=generator).requires_grad_()
    mask = (torch.rand(6, 5, generator=generator) < 0.5).float()
    optimizer = Optimizer([weight], [mask], [True], 0.1, kind, 1.0)
    assert not weight[mask == 0].any()
    for _ in range(4):
        (weight * torch.randn(6, 5, generator=generator)).sum().backward()
        optimizer.step(rate)
        assert not weight[mask == 0].any()
        assert weight[mask == 1].all()


@given(
    kind=st.sampled_from(["one-cycle", "cosine", "constant"]),
    steps=st.integers(1, 400),
    warmup=st.sampled_from([0.0, 0.1, 0.3, 1.0]),
)
def test_schedules_stay_between_zero_and_their_peak(kind: str, steps: int, warmup: float) -> None:
    rates = [Schedule(kind, 0.1, steps, warmup).rate(step) for step in range(steps)]
    assert all(0 < rate <= 0.1 + 1e-12 for rate in rates)
    top = int(np.argmax(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize(
    ("given_size", "examples", "activation_bytes", "size"),
    [
        (None, 60_000, 1000, 128),
        (None, 1300, 1000, 32),
        (None, 50, 1000, 16),
        (None, 60_000, 2**26, 16),
        (None, 60_000, 2**40, 1),
        (77, 50, 2**40, 77),
    ],
)
def test_batches_fit_data_and_memory(
    given_size: int | None, examples: int, activation_bytes: int, size: int
) -> None:
    assert choose_batch_size(TrainingBudget(batch_size=given_size), examples, activation_bytes) == size


def test_what_the_budget_names_is_what_is_used() -> None:
    budget = TrainingBudget(
        epochs=3, batch_size=8, learning_rate=0.3, optimizer="adam", weight_decay=0.2, schedule="cosine",
        warmup=0.4, clip_norm=7.0, ema_decay=0.5, distill=0.25, temperature=2.0, augment="shift",
    )  # fmt: skip
    settings = resolve(budget, 8, 8, teacher=True, values_only=False, bare_and_deep=False)
    assert {name: getattr(settings, name) for name in vars(settings)} == {
        name: getattr(budget, name) for name in vars(settings)
    }
    free = TrainingBudget()
    assert resolve(free, 128, 128, teacher=True, values_only=False, bare_and_deep=True).optimizer == "adam"
    assert resolve(free, 128, 128, teacher=False, values_only=False, bare_and_deep=False).distill == 0.0
    gentler = resolve(free, 32, 32, teacher=True, values_only=False, bare_and_deep=False).learning_rate
    assert (
        gentler < resolve(free, 128, 128, teacher=True, values_only=False, bare_and_deep=False).learning_rate
    )


def test_average_follows_quickly_then_slowly() -> None:
    value = torch.zeros(1)
    average = Average([value], 0.99)
    value.fill_(1.0)
    seen = []
    for _ in range(500):
        average.update()
        seen.append(float(average.values[0]))
    assert seen[0] > 0.5
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "kind", "tap"),
    [("concat_fire", "softmax", "flatten1_out"), ("lenet", "raw", None)],
)
def test_heads_are_read_before_a_final_softmax(name: str, kind: str, tap: str | None) -> None:
    module = module_of(GRAPHS[name]())
    head = find_head(module.graph, module.graph.outputs[0])
    assert (head.kind, head.tap) == (kind, tap or module.graph.outputs[0])


def test_cross_entropy_of_probabilities_is_that_of_their_logarithm() -> None:
    model = GRAPHS["concat_fire"]()
    module = module_of(model)
    module.eval()
    task = labelled(model, count=8)
    part = next(chunks(module, next(iter(task.batches("train", 8))), None))
    loss = Objective(module, task.loss, None, 0.0, 1.0)(part)
    probabilities = module(part.inputs)["y"]
    want = torch.nn.functional.nll_loss(probabilities.log(), part.targets)
    assert torch.allclose(loss, want, atol=1e-5)


def test_unlabelled_examples_do_not_count() -> None:
    model = GRAPHS["lenet"]()
    module = module_of(model)
    task = labelled(model, count=8, classes=5)
    assert task.targets is not None
    batch = next(iter(task.batches("train", 8)))
    half = Batch(batch.inputs, np.where(np.arange(8) < 4, task.targets, -1), 8)
    first = Batch({"x": batch.inputs["x"][:4]}, task.targets[:4], 4)
    none = Batch(batch.inputs, np.full(8, -1), 8)
    objective = Objective(module, task.loss, None, 0.0, 1.0)
    losses = [objective(next(chunks(module, one, None))).item() for one in (half, first, none)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[2] == 0.0


def test_divergence_from_the_teacher_is_zero_only_at_the_teacher() -> None:
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    assert float(softened_divergence(rows, rows + 3.0, 4.0)) == pytest.approx(0.0, abs=1e-5)
    assert float(softened_divergence(rows, -rows, 4.0)) > 0.1


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("lenet", None),
        ("lenet_reshape", None),
        ("cntk_style", None),
        ("dynamic_batch", None),
        ("gemm_trans_a", 6),
        ("two_outputs", None),
    ],
)
def test_fixed_batch_graphs_take_what_gives_the_same_result(name: str, limit: int | None) -> None:
    model = GRAPHS[name]()
    module = module_of(model)
    count = 12
    feed = feed_for(model, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    inputs = {n: rng.normal(size=(count, *a.shape[1:])).astype(np.float32) for n, a in feed.items()}
    batch = Batch(inputs, None, count)
    taps = tuple(module.graph.outputs)
    assert accepted_chunk(module, batch, taps) == limit
    parts = list(chunks(module, batch, limit))
    assert [part.size for part in parts] == ([count] if limit is None else [limit] * (count // limit))


def test_chunks_add_up_to_the_gradient_of_the_batch(tmp_path: Path) -> None:
    model = GRAPHS["lenet"]()
    task = labelled(model, count=9, classes=5)
    module = module_of(model)
    objective = Objective(module, task.loss, None, 0.0, 1.0)
    batch = next(iter(task.batches("train", 9)))
    gradients = []
    for limit in (None, 4):
        for part in chunks(module, batch, limit):
            (objective(part) * part.size / 9).backward()
        gradients.append(module.weights["conv1.weight"].grad.clone())
        module.zero_grad()
    assert torch.allclose(*gradients, atol=1e-6)


def test_shift_moves_each_image_by_at_most_two_pixels() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(20, 2, 6, 7)).astype(np.float32)
    moved = augmented(Batch({"x": images}, None, 20), "shift", rng).inputs["x"]
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    offsets = set()
    for image, source in zip(moved, padded, strict=True):
        found = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if np.array_equal(image, source[:, i : i + 6, j : j + 7])
        ]
        assert found
        offsets.update(found)
    assert len(offsets) > 5
    assert augmented(Batch({"x": images}, None, 20), "none", rng).inputs["x"] is images
    flipped = augmented(Batch({"x": images}, None, 20), "flip-shift", np.random.default_rng(1)).inputs["x"]
    both = np.concatenate([padded, padded[..., ::-1]], axis=1)
    hits = [
        any(
            np.array_equal(image, source[c : c + 2, i : i + 6, j : j + 7])
            for c in (0, 2)
            for i in range(5)
            for j in range(5)
        )
        for image, source in zip(flipped, both, strict=True)
    ]
    assert all(hits)


@pytest.mark.gpu
def test_cuda_retrains_deterministically(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
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
                options={"device": "cuda", "precision": precision},
            )
            for _ in range(2)
        ]
        assert digest(results[0].weights) == digest(results[1].weights)
        check_result(initializer_arrays(load_model(path)), masks, results[0], "torch")
