"""The DetectNet sample: its network, its split in time, and, slowly, its script from data to evaluation."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_support import CommandLine
from PIL import Image

from evonnx.tasks.detection.targets import Grid, make_targets

torch = pytest.importorskip("torch")

SAMPLE = Path(__file__).resolve().parent.parent / "samples" / "detectnet_kitti"
RESULTS = SAMPLE.parent / "results" / "detectnet_kitti"


@pytest.fixture(autouse=True)
def torch_as_found():
    """Training scripts own their process and make torch deterministic; other tests share it."""
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def script():
    """train.py as a module."""
    spec = importlib.util.spec_from_file_location("sample_detectnet_kitti", SAMPLE / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_network_is_googlenet_at_stride_16(script):
    """Full width has the sizes of table 1 of Szegedy et al. (2015), in thousands, up to its misprints."""
    model = script.DetectNet()
    published = {"3a": 159, "3b": 380, "4a": 364, "4b": 437, "4c": 463, "4d": 580, "4e": 840}
    published |= {"5a": 1072, "5b": 1388}
    for name, thousands in published.items():
        weights = [
            m.weight.numel() for m in model.inceptions[name].modules() if isinstance(m, torch.nn.Conv2d)
        ]
        assert len(weights) == 6
        assert sum(weights) / 1024 == pytest.approx(thousands, rel=0.08)
    small = script.DetectNet(classes=2, width=0.1).eval()
    with torch.no_grad():
        coverage, boxes = small(torch.zeros(1, 3, 64, 96))
    assert coverage.shape == (1, 2, 4, 6)
    assert boxes.shape == (1, 4, 4, 6)
    assert float(coverage.max()) < 0.2


def test_a_film_is_cut_into_blocks_of_time(script):
    images = [Path(f"{index}.jpg") for index in range(268)]
    parts = script.split(images, "tracking", seed=0)
    assert {name: len(chosen) for name, chosen in parts.items()} == {
        "train": 164,
        "validation": 52,
        "test": 52,
    }
    assert parts["test"][:5].tolist() == [16, 17, 18, 19, 36]
    together = np.sort(np.concatenate(list(parts.values())))
    np.testing.assert_array_equal(together, np.arange(268))
    single = script.split(images, "object", seed=0)
    assert [len(single[name]) for name in parts] == [215, 27, 26]


def test_mirrored_targets_are_those_of_mirrored_boxes(script):
    grid = Grid(3, 5, 16, classes=1, scale=32)
    boxes = np.array([[3, 5, 31, 40], [50, 20, 71, 33]], np.float64)
    flipped = np.stack([80 - boxes[:, 2], boxes[:, 1], 80 - boxes[:, 0], boxes[:, 3]], axis=1)
    there, here = (make_targets(grid, one, np.array([0, 0])) for one in (boxes, flipped))
    got = script.mirror(torch.from_numpy(there.boxes)[None])[0].numpy()
    covered = here.box_weights > 0
    np.testing.assert_allclose(got[covered], here.boxes[covered], atol=1e-6)


def test_what_was_published_is_what_the_file_holds():
    """Counts in the record are those that `inspect` would find in best.onnx."""
    from evonnx.network import load_network
    from evonnx.resources import count

    best = json.loads((RESULTS / "run.json").read_text())["best"]
    found = count(load_network(RESULTS / "best.onnx"))
    assert (found.synapses, found.kernels, found.parameters) == (
        best["synapses"],
        best["kernels"],
        best["parameters"],
    )
    assert {"precision", "recall", "mAP"} == set(best["details"])


@pytest.mark.slow
def test_from_data_to_evaluation(tmp_path, capsys):
    """One epoch of a very thin network on noise in the sequence's layout."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / "data" / "kitti_tracking_0006" / name / "val").mkdir(parents=True)
    for index in range(20):
        folder = tmp_path / "data" / "kitti_tracking_0006"
        image = rng.integers(0, 256, (192, 640, 3)).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / "val" / f"{index:06}.jpg")
        (folder / "labels" / "val" / f"{index:06}.txt").write_text("0 0.5 0.5 0.1 0.2\n")
    out = tmp_path / "out"
    subprocess.run(
        [sys.executable, SAMPLE / "train.py", "--out", out, "--width", "0.06", "--epochs", "1"],
        check=True,
        env={**os.environ, "EVONNX_DATA": str(tmp_path / "data")},
    )
    done = CommandLine(capsys)("evaluate", out / "detectnet.onnx", "--json")
    assert done.code == 0
    assert done.document["examples"] == 4
    assert set(done.document["details"]) == {"precision", "recall", "mAP"}
