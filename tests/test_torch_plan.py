"""A plan applied to the torch module that the ancestor was exported from."""

from __future__ import annotations

import copy
import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from plan_support import Build, Case, assert_equal, case_of, export, outputs_of_module, trained
from torch import Tensor, nn
from torch_modules import MODULES, TinyMobileNet, TinyResNet, TinyViT, TinyYolo

from evonnx.errors import EvonnxError, ModelError, PlanError
from evonnx.module_plan import load_plan, save_plan
from evonnx_torch import apply_plan
from evonnx_torch.plans.layers import Pair

FAMILIES = sorted(MODULES)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory):
    """Cases by module and kind of masks, exported once."""
    folder = tmp_path_factory.mktemp("plans")

    @cache
    def exported(build: Build) -> Path:
        return export(build, folder / f"{build.__name__}.onnx")

    @cache
    def made(build: Build, kind: str = "sampled", share: float = 0.4) -> Case:
        place = folder / f"{build.__name__}-{kind}.onnx"
        place.write_bytes(exported(build).read_bytes())
        return case_of(build, place, kind, share=share)

    return made


def stored(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_shrunk_it_is_the_compact_model(name, cases):
    case = cases(MODULES[name])
    module = case.module()
    done = apply_plan(module, case.plan, weights=case.compact)
    assert_equal(module, case.compact)
    assert done.parameters_after == stored(module) < 0.6 * done.parameters_before
    assert done.worst < 1e-5
    assert any(one.after < one.before for one in done.resized)
    own = case.module()
    apply_plan(own, case.plan)
    assert_equal(own, case.compact)


@pytest.mark.parametrize("name", FAMILIES)
def test_trained_weights_are_taken_over(name, cases):
    case = cases(MODULES[name])
    weights = trained(case)
    for how in ("shrink", "mask"):
        module = case.module()
        done = apply_plan(module, case.plan, how=how, weights=weights)
        assert_equal(module, weights)
        assert (done.parameters_after < done.parameters_before) == (how == "shrink")


@pytest.mark.parametrize("name", FAMILIES)
def test_masked_it_is_the_masked_model(name, cases):
    case = cases(MODULES[name])
    module = case.module()
    before = dict(module.named_parameters())
    done = apply_plan(module, case.plan, how="mask")
    assert_equal(module, case.masked)
    assert done.masked > 0
    assert not done.resized
    assert all(one is before[name] for name, one in module.named_parameters())  # optimizers go on


@pytest.mark.parametrize("kind", ["synapse", "kernel", "layer"])
@pytest.mark.parametrize("build", [TinyResNet, TinyMobileNet])
def test_any_mask_does(build, kind, cases):
    case = cases(build, kind, 0.5)
    for weights in (None, case.compact):
        module = case.module()
        apply_plan(module, case.plan, weights=weights)
        assert_equal(module, case.compact)


def test_heads_go_and_the_module_is_told(cases):
    case = cases(TinyViT)
    module = case.module()
    done = apply_plan(module, case.plan)
    attention = module.blocks[0].attn
    assert {name for name, *_ in done.attributes} >= {"blocks.0.attn.head_dim"}
    assert attention.qkv.out_features == 3 * attention.num_heads * attention.head_dim < 72
    assert not done.kept_whole


def test_equal_parts_and_written_sizes_stay(cases):
    case = cases(TinyYolo, "channel", 0.5)
    module = case.module()
    done = apply_plan(module, case.plan)
    assert any("stage2" in reason for reason in done.kept_whole)
    assert module.stage2.enter.conv.out_channels % 2 == 0
    assert (
        module.stage1.enter if hasattr(module.stage1, "enter") else module.stage1.left.conv.out_channels < 4
    )


def test_attributes_follow_their_parameters(cases):
    module = cases(TinyMobileNet).module()
    apply_plan(module, cases(TinyMobileNet).plan)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)
        elif isinstance(layer, nn.BatchNorm2d):
            assert {layer.num_features} == {len(one) for one in (layer.weight, layer.bias, layer.running_var)}
    assert module.features[3].body[3].groups == module.features[3].body[3].out_channels < 20
    module.train()(torch.randn(2, 3, 16, 16)).sum().backward()


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (TinyResNet, {"dynamo": True, "external_data": False}),
        pytest.param(TinyViT, {"dynamo": True, "external_data": False}, marks=pytest.mark.slow),
        pytest.param(TinyMobileNet, {"dynamo": True, "external_data": False}, marks=pytest.mark.slow),
        pytest.param(TinyYolo, {"dynamo": True, "external_data": False}, marks=pytest.mark.slow),
        (TinyResNet, {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}),
        (TinyMobileNet, {"training": torch.onnx.TrainingMode.PRESERVE, "keep_initializers_as_inputs": True}),
        (TinyViT, {"opset_version": 13, "do_constant_folding": False}),
    ],
)
def test_other_ways_of_exporting(build, options, tmp_path):
    try:
        model = export(build, tmp_path / "model.onnx", **options)
    except torch.onnx.OnnxExporterError:
        if not options.get("dynamo"):
            raise
        pytest.skip("this exporter does not know all of the operators")
    case = case_of(build, model)
    weights = trained(case)
    module = case.module()
    apply_plan(module, case.plan, weights=weights)
    assert_equal(module, weights)


