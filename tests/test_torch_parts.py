"""Parts of the torch adapter: norms, optimizer, schedules, losses, batches, settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_builder import Builder
from graphs import GRAPHS
from hypothesis import given
from hypothesis import strategies as st
from torch_support import deep_residual, feed_for, fold_norms, labelled, module_of, reference

torch = pytest.importorskip("torch")

from evonnx.adapter import (  # noqa: E402
    TrainingBudget,
)
from evonnx.errors import AdapterError  # noqa: E402
from evonnx.task import Batch  # noqa: E402
from evonnx_torch.feeding import accepted_chunk, chunks  # noqa: E402
from evonnx_torch.heads import softened_divergence  # noqa: E402
from evonnx_torch.objective import Objective  # noqa: E402
from evonnx_torch.optim import Average, Optimizer  # noqa: E402
from evonnx_torch.renormalize import Renormalization, candidates, wanted  # noqa: E402
from evonnx_training.augmentation import Augmentation, read_augmentation  # noqa: E402
from evonnx_training.heads import find_head  # noqa: E402
from evonnx_training.schedule import Schedule  # noqa: E402
from evonnx_training.settings import choose_batch_size, resolve  # noqa: E402

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


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ["shift", "flip-shift", "shift:4", "flip-shift:0", "flip-shift:3"])
def test_a_view_is_the_image_moved_and_mirrored_as_its_number_says(name: str, channels_last: bool) -> None:
    augmentation = read_augmentation(name)
    reach, flips = augmentation.reach, 2 if augmentation.flip else 1
    rng = np.random.default_rng(0)
    images = rng.normal(size=(60, 3, 6, 7)).astype(np.float32)
    shown = images.transpose(0, 2, 3, 1) if channels_last else images
    others = {"images": shown, "sizes": np.ones((60, 2))}
    batch, views = augmentation(Batch(others, None, 60), np.random.default_rng(1))
    assert batch.inputs["sizes"] is others["sizes"]
    assert views is not None
    assert views.min() >= 0
    assert views.max() < augmentation.views == (2 * reach + 1) ** 2 * flips
    assert len(set(views.tolist())) > 1
    moved = np.moveaxis(batch.inputs["images"], 3, 1) if channels_last else batch.inputs["images"]
    assert batch.inputs["images"].shape == shown.shape
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    for image, source, view in zip(moved, padded, views.tolist(), strict=True):
        (row, column), mirrored = divmod(view // flips, 2 * reach + 1), view % flips
        window = source[:, row : row + 6, column : column + 7]
        np.testing.assert_array_equal(image, window[..., ::-1] if mirrored else window)
    assert any(np.array_equal(a, b) for a, b in zip(moved, images, strict=True)) == (
        augmentation.unmoved in views
    )


@pytest.mark.parametrize(("name", "views"), [("shift:1/4", 4), ("flip-shift:2/7", 7), ("shift:1/100", 9)])
def test_few_views_are_always_the_same_ones_and_the_image_as_given_is_among_them(
    name: str, views: int
) -> None:
    images = np.arange(400 * 16, dtype=np.float32).reshape(400, 1, 4, 4) % 16 + 1
    few, every = read_augmentation(name), read_augmentation(name.split("/")[0])
    assert (few.views, read_augmentation(name).views) == (views, views)
    looks: dict[int, set[bytes]] = {}
    for seed in range(2):
        batch, numbers = few(Batch({"x": images}, None, 400), np.random.default_rng(seed))
        assert numbers is not None
        for image, number in zip(batch.inputs["x"], numbers.tolist(), strict=True):
            looks.setdefault(number, set()).add(image.tobytes())
    assert sorted(looks) == list(range(views))
    assert all(len(look) == 1 for look in looks.values())
    assert looks[few.unmoved] == {images[0].tobytes()}
    seen, _ = every(Batch({"x": images}, None, 400), np.random.default_rng(0))
    assert set().union(*looks.values()) <= {image.tobytes() for image in seen.inputs["x"]}


def test_augmentations_by_name() -> None:
    assert read_augmentation("none") == Augmentation()
    assert read_augmentation("shift") == Augmentation(2)
    assert read_augmentation("flip-shift:4") == Augmentation(4, flip=True)
    assert read_augmentation("flip-shift:4/16") == Augmentation(4, flip=True, most=16)
    assert read_augmentation("shift/3") == Augmentation(2, most=3)
    batch = Batch({"x": np.zeros((2, 1, 3, 3))}, None, 2)
    assert read_augmentation("none")(batch, np.random.default_rng(0)) == (batch, None)
    for name in (
        "shift:33",
        "shift:",
        "shift:-1",
        "flip",
        "shift:4 ",
        "flip-shift:1000",
        "shift/0",
        "shift/",
        "none/2",
    ):
        with pytest.raises(AdapterError, match="Unknown augmentation"):
            read_augmentation(name)


def test_a_query_that_sees_no_key_leaves_finite_gradients() -> None:
    """Softmax of nothing but -inf is NaN and replaced afterwards, as exporters write masked attention."""
    b = Builder([3, 4])
    scores = b.matmul("x", 4, 4)
    bias = np.where(np.tril(np.ones((3, 4)), -1) > 0, 0.0, -np.inf).astype(np.float32)
    shares = b.node("Softmax", b.node("Add", scores, b.constant(bias)), axis=-1)
    zero = b.constant(np.float32(0))
    b.output(b.matmul(b.node("Where", b.node("IsNaN", shares), zero, shares), 4, 5), [3, 5], "y")
    model = b.model()
    feed = feed_for(model, np.random.default_rng(0))
    module = module_of(model)
    module.train()
    y = module(module.tensors(feed))["y"]
    np.testing.assert_allclose(y.detach().numpy(), reference(model, feed)["y"], rtol=1e-4, atol=1e-6)
    y.square().sum().backward()
    gradients = [weight.grad for weight in module.weights.values()]
    assert all(bool(torch.isfinite(g).all()) and bool(g.any()) for g in gradients)
