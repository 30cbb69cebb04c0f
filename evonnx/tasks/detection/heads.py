"""Which outputs a detector has: how objects become targets, and outputs detections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evonnx.network import Array, Network
from evonnx.task import Loss, Target
from evonnx.tasks._settings import Settings
from evonnx.tasks.detection.decoding import Detections
from evonnx.tasks.detection.grid import GRID_KEYS, GridHead
from evonnx.tasks.detection.targets import Boxes
from evonnx.tasks.detection.yolo import YOLO_KEYS, YoloHead

HEADS = ("grid", "yolov8", "yolov5")


class DetectionHead(Protocol):
    """One way to say where objects are."""

    loss: Loss
    size: NDArray[np.float64]
    """(4,): width, height, width, height of the input in pixels."""
    usual_metric: str

    def describe(self) -> str:
        """Outputs and loss, in words."""
        ...

    def working(self) -> str:
        """From where on a user would act on a detection, in words."""
        ...

    def targets(self, objects: Sequence[tuple[Boxes, NDArray[np.int64]]]) -> dict[str, Target]:
        """Targets of images, from boxes (n, 4) in pixels of the input and classes (n,), -1 where ignored."""
        ...

    def detections(self, found: Mapping[str, Array], size: int) -> Iterator[tuple[Detections, Detections]]:
        """For each of `size` images what a user would act on, and what average precision ranks.

        Raises:
            TaskError: outputs have other shapes than the head's.
        """
        ...


def keys_of(settings: Settings) -> tuple[str, ...]:
    """Keys of [task] that the head knows."""
    return GRID_KEYS if _name(settings) == "grid" else YOLO_KEYS


def make_head(settings: Settings, network: Network, image: tuple[int, int], classes: int) -> DetectionHead:
    """The head that a task file asks for; `image` is (height, width).

    Raises:
        TaskError: the model has no such outputs, or a setting is wrong.
    """
    name = _name(settings)
    if name == "grid":
        return GridHead(settings, network, image, classes)
    return YoloHead(settings, network, image, classes, objectness=name == "yolov5")


def _name(settings: Settings) -> str:
    return settings.text("head", HEADS) or "grid"