# ------------------------------------------------------------------------------------------- odd modules


class Strict(nn.Module):
    """Code that checks a width which it has written down."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x))
        if x.shape[1] != 12:
            raise ValueError("twelve channels are wanted")
        return self.two(x)


def heads_of_torch(width: int, heads: int) -> nn.Module:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    return Wrapped()


def TorchViT() -> nn.Module:
    return TinyViT(heads_of_torch)


class Tied(nn.Module):
    """One matrix under two names, grouped and transposed convolutions, a normalisation without scales."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(16, affine=False)
        self.norm.running_mean.normal_()
        self.up = nn.ConvTranspose2d(16, 12, 2, 2, groups=2)
        self.one = nn.Linear(12, 12)
        self.two = nn.Linear(12, 12)
        self.two.weight = self.one.weight
        self.leave = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.grouped(torch.relu(self.enter(x)))))
        x = torch.relu(self.up(x)).mean((2, 3))
        return self.leave(torch.relu(self.two(torch.relu(self.one(x)))))


class Groups(nn.Module):
    """Exported with vectors of ones and zeros that the module does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3), nn.Conv2d(12, 4, 3)
        self.norm = nn.GroupNorm(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(torch.relu(self.norm(self.two(torch.relu(self.one(x))))))


class Instances(nn.Module):
    """A normalisation that is none of those whose widths are changed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3), nn.Conv2d(12, 4, 3)
        self.norm = nn.InstanceNorm2d(12, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(torch.relu(self.norm(self.two(torch.relu(self.one(x))))))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (TorchViT, "fixed pattern"),
        (Tied, ""),
        (Groups, "no parameter of the module"),
        (Instances, "InstanceNorm2d keeps its widths"),
    ],
)
def test_odd_modules(build, reason, cases):
    case = cases(build)
    weights = case.compact if build is Groups else trained(case)  # the exporter's ones cannot be trained
    module = case.module()
    done = apply_plan(module, case.plan, weights=weights)
    assert_equal(module, weights)
    assert done.parameters_after < done.parameters_before
    assert any(reason in one for one in done.kept_whole) == bool(reason)
    if build is Tied:
        assert module.one.weight is module.two.weight


