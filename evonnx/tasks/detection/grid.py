"""The head of a grid detector: a coverage and a box output per cell, as DetectNet has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array, Network
from evonnx.task import Loss, Target, Term
from evonnx.tasks._settings import Settings
from evonnx.tasks.detection.decoding import Clustering, Detections, decode
from evonnx.tasks.detection.targets import Boxes, Grid, make_targets

GRID_KEYS = (
    *("coverage", "boxes", "stride", "box_scale", "shrink"),
    *("coverage_loss", "coverage_weight", "box_loss", "box_weight", "positive_weight", "per_object"),
    *("threshold", "cluster_iou", "average", "least"),
)

RANKED_FROM = 0.05
"""mAP looks at cells down to this coverage (or to `threshold`, if that is lower)."""


class GridHead:
    """See `targets` for the meaning of its outputs."""

    usual_metric = "f1"

    def __init__(self, settings: Settings, network: Network, image: tuple[int, int], classes: int) -> None:
        """Hold the settings against the model; `image` is (height, width).

        Raises:
            TaskError: they do not fit.
        """
        self._coverage, self._boxes = read_outputs(settings, network)
        self._grid = read_grid(settings, network, self._coverage, self._boxes, image, classes)
        self.size = self._grid.size
        self._positive = between(settings, "positive_weight", 1.0, 0.0, 1e9)
        coverage_loss = settings.text("coverage_loss", ("mse", "bce")) or "mse"
        box_loss = settings.text("box_loss", ("l1", "mse")) or "l1"
        self.loss = Loss(
            "terms",
            terms=(
                Term(
                    self._coverage,
                    "bce" if coverage_loss == "bce" else "mse",
                    between(settings, "coverage_weight", 1.0, 0.0, 1e9),
                ),
                Term(
                    self._boxes,
                    "l1" if box_loss == "l1" else "mse",
                    between(settings, "box_weight", 1.0, 0.0, 1e9),
                ),
            ),
        )
        self._threshold = between(settings, "threshold", 0.5, -1e9, 1e9)
        self._clustering = Clustering(
            between(settings, "cluster_iou", 0.5, 0.01, 1.0),
            settings.flag("average", True),
            settings.integer("least", 1) or 1,
        )

    def describe(self) -> str:
        """Cells and terms."""
        grid = self._grid
        terms = " + ".join(f"{term.weight:g} x {term.kind} of {term.output!r}" for term in self.loss.terms)
        return f"{grid.rows} x {grid.columns} cells of {grid.stride} pixels; {terms}"

    def working(self) -> str:
        """From where on a user would act on a detection."""
        return f"coverage {self._threshold:g}"

    def targets(self, objects: Sequence[tuple[Boxes, NDArray[np.int64]]]) -> dict[str, Target]:
        """Targets of images, from boxes in pixels and classes (-1: ignored)."""
        made = [make_targets(self._grid, boxes, classes) for boxes, classes in objects]
        coverage = np.stack([one.coverage for one in made])
        weights = np.stack([one.coverage_weights for one in made])
        weights *= np.where(coverage > 0, np.float32(self._positive), np.float32(1))
        return {
            self._coverage: Target(coverage, weights),
            self._boxes: Target(
                np.stack([one.boxes for one in made]), np.stack([one.box_weights for one in made])
            ),
        }

    def detections(self, found: Mapping[str, Array], size: int) -> Iterator[tuple[Detections, Detections]]:
        """For each image what a user would act on, and what average precision ranks.

        Raises:
            TaskError: an output's shape is not the grid's.
        """
        coverage, boxes = self._on_grid(found, size)
        for place in range(size):
            working, ranked = (
                decode(self._grid, coverage[place], boxes[place], threshold, self._clustering)
                for threshold in (self._threshold, min(RANKED_FROM, self._threshold))
            )
            yield working, ranked

    def _on_grid(self, found: Mapping[str, Array], size: int) -> tuple[Array, Array]:
        grid = self._grid
        channels = {self._coverage: grid.classes, self._boxes: 4 if grid.shared else 4 * grid.classes}
        for name, wanted in channels.items():
            shape = (size, wanted, grid.rows, grid.columns)
            if found[name].shape != shape:
                raise TaskError(
                    f"The model's output {name!r} has shape {list(found[name].shape)}; this task needs "
                    f"{list(shape)}."
                )
        return found[self._coverage], found[self._boxes]


def between(settings: Settings, key: str, default: float, low: float, high: float) -> float:
    """A number from `low` to `high`."""
    want = f"a number from {low:g} to {high:g}" if high < 1e9 else f"a number of at least {low:g}"
    found = settings.number(key, want, lambda value: low <= value <= high)
    return default if found is None else float(found)


def read_outputs(settings: Settings, network: Network) -> tuple[str, str]:
    """Names of the coverage and the box output.

    Raises:
        TaskError: the model has no such outputs, or they are one.
    """
    names = [value.name or "" for value in network.model.graph.outputs]
    chosen = []
    for key in ("coverage", "boxes"):
        name = settings.text(key, names) or key
        if name not in names:
            raise TaskError(
                f"{settings.where}: {network.source} has no output {name!r}; say which of "
                f'{", ".join(names)} it is: {key} = "...".'
            )
        chosen.append(name)
    if chosen[0] == chosen[1]:
        raise TaskError(f"{settings.where}: coverage and boxes are the same output {chosen[0]!r}.")
    return chosen[0], chosen[1]


def read_grid(
    settings: Settings, network: Network, coverage: str, boxes: str, image: tuple[int, int], classes: int
) -> Grid:
    """The grid that a model's outputs have on images of (height, width) pixels.

    Raises:
        TaskError: outputs, classes and stride do not fit together.
    """
    shape, box_shape = network.shapes.get(coverage), network.shapes.get(boxes)
    if shape is None or box_shape is None or len(shape) != 4 or len(box_shape) != 4:
        raise TaskError(
            f"{settings.where}: outputs {coverage!r} and {boxes!r} of {network.source} have shapes "
            f"{_shown(shape)} and {_shown(box_shape)}; detection needs [N, classes, rows, columns] and "
            "[N, 4 or 4 * classes, rows, columns]."
        )
    if shape[1] != classes:
        raise TaskError(
            f"{settings.where}: class_names has {classes} names that are not ignored, but output "
            f"{coverage!r} of {network.source} has shape {_shown(shape)}, one channel per class."
        )
    if box_shape[1] not in (4, 4 * classes):
        raise TaskError(
            f"{settings.where}: output {boxes!r} of {network.source} has {box_shape[1]} channels; boxes have "
            "4, or 4 per class."
        )
    stride = settings.integer("stride", 1)
    # Shapes are known for the graph's own image size; `size` may name another where that is open.
    own = _same_size(network, image)
    if stride is None and own and isinstance(shape[2], int) and shape[2]:
        stride = round(image[0] / shape[2])
    if stride is None or image[0] % stride or image[1] % stride:
        raise TaskError(
            f"{settings.where}: stride = {stride} does not divide images of {image[0]} x {image[1]} pixels; "
            "set stride to the pixels per cell, and size to a multiple of it."
        )
    rows, columns = image[0] // stride, image[1] // stride
    if own and (shape[2:] != (rows, columns) or box_shape[2:] != (rows, columns)):
        raise TaskError(
            f"{settings.where}: images of {image[0]} x {image[1]} pixels with stride {stride} make {rows} x "
            f"{columns} cells, but the outputs of {network.source} have {_shown(shape)} and "
            f"{_shown(box_shape)}."
        )
    scale = settings.number("box_scale", "a number above 0", lambda value: value > 0)
    shrink = settings.number("shrink", "a number from 0 to 1", lambda value: 0 <= value <= 1)
    return Grid(
        rows=rows,
        columns=columns,
        stride=stride,
        classes=classes,
        shared=box_shape[1] == 4,
        scale=1.0 if scale is None else float(scale),
        shrink=0.5 if shrink is None else float(shrink),
        per_object=settings.flag("per_object", True),
    )


def _shown(shape: Any) -> str:
    return "unknown" if shape is None else str(list(shape))


def _same_size(network: Network, image: tuple[int, int]) -> bool:
    """Whether the network's shapes are those for images of (height, width) pixels."""
    shape = next(iter(network.input_shapes.values()))
    return image in (tuple(shape[2:4]), tuple(shape[1:3]))
