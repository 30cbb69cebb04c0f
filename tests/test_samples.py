"""The samples' scripts on small files in the official layouts: read, train, export, evaluate."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_support import CommandLine
from genetics_support import convolutions
from test_tasks import write_cifar10, write_idx, write_stl10

torch = pytest.importorskip("torch")

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
sys.path.insert(0, str(SAMPLES))

import lenet5  # noqa: E402
import sample_data  # noqa: E402
from sample_training import Training, accuracy, shifted, train  # noqa: E402

from evonnx.clusters import find_clusters  # noqa: E402
from evonnx.evaluation import evaluate  # noqa: E402
from evonnx.genome import encode  # noqa: E402
from evonnx.network import load_network  # noqa: E402
from evonnx.onnx_io import initializer_arrays, load_model  # noqa: E402
from evonnx.plugins import get  # noqa: E402
from evonnx.sessions import make_session  # noqa: E402
from evonnx.tasks import load_task, read_task_file  # noqa: E402
from evonnx_training.augmentation import read_augmentation  # noqa: E402

TINY = ["--validation", "8", "--epochs", "1", "--threads", "1"]


@pytest.fixture(autouse=True)
def torch_as_found():
    """Training scripts own their process and make torch deterministic; other tests share it."""
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def script(name):
    """A sample's train.py as a module."""
    spec = importlib.util.spec_from_file_location(f"sample_{name}", SAMPLES / name / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake(rng, count, *shape):
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % 10


def write_mnist(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("t10k", 20)):
        images, labels = fake(rng, count, 28, 28)
        write_idx(folder / f"{name}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{name}-labels-idx1-ubyte.gz", labels.astype(np.uint8))


def write_cifar(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        write_cifar10(folder / f"{name}.bin", *fake(rng, 20 if name == "test_batch" else 8, 3, 32, 32))


def write_stl(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 20)):
        write_stl10(folder, split, *fake(rng, count, 3, 96, 96))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """EVONNX_DATA: all three sets in their official layouts, 40 images to train on and 20 to test."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_mnist(folder / "mnist")
    write_cifar(folder / "cifar-10-batches-bin")
    write_stl(folder / "stl10_binary")
    monkeypatch.setenv("EVONNX_DATA", str(folder))
    return folder


@pytest.mark.parametrize(
    ("name", "model", "options", "augment"),
    [
        ("lenet5_mnist", "lenet5", [], "shift:1"),
        ("lenet5_stl10", "lenet5", [], "flip-shift:8"),
        ("alexnet_cifar10", "alexnet", [], "flip-shift:4/16"),
        ("resnet56_cifar10", "resnet56", ["--blocks", "1"], "flip-shift:4/16"),
    ],
)
def test_scripts_train_and_export(name, model, options, augment, data, tmp_path, capsys):
    out = tmp_path / "out"
    script(name).main(["--out", str(out), *TINY, *options])
    task = load_task(out / f"{model}.toml", load_network(out / f"{model}.onnx"))
    assert read_task_file(out / f"{model}.toml").retrain["augment"] == augment
    read_augmentation(augment)
    assert [task.size(split) for split in ("train", "validation", "test")] == [32, 8, 20]
    printed = float(re.search(r"test +([\d.]+)%", capsys.readouterr().out)[1])
    found = evaluate(out / f"{model}.onnx", task, "test", threads=1).value
    # Both saw the same images, normalised alike: the task file says what the script does.
    assert printed == pytest.approx(100 * found, abs=0.01)


@pytest.mark.parametrize("name", ["lenet5_mnist", "lenet5_stl10", "alexnet_cifar10", "resnet56_cifar10"])
def test_data_alone_is_enough_to_check_a_claim(name, data, tmp_path):
    out = tmp_path / "out"
    script(name).main(["--out", str(out), "--validation", "8", "--data-only"])
    (task,) = out.glob("*.toml")
    assert {path.name for path in out.iterdir()} == {"train.npz", "val.npz", "test.npz", task.name}
    sample = (SAMPLES / name / task.name).read_text(encoding="utf-8")
    assert re.findall(r'= "(.*npz)"', sample) == [
        f"../../runs/{name}/{split}.npz" for split in ("train", "val", "test")
    ]
    assert re.findall(r'= "(.*npz)"', task.read_text(encoding="utf-8")) == [
        "train.npz",
        "val.npz",
        "test.npz",
    ]


def perturbed(model):
    """With norm statistics, scales and shifts that are not 1 and 0."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and value.ndim == 1:
                value.copy_(0.5 + torch.rand(value.shape, generator=random))
            elif name.endswith("weight"):
                value.mul_(0.8)
    return model.eval()


@pytest.mark.parametrize(
    ("make", "write", "shape", "norms", "names"),
    [
        (lambda: lenet5.LeNet5(3, 96), lenet5.write_onnx, (3, 96, 96), 0, {"conv1.weight", "fc2.bias"}),
        (
            lambda: script("alexnet_cifar10").AlexNet(),
            script("alexnet_cifar10").write_onnx,
            (3, 32, 32),
            5,
            {"conv1.weight", "bn5.running_var", "fc8.bias"},
        ),
        (
            lambda: script("resnet56_cifar10").ResNet(2),
            script("resnet56_cifar10").write_onnx,
            (3, 32, 32),
            13,
            {"layer2.0.conv1.weight", "layer3.1.bn2.running_mean", "linear.weight"},
        ),
        (
            lambda: script("resnet56_cifar10").ResNet(1, 0.3),
            script("resnet56_cifar10").write_onnx,
            (3, 32, 32),
            7,
            {"layer3.0.conv2.weight"},
        ),
    ],
    ids=["lenet5", "alexnet", "resnet", "narrow resnet"],
)
def test_graphs_compute_what_torch_does(make, write, shape, norms, names, tmp_path):
    torch.manual_seed(0)
    model = perturbed(make())
    path = tmp_path / "model.onnx"
    write(model, path)
    graph = onnx.load(path).graph
    assert sum(node.op_type == "BatchNormalization" for node in graph.node) == norms
    assert names <= {weight.name for weight in graph.initializer}
    assert len({node.name for node in graph.node} - {""}) == len(graph.node)
    images = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    with torch.no_grad():
        want = model(torch.from_numpy(images)).numpy()
    session = make_session(path, threads=1)
    for count in (3, 1):
        (found,) = session.run(None, {"image": images[:count]})
        assert np.ptp(want) > 0
        np.testing.assert_allclose(found, want[:count], atol=1e-4 * np.abs(want).max())


def test_alexnet_has_the_synapses_that_its_readme_says(tmp_path):
    module = script("alexnet_cifar10")
    state = module.AlexNet().state_dict()
    conv = sum(value.numel() for value in state.values() if value.ndim == 4)
    dense = sum(value.numel() for value in state.values() if value.ndim == 2)
    text = (SAMPLES / "alexnet_cifar10" / "README.md").read_text(encoding="utf-8")
    for count in (conv, dense, conv + dense):
        assert f"{count:,}".replace(",", " ") in text


def test_a_structure_is_trained_from_scratch(data, tmp_path):
    """ResNet-56's baselines: fresh weights in an evolved model's graph, trained as an offspring is."""
    out, baselines = tmp_path / "out", SAMPLES / "resnet56_cifar10" / "baselines.py"
    script("resnet56_cifar10").main(["--out", str(out), *TINY, "--blocks", "1"])
    model = str(out / "resnet56.onnx")
    found = subprocess.run(
        [sys.executable, str(baselines), "scratch", "--model", model, "--like", model, "--epochs", "4"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.search(r"scratch \| 1.00x MACs .* test \d+\.\d\d \| 4 epochs, seed 0", found.stdout)
    (folder,) = (tmp_path / "runs" / "resnet56_cifar10" / "baselines").iterdir()
    given, start, end = (
        initializer_arrays(load_model(path))
        for path in (out / "resnet56.onnx", folder / "start.onnx", folder / "trained.onnx")
    )
    assert given.keys() == start.keys() == end.keys()
    for name, fresh in start.items():
        if name.endswith("weight") and fresh.ndim > 1:
            assert not np.any(fresh == given[name])
            assert not np.array_equal(fresh, end[name])
            assert 0.5 < fresh.std() * np.sqrt(fresh[0].size / 2) < 1.5
        elif ".running" in name or ".bn" in name:
            assert np.ptp(fresh) == 0


@pytest.mark.slow
def test_lenet5_on_stl10_evolves(data, tmp_path, capsys):
    """Eleven million synapses, read from and written to files as a user would."""
    out = tmp_path / "out"
    script("lenet5_stl10").main(["--out", str(out), *TINY])
    options = (
        "--gens 1 --target 0.5 --epochs 1 --recovery-epochs 1 --screen 2 --align 1 --threads 1 --max-drop 1"
    )
    run = CommandLine(capsys)(
        "evolve", out / "lenet5.onnx", *options.split(), "--out", tmp_path / "run", "--json"
    )
    assert run.code == 0, run.err
    (row,) = run.document["generations"]
    assert row["synapses_ancestor"] == 11_056_500
    assert 0.4 < row["synapses"] / row["synapses_ancestor"] <= 0.5
    assert not row["proof"]["void"]
    best = evaluate(
        tmp_path / "run" / "best.onnx", load_task(out / "lenet5.toml", load_network(out / "lenet5.onnx"))
    )
    assert best.value == run.document["best"]["score"]


# --- training


def small_set(count=70):
    rng = np.random.default_rng(3)
    labels = np.arange(count) % 10
    images = rng.integers(0, 60, (count, 1, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label + 4 : 2 * label + 7] = 255
    return images, labels.astype(np.int64)


class Dropping(lenet5.LeNet5):
    """A LeNet-5 with dropout, whose random numbers a resumed run must repeat too."""

    def forward(self, image):
        return super().forward(torch.nn.functional.dropout(image, 0.1, self.training))


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    how = Training(epochs=3, batch_size=32, flip=True)
    images, labels = small_set()
    want = train(Dropping, images, labels, how).state_dict()

    def killed(line):
        if line.startswith("epoch  2"):
            raise KeyboardInterrupt

    checkpoint = tmp_path / "training.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(Dropping, images, labels, how, killed, checkpoint)
    said = []
    found = train(Dropping, images, labels, how, said.append, checkpoint).state_dict()
    assert [line.split()[:2] for line in said[1:]] == [["epoch", "3/3"]]
    for name, value in want.items():
        assert torch.equal(value, found[name]), name
    with pytest.raises(SystemExit, match="other settings"):
        train(Dropping, images, labels, Training(epochs=4, batch_size=32), checkpoint=checkpoint)


def test_training_learns():
    images, labels = small_set(200)
    how = Training(epochs=6, batch_size=20, learning_rate=0.02, shift=1)
    assert accuracy(train(lenet5.LeNet5, images, labels, how), images, labels) > 0.9


def test_shifts_and_flips_move_whole_images():
    images = torch.zeros(200, 2, 5, 4)
    images[:, 0, 2, 1] = 1
    images[:, 1, 2, 1] = 2
    random = torch.Generator().manual_seed(0)
    moved = shifted(images, 1, True, random)
    places = {tuple(place) for place in (moved[:, 0] == 1).nonzero()[:, 1:].tolist()}
    assert places == {(row, column) for row in (1, 2, 3) for column in (0, 1, 2, 3)}
    assert torch.equal(moved[:, 1], 2 * moved[:, 0])
    plain = shifted(images, 1, False, random)
    assert set((plain[:, 0] == 1).nonzero()[:, 2].tolist()) == {0, 1, 2}
    assert shifted(images, 0, False, random) is images


# --- data


def test_mnist_is_read_in_all_its_layouts(data, tmp_path, monkeypatch):
    want = sample_data.read("mnist", None)
    assert want[0].shape == (40, 1, 28, 28)
    monkeypatch.delenv("EVONNX_DATA")
    other = tmp_path / "other"
    other.mkdir()
    for path in (data / "mnist").iterdir():
        name = path.name.removesuffix(".gz").replace("-idx", ".idx")
        write_idx(other / name, sample_data.read_idx(path, 10**6))
    keys = ("x_train", "y_train", "x_test", "y_test")
    np.savez(tmp_path / "mnist.npz", **dict(zip(keys, want, strict=True)))
    for where in (other, data / "mnist", tmp_path / "mnist.npz", tmp_path):
        for one, two in zip(sample_data.read("mnist", str(where)), want, strict=True):
            np.testing.assert_array_equal(one, two)


def test_missing_data_is_said(data, tmp_path):
    (data / "cifar-10-batches-bin" / "data_batch_3.bin").unlink()
    with pytest.raises(SystemExit, match=r"has no cifar10.*data_batch_3.bin.*neither to download"):
        sample_data.read("cifar10", None)
    (data / "stl10_binary" / "test_y.bin").write_bytes(b"\0" * 20)
    with pytest.raises(SystemExit, match="label 0 at index 0"):
        script("lenet5_stl10").main(["--out", str(tmp_path / "out"), *TINY])
    with pytest.raises(SystemExit, match="--validation must be between 0 and 40"):
        script("lenet5_mnist").main(["--out", str(tmp_path / "out"), "--validation", "40"])


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder and the address that it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_downloads_are_held_against_their_hashes(served, data, tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    folder, address = served
    archive = folder / "stl.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        for path in sorted((data / "stl10_binary").iterdir()):
            packed.add(path, f"../stl10_binary/{path.name}")
        packed.add(data / "mnist", "mnist")
    known = hashlib.md5(archive.read_bytes()).hexdigest()
    real = sample_data.SETS["stl10"]

    def promised(digest):
        made = sample_data.DataSet(real.folder, real.files, {f"{address}stl.tar.gz": f"md5:{digest}"})
        monkeypatch.setitem(sample_data.SETS, "stl10", made)

    promised("0" * 32)
    with pytest.raises(SystemExit, match="could not be downloaded: MD5 hash"):
        sample_data.download("stl10", tmp_path / "refused")
    promised(known)
    found = sample_data.download("stl10", tmp_path / "kept")
    assert sorted(path.name for path in found.iterdir()) == sorted(real.files)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["stl.tar.gz", "stl10_binary"]
    archive.unlink()
    assert sample_data.download("stl10", tmp_path / "kept") == found  # nothing is asked for twice


# --- given weights


def test_given_weights_go_into_the_graph(data, tmp_path):
    module = script("resnet56_cifar10")
    torch.manual_seed(5)
    state = perturbed(module.ResNet(1)).state_dict()
    arrays = {name: value.numpy() for name, value in state.items() if "num_batches" not in name}
    np.savez(tmp_path / "weights.npz", **arrays)
    options = ["--weights", str(tmp_path / "weights.npz"), "--blocks", "1", "--out", str(tmp_path / "out")]
    module.main([*options, *TINY])
    graph = onnx.load(tmp_path / "out" / "resnet56.onnx").graph
    found = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    np.savez(tmp_path / "weights.npz", **{**arrays, "conv1.weight": np.zeros((16, 1, 3, 3), np.float32)})
    with pytest.raises(SystemExit, match=r"conv1.weight is \[16, 1, 3, 3\], not \[16, 3, 3, 3\]"):
        module.main([*options, *TINY])
    del arrays["linear.bias"]
    np.savez(tmp_path / "weights.npz", **arrays)
    with pytest.raises(SystemExit, match=r"does not hold this network.*linear.bias"):
        module.main([*options, *TINY])


@pytest.mark.slow
def test_the_published_resnet56_is_right_on_9339_test_images(shared_data, tmp_path):
    from PIL import Image

    weights = shared_data / "weights" / "resnet56-4bfd9763.npz"
    module = script("resnet56_cifar10")
    module.write_onnx(module.with_weights(module.ResNet(), weights), tmp_path / "resnet56.onnx")
    with Image.open(shared_data / "cifar10" / "test.webp") as image:
        sheet = np.asarray(image.convert("RGB"))
    tiles = sheet.reshape(100, 32, 100, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)
    np.savez(tmp_path / "test.npz", x=tiles, y=np.load(shared_data / "cifar10" / "test.npz")["labels"])
    text = (SAMPLES / "resnet56_cifar10" / "resnet56.toml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(("train", "validation"))]
    (tmp_path / "resnet56.toml").write_text("\n".join(lines).replace("../../runs/resnet56_cifar10/", ""))
    task = load_task(tmp_path / "resnet56.toml", load_network(tmp_path / "resnet56.onnx"))
    assert evaluate(tmp_path / "resnet56.onnx", task, "test", threads=2).value == 0.9339


# --- make


def test_run_goes_on_where_it_stopped(tmp_path):
    """`samples/run.sh` with stand-ins for python and evonnx that write down how they were called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, makes in (("python", 'mkdir -p "$3"; : >"$3/net.onnx"'), ("evonnx", "mkdir -p runs/x/dense-7")):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >>calls\n{makes}\n')
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "TRAIN": "--epochs 3",
        "SEED": "7",
    }
    command = ["sh", str(SAMPLES / "run.sh"), "x", "net", "dense", "--gens", "2"]

    def calls():
        (tmp_path / "calls").write_text("")
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
        return (tmp_path / "calls").read_text().splitlines()

    evolve = "evonnx evolve runs/x/net.onnx --out runs/x/dense-7 --seed 7 --gens 2"
    assert calls() == ["python samples/x/train.py --out runs/x --epochs 3", evolve]
    assert calls() == [evolve]
    (tmp_path / "runs" / "x" / "dense-7" / "run.json").write_text("{}")
    assert calls() == [f"{evolve} --resume"]


def test_make_names_samples_and_options_that_exist():
    text = (SAMPLES.parent / "Makefile").read_text(encoding="utf-8")
    for name, options in reversed(re.findall(r"^(FREE|SHARP\w*) := (.*)$", text, re.MULTILINE)):
        text = text.replace(f"$({name})", options)
    text = text.replace("\\\n", " ")
    commands = [shlex.split(line) for line in re.findall(r"^\t\$\(SAMPLE\) (.*)$", text, re.MULTILINE)]
    shown = subprocess.run(
        [sys.executable, "-m", "evonnx", "evolve", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert len(commands) >= 7
    assert len({(name, run) for name, _, run, *_ in commands}) == len(commands)
    for name, model, _, *options in commands:
        assert (SAMPLES / name / "train.py").is_file(), name
        assert (SAMPLES / name / f"{model}.toml").is_file(), name
        assert all(one.startswith("--") for one in options[::2])
        for option, value in zip(options[::2], options[1::2], strict=True):
            assert option in shown, option
            if option == "--encoding":
                get("encodings", str(SAMPLES.parent / value))


def test_blind_encodings_do_not_see_prices() -> None:
    """What the README's comparison calls blind is the sample's encoding of a parent without prices."""
    folder = SAMPLES / "resnet56_cifar10"
    blind, sharp = (
        get("encodings", f"{file}:{name}")
        for file, name in ((folder / "variants.py", "blind"), (SAMPLES / "encodings.py", "sharp"))
    )
    network, coupling = convolutions(
        *(
            np.random.default_rng(0).normal(size=shape).astype(np.float32)
            for shape in ((6, 3, 3, 3), (4, 6, 3, 3))
        )
    )
    clusters = find_clusters(network, coupling, "channel")
    prices = {"w0": 9.0, "w1": 1.0}
    assert replace(blind, strength=sharp.strength) == sharp
    seen, unseen = (encode(network, clusters, sharp, prices=given).cluster_x for given in (prices, None))
    found = encode(network, clusters, blind, prices=prices).cluster_x
    assert np.array_equal(found, unseen)
    assert not np.array_equal(found, seen)