def test_code_that_cannot_follow_is_refused_and_left_alone(cases):
    case = cases(Strict)
    module, image = case.module(), torch.randn(1, 3, 16, 16)
    state, expected = {k: v.clone() for k, v in module.state_dict().items()}, outputs_of_module(module, image)
    with pytest.raises(PlanError, match=r"twelve channels are wanted.*how=\"mask\""):
        apply_plan(module, case.plan, weights=case.compact)
    assert {name: one.tolist() for name, one in state.items()} == {
        name: one.tolist() for name, one in module.state_dict().items()
    }
    assert module.one.out_channels == 12
    np.testing.assert_array_equal(outputs_of_module(module, image)[0], expected[0])
    apply_plan(module, case.plan, how="mask", weights=case.compact)
    assert_equal(module, case.compact)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 8, 3),
        nn.Conv2d(6, 8, 3, groups=2, bias=False),
        nn.ConvTranspose2d(6, 8, 2),
        nn.ConvTranspose2d(6, 8, 2, groups=2),
        nn.Linear(6, 8),
    ],
)
def test_folding_and_back(layer, affine):
    """Folded, a layer computes the pair's function; unfolded from other numbers, the pair computes theirs."""
    norm = (nn.BatchNorm1d if isinstance(layer, nn.Linear) else nn.BatchNorm2d)(8, affine=affine).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    image = torch.randn(2, 6) if isinstance(layer, nn.Linear) else torch.randn(2, 6, 5, 5)
    if affine:
        nn.init.uniform_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.weight.data[3] = 0
    pair, folded = Pair(layer, norm), copy.deepcopy(layer)
    for factor in (1.0, 0.5):
        weight, bias = (one * factor for one in pair.folded())
        if affine:
            weight = weight + 0.1
        folded.weight, folded.bias = nn.Parameter(weight), nn.Parameter(bias)
        for owner, name, value in list(pair.unfolded(weight, bias)):
            getattr(owner, name).data.copy_(value)
        with torch.no_grad():
            torch.testing.assert_close(norm(layer(image)), folded(image), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------ errors


def changed(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        module.layers[1].conv1.weight[0, 0, 0, 0] += 0.5
    return module


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (lambda case: MODULES["unet"]().eval(), {}, "plan is of another module"),
        (lambda case: changed(case.module()), {}, "weights have changed since"),
        (lambda case: TinyResNet().eval(), {}, "No parameter of the module has the numbers of"),
        (lambda case: case.module(), {"how": "both"}, "'shrink' or 'mask'"),
        (lambda case: case.module(), {"inputs": (torch.zeros(1),)}, "does not run on the inputs"),
        (
            lambda case: case.module(),
            {"inputs": (torch.zeros(1, 3, 16, 16),) * 2},
            "does not run on the inputs",
        ),
        (lambda case: case.module(), {"plan": "nothing.safetensors"}, "cannot be read"),
        (lambda case: case.module(), {"weights": "nothing.onnx"}, "does not exist"),
    ],
)
def test_errors_say_what_is_wrong(module, arguments, message, cases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = cases(TinyResNet)
    wrong = module(case)
    before = {name: one.clone() for name, one in wrong.state_dict().items()}
    with pytest.raises(EvonnxError, match=message):
        apply_plan(wrong, **{"plan": case.plan, **arguments})
    assert all(torch.equal(one, before[name]) for name, one in wrong.state_dict().items())


def test_weights_of_another_model_are_refused(cases):
    case = cases(TinyResNet)
    with pytest.raises(ModelError, match="no offspring of"):
        apply_plan(case.module(), case.plan, weights=case_of_other_widths(case))
    with pytest.raises(PlanError, match="not equal to it"):
        apply_plan(case.module(), case.plan, weights=cases(MODULES["unet"]).compact)


def case_of_other_widths(case: Case) -> Path:
    """Another offspring of the same ancestor, without its lineage."""
    import onnx

    model = onnx.load(case.compact)
    del model.metadata_props[:]
    path = case.compact.with_suffix(".nameless.onnx")
    onnx.save(model, path)
    return path


def test_a_wrong_plan_does_not_pass_its_proof(cases):
    case = cases(TinyResNet)
    name, tensor = next(
        (n, t) for n, t in case.plan.tensors.items() if t.mask is not None and t.mask.ndim == 4
    )
    mask = tensor.mask.copy()
    mask[tuple(place[0] for place in np.nonzero(mask))] = False
    mask[tuple(place[-1] for place in np.nonzero(mask))] = False
    wrong = {**case.plan.tensors, name: dataclasses.replace(tensor, mask=mask)}
    module = case.module()
    with pytest.raises(PlanError, match="not equal to it"):
        apply_plan(module, dataclasses.replace(case.plan, tensors=wrong), weights=case.compact)


def test_a_plan_survives_its_file(cases, tmp_path):
    case = cases(TinyMobileNet)
    save_plan(tmp_path / "plan.safetensors", case.plan)
    module = case.module()
    done = apply_plan(module, tmp_path / "plan.safetensors", weights=case.compact)
    assert_equal(module, case.compact)
    assert "worst difference" in str(done)
    assert done.to_json()["how"] == "shrink"
    assert load_plan(tmp_path / "plan.safetensors").counts == case.plan.counts == ()
