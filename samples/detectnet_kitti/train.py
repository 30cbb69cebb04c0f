"""Train the ancestor of the paper's third experiment: DetectNet on KITTI.

    python samples/detectnet_kitti/train.py --data FOLDER [--set tracking] [--out runs/detectnet_kitti]
           [--width 0.25] [--epochs 60] [--bfloat16] [--seed 0]

FOLDER (or EVONNX_DATA) holds, for `--set tracking`, kitti_tracking_0006/ with images/ and labels/ in YOLO's
layout; for `--set object`, kitti/training/ (or training/) with KITTI's own image_2/ and label_2/.
Written to --out: train.txt, validation.txt and test.txt (lists of images, which stay where they are),
detectnet.toml and detectnet.onnx.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from model import STRIDE, DetectNet  # noqa: E402

from evonnx.durable import write_whole  # noqa: E402
from evonnx.evaluation import evaluate  # noqa: E402
from evonnx.network import load_network  # noqa: E402
from evonnx.task import Batch, Task  # noqa: E402
from evonnx.tasks import load_task  # noqa: E402

BLOCK, TRAIN, VALIDATION = 20, 12, 4
"""Of every 20 frames in a row the first 12 train, the next 4 validate, the last 4 test."""
COVERAGE_WEIGHT = 10.0
"""As in the task file."""
SIZES = {"tracking": (192, 640), "object": (384, 1248)}
"""(height, width) of the input."""


def main() -> None:
    arguments = parser().parse_args()
    where = arguments.data or os.environ.get("EVONNX_DATA")
    if where is None:
        sys.exit("Where is KITTI? Give --data FOLDER or set EVONNX_DATA.")
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    images = find_images(Path(where), arguments.set)
    for name, chosen in split(images, arguments.set, arguments.seed).items():
        lines = [f"{images[index].resolve()}\n" for index in chosen]
        (out / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    shutil.copyfile(HERE / "detectnet.toml", out / "detectnet.toml")

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    model = DetectNet(width=arguments.width)
    height, width = SIZES[arguments.set]
    ancestor = out / "detectnet.onnx"
    write_onnx(model, ancestor, height, width)  # untrained: the task reads its shapes
    task = load_task(out / "detectnet.toml", load_network(ancestor))
    print(task.describe(), flush=True)
    train(model, task, arguments)
    write_onnx(model, ancestor, height, width)
    for name in ("validation", "test"):
        score = evaluate(ancestor, task, name, threads=arguments.threads)
        figures = {score.metric: score.value, **score.details}
        print(f"{name:10}", ", ".join(f"{key} {value:.2%}" for key, value in figures.items()))
    print(f"written to {out}")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description="Train DetectNet on KITTI and write it as ONNX.")
    options.add_argument("--data", help="folder with the data (else EVONNX_DATA)")
    options.add_argument("--set", choices=sorted(SIZES), default="tracking")
    options.add_argument("--out", type=Path, default=Path("runs/detectnet_kitti"))
    options.add_argument("--width", type=float, default=0.25, help="multiplies GoogLeNet's channels")
    options.add_argument("--epochs", type=int, default=60)
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    options.add_argument(
        "--bfloat16", action="store_true", help="faster where the processor has it (AVX-512 BF16, AMX)"
    )
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=1)
    return options


def find_images(where: Path, kind: str) -> list[Path]:
    """Every image of the set, by name."""
    candidates = {
        "tracking": ("kitti_tracking_0006/images", "images"),
        "object": ("kitti/training/image_2", "training/image_2", "image_2"),
    }[kind]
    for name in candidates:
        if (where / name).is_dir():
            found = sorted(path for path in (where / name).rglob("*") if path.suffix in (".jpg", ".png"))
            if found:
                return found
    sys.exit(f"{where} has no images in {' or '.join(candidates)}.")


def split(images: Sequence[Path], kind: str, seed: int) -> dict[str, NDArray[np.int64]]:
    """Indices by split. A film is cut into blocks of time; single images into seeded tenths: 8 train, 1
    validates, 1 tests."""
    place = np.arange(len(images))
    if kind == "tracking":
        place, limits = place % BLOCK, (TRAIN, TRAIN + VALIDATION)
    else:
        place = np.random.default_rng(seed).permutation(len(images)) * 10 // len(images)
        limits = (8, 9)
    return {
        "train": np.flatnonzero(place < limits[0]),
        "validation": np.flatnonzero((place >= limits[0]) & (place < limits[1])),
        "test": np.flatnonzero(place >= limits[1]),
    }


def train(model: DetectNet, task: Task, how: argparse.Namespace) -> None:
    """AdamW under a one-cycle schedule; brightness and contrast vary. Single images are mirrored half of the
    time; the tracking sequence's camera stands still and never sees its scene mirrored."""
    model.to(memory_format=torch.channels_last)
    random = np.random.default_rng(how.seed)
    steps = -(-task.size("train") // how.batch)
    optimizer = torch.optim.AdamW(model.parameters(), how.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, how.rate, total_steps=steps * how.epochs, pct_start=0.2
    )
    for epoch in range(1, how.epochs + 1):
        started, total = time.perf_counter(), np.zeros(2)
        model.train()
        for batch in task.batches("train", how.batch, random):
            mirrored = how.set == "object" and random.random() < 0.5
            with torch.autocast("cpu", torch.bfloat16, enabled=how.bfloat16):
                losses = loss_of(model, batch, mirrored, random)
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += [loss.item() / steps for loss in losses]
        seconds = time.perf_counter() - started
        print(
            f"epoch {epoch:2d}/{how.epochs}  coverage {total[0]:.4f}  boxes {total[1]:.4f}  {seconds:.1f} s",
            flush=True,
        )
    model.eval()


def loss_of(
    model: DetectNet, batch: Batch, mirrored: bool, random: np.random.Generator
) -> list[torch.Tensor]:
    """The task's two terms on a batch, varied."""
    assert isinstance(batch.targets, dict)
    (image,) = (torch.from_numpy(array) for array in batch.inputs.values())
    count = len(image)
    contrast = torch.from_numpy(random.uniform(0.7, 1.3, (count, 1, 1, 1)).astype(np.float32))
    brightness = torch.from_numpy(random.uniform(-0.15, 0.15, (count, 1, 1, 1)).astype(np.float32))
    image = ((image - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)
    coverage, coverage_weights, boxes, box_weights = (
        torch.from_numpy(np.asarray(array)) for name in ("coverage", "boxes") for array in batch.targets[name]
    )
    if mirrored:
        image, coverage, coverage_weights = image.flip(-1), coverage.flip(-1), coverage_weights.flip(-1)
        boxes, box_weights = mirror(boxes), box_weights.flip(-1)
    found_coverage, found_boxes = model(image.contiguous(memory_format=torch.channels_last))
    with torch.autocast("cpu", enabled=False):
        entropy = F.binary_cross_entropy(found_coverage.float(), coverage, coverage_weights, reduction="sum")
    error = ((found_boxes - boxes).abs() * box_weights).sum()
    return [COVERAGE_WEIGHT * entropy / coverage_weights.sum(), error / box_weights.sum().clamp_min(1)]


def mirror(boxes: torch.Tensor) -> torch.Tensor:
    """Box targets of the mirrored image: the left edge's offset is minus what the right one's was."""
    return boxes.flip(-1)[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1.0, -1.0, 1.0])[:, None, None]


def write_onnx(model: DetectNet, path: Path, height: int, width: int) -> None:
    """Write the network as ONNX: "image" [batch, 3, H, W] to "coverage" and "boxes"."""
    assert height % STRIDE == width % STRIDE == 0
    training = model.training
    program = torch.onnx.export(
        model.eval(),
        (torch.zeros(2, 3, height, width),),
        input_names=["image"],
        output_names=["coverage", "boxes"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        part.ClearField("metadata_props")  # where in this script each node comes from, with paths
    write_whole(path, proto.SerializeToString())
    model.train(training)


if __name__ == "__main__":
    main()
