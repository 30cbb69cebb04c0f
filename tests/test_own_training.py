"""Training loops of the user's own: the ONNX graph as a module, and the samples that show how."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_support import CommandLine
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from evonnx.errors import AdapterDivergedError, AdapterError, EvonnxError
from evonnx.masks import live_masks
from evonnx.network import load_network
from evonnx.onnx_io import initializer_arrays, load_model
from evonnx.sessions import make_session
from evonnx.testing import tiny_classifier
from evonnx.testing.models import example_images, save

torch = pytest.importorskip("torch")

from evonnx_torch import TrainableModel, load_module, save_weights  # noqa: E402

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
OWN = SAMPLES / "own_training"
DIGITS = SAMPLES / "digits"


@pytest.fixture
def pruned(tmp_path) -> Path:
    """The tiny classifier, half of its synapses zero."""
    model = tiny_classifier()
    for one in model.graph.initializer:
        if one.name.endswith("weight"):
            array = numpy_helper.to_array(one) * (np.random.default_rng(1).random(tuple(one.dims)) < 0.5)
            one.CopyFrom(numpy_helper.from_array(array.astype(np.float32), one.name))
    return save(model, tmp_path / "pruned.onnx")


def trained(module: TrainableModel, optimizer: torch.optim.Optimizer, steps: int = 5) -> list[float]:
    """Losses of a few steps on real examples."""
    images, labels = (torch.from_numpy(array) for array in example_images(60, 0))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def scores(model: Path, images: np.ndarray) -> np.ndarray:
    (found,) = make_session(model, threads=1).run(None, {"images": images})
    return found


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dead_synapses_stay_dead_under_any_optimizer(pruned, name):
    module = load_module(pruned)
    before = {name: weight.detach().clone() for name, weight in module.weights.items()}
    losses = trained(module, OPTIMIZERS[name](module.parameters()))
    assert losses[-1] < losses[0]
    for tensor, mask in live_masks(load_network(pruned)).items():
        assert not mask.all()
        weight = module.weights[tensor].detach().numpy()
        assert not weight[~mask].any()
        assert (weight != before[tensor].numpy())[mask].any()


def test_what_is_saved_is_the_file_with_new_weights(pruned, tmp_path):
    module = load_module(pruned)
    images, _ = example_images(8, 1)
    np.testing.assert_allclose(module(torch.from_numpy(images)).detach(), scores(pruned, images), atol=1e-5)
    trained(module, torch.optim.SGD(module.parameters(), 0.05))
    output = save_weights(module, tmp_path / "trained.onnx")
    found = scores(output, images)
    assert np.abs(found - scores(pruned, images)).max() > 1e-3
    np.testing.assert_allclose(module(torch.from_numpy(images)).detach(), found, atol=1e-5)
    old, new = onnx.load(pruned), onnx.load(output)
    assert [node.SerializeToString() for node in old.graph.node] == [
        node.SerializeToString() for node in new.graph.node
    ]
    for name, mask in live_masks(load_network(pruned)).items():
        array = initializer_arrays(load_model(output))[name]
        assert not array[~mask].any()
        assert not np.signbit(array[~mask]).any()


def test_masks_may_be_given(pruned, tmp_path):
    name = "fc1.weight"
    given = {name: np.random.default_rng(2).random((12, 36)) < 0.3}
    save_file(given, tmp_path / "masks.safetensors")
    for masks in (given, tmp_path / "masks.safetensors"):
        module = load_module(pruned, masks)
        assert not module.weights[name].detach().numpy()[~given[name]].any()
        trained(module, torch.optim.SGD(module.parameters(), 0.05))
        array = initializer_arrays(load_model(save_weights(module, tmp_path / "out.onnx")))
        assert not array[name][~given[name]].any()
        assert np.count_nonzero(array["conv.weight"]) > np.count_nonzero(
            initializer_arrays(load_model(pruned))["conv.weight"]
        )
    free = load_module(pruned, {})
    trained(free, torch.optim.SGD(free.parameters(), 0.05))
    before = initializer_arrays(load_model(pruned))[name]
    assert np.count_nonzero(free.weights[name].detach()) > 1.5 * np.count_nonzero(before)


def test_saving_masks_what_an_optimizer_did_without_gradients(pruned, tmp_path):
    module = load_module(pruned)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.1)
    arrays = initializer_arrays(load_model(save_weights(module, tmp_path / "out.onnx")))
    for name, mask in live_masks(load_network(pruned)).items():
        assert not arrays[name][~mask].any()
        assert arrays[name][mask].all()


def test_what_cannot_be_done_is_said(pruned, tmp_path):
    module = load_module(pruned)
    images = torch.zeros(1, 1, 8, 8)
    assert set(load_module(two_outputs(tmp_path))(images)) == {"scores", "again"}
    for call in (lambda: module(), lambda: module(images, images), lambda: module(pictures=images)):
        with pytest.raises(TypeError, match="has the inputs images"):
            call()
    torch.testing.assert_close(module(images=images), module(images))
    with pytest.raises(EvonnxError, match="mask of shape"):
        load_module(pruned, {"fc1.weight": np.ones((2, 2), np.bool_)})
    with pytest.raises(EvonnxError, match="nowhere"):
        load_module(tmp_path / "nowhere.onnx")
    with pytest.raises(AdapterError, match="load_module"):
        save_weights(torch.nn.Linear(2, 2), tmp_path / "out.onnx")
    with torch.no_grad():
        module.weights["fc1.bias"][0] = float("nan")
    with pytest.raises(AdapterDivergedError, match=r"fc1\.bias"):
        save_weights(module, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def two_outputs(folder: Path) -> Path:
    model = tiny_classifier()
    model.graph.node.append(helper.make_node("Identity", ["scores"], ["again"], "again"))
    model.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, ["N", 3]))
    return save(model, folder / "two.onnx")


def test_a_module_moves_and_keeps_its_precision(pruned):
    module = load_module(pruned)
    images = torch.from_numpy(example_images(4, 0)[0])
    expected = module(images)
    assert module.to("cpu") is module
    torch.testing.assert_close(module.train().cpu().float()(images), expected)
    assert [id(one) for one in module.weights.values()] == [id(one) for one in module.parameters()]
    with pytest.raises(RuntimeError, match=r"trains in float32, not torch\.float16"):
        module.half()
    state = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    module.load_state_dict(state)
    assert not torch.allclose(module(images), expected)


def test_a_copy_is_a_module_of_its_own(pruned, tmp_path):
    """As averages of weights are kept."""
    module = load_module(pruned)
    images = torch.from_numpy(example_images(4, 0)[0])
    first = module(images)  # compiled, on the weights of this one
    average = torch.optim.swa_utils.AveragedModel(module)
    torch.testing.assert_close(average(images), first)
    trained(module, torch.optim.SGD(module.parameters(), 0.05))
    torch.testing.assert_close(average(images), first)
    average.update_parameters(module)
    torch.testing.assert_close(average(images), module(images))
    trained(average.module, torch.optim.SGD(average.parameters(), 0.05, momentum=0.9))
    assert not torch.allclose(average(images), module(images))
    for name, mask in live_masks(load_network(pruned)).items():
        assert not average.module.weights[name].detach().numpy()[~mask].any()
    save_weights(average.module, tmp_path / "average.onnx")


@pytest.mark.gpu
def test_a_module_moves_to_the_gpu(pruned, tmp_path, torch_cuda):
    module = load_module(pruned).to(torch_cuda)
    images, labels = (torch.from_numpy(array).to(torch_cuda) for array in example_images(60, 0))
    torch.nn.functional.cross_entropy(module(images), labels).backward()
    torch.optim.SGD(module.parameters(), 0.05).step()
    arrays = initializer_arrays(load_model(save_weights(module, tmp_path / "out.onnx")))
    for name, mask in live_masks(load_network(pruned)).items():
        assert not arrays[name][~mask].any()


# --- the samples


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A folder with an offspring of the digits' LeNet-5, its masks, and a few examples as {data} has them."""
    from evonnx.cli import app

    folder = tmp_path_factory.mktemp("digits")
    for words in (
        ["synthesize", DIGITS / "lenet5.onnx", "-o", folder / "masked.onnx", "--keep", "0.2", "--align", "1"],
        ["compact", folder / "masked.onnx", "-o", folder / "model.onnx"],
    ):
        with pytest.raises(SystemExit) as left:
            app([str(word) for word in words], prog_name="evonnx")
        assert not left.value.code
    save_file(dict(live_masks(load_network(folder / "model.onnx"))), folder / "masks.safetensors")
    with np.load(DIGITS / "train.npz") as data:
        np.savez(folder / "data.npz", image=data["x"][:256].astype(np.float32) / 255, targets=data["y"][:256])
    return folder


