"""Bright boxes on dark images, in YOLO's and KITTI's layout, and a tiny detector for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from graph_builder import Builder
from PIL import Image

HEIGHT, WIDTH, STRIDE = 32, 48, 8
TASK = """
[task]
kind = "detection"
train = "train"
validation = "validation"
test = "test"
class_names = ["Car"]
box_scale = 8
"""
SIZES = {"train": 24, "validation": 8, "test": 9}


def detector(classes: int = 1, box_channels: int = 4, size: tuple[int | str, int | str] = (HEIGHT, WIDTH)):
    """Four convolutions to stride 8, and the two heads."""
    b = Builder(["N", 3, *size])
    y = "x"
    for inputs, outputs, stride in ((3, 8, 2), (8, 12, 2), (12, 16, 2), (16, 16, 1)):
        y = b.node("Relu", b.conv(y, inputs, outputs, 3, strides=[stride, stride], pads=[1, 1, 1, 1]))
    rows, columns = (side // STRIDE if isinstance(side, int) else f"{side}/8" for side in size)
    coverage = b.node("Sigmoid", b.conv(y, 16, classes, 1))
    b.output(coverage, ["N", classes, rows, columns], "coverage")
    b.output(b.conv(y, 16, box_channels, 1), ["N", box_channels, rows, columns], "boxes")
    return b.model()


def scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(HEIGHT, WIDTH, 3) uint8 with one or two boxes, one in each half, and their (n, 4) x1 y1 x2 y2."""
    image = rng.integers(0, 60, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    boxes = []
    for half in rng.permutation(2)[: rng.integers(1, 3)]:
        # Odd, so that no edge or centre falls on the border between two cells.
        width, height = 2 * rng.integers(5, 10, 2) + 1
        left = half * WIDTH // 2 + rng.integers(0, WIDTH // 2 - width)
        top = rng.integers(0, HEIGHT - height)
        image[top : top + height, left : left + width] = 220
        boxes.append((left, top, left + width, top + height))
    return image, np.array(boxes, np.float64)


def write_yolo(folder: Path, count: int, seed: int) -> None:
    """`count` scenes with images/ and labels/."""
    rng = np.random.default_rng([7, seed])
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        image, boxes = scene(rng)
        Image.fromarray(image).save(folder / "images" / f"{index:03}.png")
        shares = boxes / [WIDTH, HEIGHT, WIDTH, HEIGHT]
        lines = [
            f"0 {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n"
            for x1, y1, x2, y2 in shares
        ]
        (folder / "labels" / f"{index:03}.txt").write_text("".join(lines))


def write_kitti(folder: Path, count: int, seed: int, times: int = 2) -> None:
    """The same scenes with image_2/ and label_2/, `times` as large."""
    rng = np.random.default_rng([7, seed])
    for name in ("image_2", "label_2"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        image, boxes = scene(rng)
        Image.fromarray(image.repeat(times, 0).repeat(times, 1)).save(folder / "image_2" / f"{index:06}.png")
        lines = [kitti_line("Car", box * times) for box in boxes]
        (folder / "label_2" / f"{index:06}.txt").write_text("\n".join(lines))


def kitti_line(kind: str, box) -> str:
    return f"{kind} 0.00 0 1.85 {' '.join(f'{side:.2f}' for side in box)} 1.6 1.8 3.6 -16.5 2.3 58.4 1.5"


def write_case(folder: Path, text: str = TASK, write=write_yolo) -> Path:
    """Model, data and task file."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(SIZES.items()):
        write(folder / split, count, seed)
    (folder / "model.toml").write_text(text)
    onnx.save(detector(), folder / "model.onnx")
    return folder / "model.onnx"