def script(folder: Path, *words: object) -> str:
    """Standard output of a sample."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loss(model: Path, folder: Path) -> float:
    """Cross-entropy in onnxruntime."""
    with np.load(folder / "data.npz") as data:
        (logits,) = make_session(model, threads=1).run(None, {"image": data["image"]})
        targets = data["targets"]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-log_p[np.arange(len(targets)), targets].mean())


def check_trained(folder: Path, output: Path) -> None:
    assert loss(output, folder) < loss(folder / "model.onnx", folder)
    for name, mask in live_masks(load_network(folder / "model.onnx")).items():
        assert not initializer_arrays(load_model(output))[name][~mask].any()


def test_a_script_of_the_users(digits, tmp_path):
    few = ["--epochs", 1, "--seed", 2**64 - 1]
    files = [digits / "model.onnx", digits / "masks.safetensors", digits / "data.npz", tmp_path / "output"]
    said = script(tmp_path, OWN / "train_script.py", "retrain", *files, *few)
    assert re.fullmatch(r"epoch 1/1 loss [\d.]+ lr 0\.01\n", said)
    model = onnx.load(digits / "model.onnx")
    weights = load_file(tmp_path / "output")
    assert weights.keys() == {one.name for one in model.graph.initializer}
    for one in model.graph.initializer:
        one.CopyFrom(numpy_helper.from_array(weights[one.name], one.name))
    onnx.save(model, tmp_path / "trained.onnx")
    check_trained(digits, tmp_path / "trained.onnx")


@pytest.mark.parametrize("name", ["torch_loop", "lightning_loop"])
def test_loops_around_the_graph(digits, tmp_path, name):
    if name == "lightning_loop" and importlib.util.find_spec("lightning") is None:
        pytest.skip("lightning is not installed")
    output = tmp_path / "trained.onnx"
    few = ["--data", digits / "data.npz", "--epochs", 1]
    script(tmp_path, OWN / f"{name}.py", digits / "model.onnx", output, *few)
    check_trained(digits, output)


def test_a_module_of_the_users(digits, tmp_path, capsys):
    ancestor, plan = DIGITS / "lenet5.onnx", tmp_path / "plan.safetensors"
    made = CommandLine(capsys)("plan", digits / "model.onnx", "--ancestor", ancestor, "-o", plan)
    assert made.code == 0, made.err
    said = script(tmp_path, OWN / "own_module.py", ancestor, plan, digits / "model.onnx")
    assert "in onnxruntime" in said
    found = re.findall(r"([\d,]+)(?: parameters)? (?:before|after)", said)
    before, after = (int(number.replace(",", "")) for number in found)
    assert before == 431_080
    assert after < before / 2


@pytest.mark.slow
def test_the_commands_of_its_readme(tmp_path):
    """As they stand, in a copy of the samples."""
    import shutil

    shutil.copytree(OWN, tmp_path / "own_training")
    shutil.copytree(DIGITS, tmp_path / "digits")
    folder = tmp_path / "own_training"
    (block,) = re.findall(r"^```sh\n(.*?)^```", (OWN / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        words = [word.replace("python ", f"{sys.executable} ", 1) for word in shlex.split(line)]
        first = ["-m", "evonnx"] if words[0] == "evonnx" else []
        assert script(folder, *first, *words[1:]).strip()
