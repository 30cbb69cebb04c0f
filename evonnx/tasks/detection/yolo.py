"""YOLO's heads as they are exported: one output that lists boxes with scores, before non-maximum suppression.

    yolov8   [N, 4 + classes, places] or [N, places, 4 + classes]      box, then a probability per class
    yolov5   [N, places, 5 + classes] or [N, 5 + classes, places]      box, whether it holds an object, then
                                                                       a probability per class, given it does

A box is centre x, centre y, width, height in pixels of the model's input (`box_unit` "share": in shares of
its width and height). Places are the cells of grids of `strides` pixels, finest first, each row by row; with
`anchors` boxes per cell a grid's cells come once for each.

For training, an object belongs to the grid whose stride is nearest to an eighth of its longer side; cells of
it whose centres lie in the object, shrunk by `shrink` around its own, should say its class, as should the one
nearest to its centre. Every cell inside an object, on any grid, should say its box, whoever fires. Errors are
squared, of probabilities as they are, of boxes relative to the object's sides, and summed over an image.

That is a loss to keep a trained detector, beside what its ancestor says of the same elements (`distill`). It
is not how YOLO is trained from nothing: no assignment by the model's own answers, no overlap loss and no
distributions of sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array, Network
from evonnx.task import Loss, Target, Term
from evonnx.tasks._settings import Settings
from evonnx.tasks.detection.decoding import Clustering, Detections, cluster
from evonnx.tasks.detection.grid import between
from evonnx.tasks.detection.targets import Boxes

YOLO_KEYS = (
    *("output", "strides", "anchors", "box_unit", "shrink"),
    *("box_weight", "positive_weight", "threshold", "cluster_iou"),
)
RANKED_FROM = 0.01
"""mAP looks at boxes down to this score (or to `threshold`, if that is lower)."""
UNSURE = 0.25
"""What a class counts in cells inside an object that they were not given: they may well see it."""
USUAL_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (8,), (16,), (32,), (4,))
SIDES_PER_STRIDE = 8
"""Longer side of the objects that a grid is for, in its strides."""


class YoloHead:
    """See the head of this module."""

    usual_metric = "map"

    def __init__(
        self,
        settings: Settings,
        network: Network,
        image: tuple[int, int],
        classes: int,
        *,
        objectness: bool,
    ) -> None:
        """Hold the settings against the model; `image` is (height, width).

        Raises:
            TaskError: they do not fit.
        """
        self._classes, self._objectness = classes, objectness
        self._fields = classes + (5 if objectness else 4)
        self.size = np.array([image[1], image[0]] * 2, np.float64)
        self._output, self._last, places = self._find(settings, network)
        self._unit = self.size if settings.text("box_unit", ("pixels", "share")) == "share" else np.ones(4)
        self._centres, self._strides = self._cells(settings, image, places)
        self._shrink = between(settings, "shrink", 0.5, 0.0, 1.0)
        self._box_weight = between(settings, "box_weight", 1.0, 0.0, 1e9)
        self._positive = between(settings, "positive_weight", 1.0, 0.0, 1e9)
        self._threshold = between(settings, "threshold", 0.25, 0.0, 1.0)
        self._clustering = Clustering(between(settings, "cluster_iou", 0.45, 0.01, 1.0), average=False)
        # A term is a mean by weights, which are mostly 1 for every score: this makes it a sum.
        scores = places if objectness else classes * places
        self.loss = Loss("terms", terms=(Term(self._output, "mse", float(scores)),))

    def _find(self, settings: Settings, network: Network) -> tuple[str, bool, int]:
        """(output, whether fields are its last axis, places)."""
        names = [value.name or "" for value in network.model.graph.outputs]
        name = settings.text("output", names) or names[0]
        shape = network.shapes.get(name)
        sizes = [size if isinstance(size, int) else 0 for size in shape] if shape is not None else []
        fits = [axis for axis in (2, 1) if len(sizes) == 3 and sizes[axis] == self._fields]
        if not fits or 0 in sizes[1:]:
            box = "4 + 1" if self._objectness else "4"
            known = "an unknown shape" if shape is None else f"shape {list(shape)}"
            raise TaskError(
                f"{settings.where}: output {name!r} of {network.source} has {known}; with {self._classes} "
                f"names that are not ignored this head needs [N, places, {self._fields}] or [N, "
                f"{self._fields}, places] ({box} + classes). Name another output or class_names; models that "
                "end in NonMaxSuppression are exported without it."
            )
        axis = fits[0] if len(fits) == 1 or self._objectness else 1
        return name, axis == 2, sizes[3 - axis]

    def _cells(
        self, settings: Settings, image: tuple[int, int], places: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres (places, 2) in pixels, x and y, and strides (places,)."""
        given = settings.numbers("strides")
        anchors = settings.integer("anchors", 1) or (3 if self._objectness else 1)
        tried = USUAL_STRIDES if given is None else (tuple(int(one) for one in given),)
        for strides in tried:
            if any(stride < 1 or image[0] % stride or image[1] % stride for stride in strides):
                continue
            if anchors * sum(image[0] // one * (image[1] // one) for one in strides) != places:
                continue
            centres, sizes = [], []
            for stride in strides:
                y, x = np.meshgrid(
                    np.arange(image[0] // stride), np.arange(image[1] // stride), indexing="ij"
                )
                cells = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) * stride
                centres.append(np.tile(cells, (anchors, 1)))
                sizes.append(np.full(anchors * len(cells), float(stride)))
            return np.concatenate(centres), np.concatenate(sizes)
        shown = " or ".join(str(list(one)) for one in tried)
        raise TaskError(
            f"{settings.where}: {places} boxes are not those of grids of strides {shown} with {anchors} to a "
            f"cell on images of {image[0]} x {image[1]} pixels; set strides = [...] (pixels per cell, finest "
            "first) and anchors."
        )

    def describe(self) -> str:
        """Places and loss."""
        strides = ", ".join(f"{one:g}" for one in np.unique(self._strides))
        return f"{len(self._strides)} boxes of strides {strides}; squared errors of {self._output!r}"

    def working(self) -> str:
        """From where on a user would act on a detection."""
        return f"score {self._threshold:g}"

    def targets(self, objects: Sequence[tuple[Boxes, NDArray[np.int64]]]) -> dict[str, Target]:
        """Values and weights of one shape, the output's; see the head of this module."""
        made = [self._targets(boxes, classes) for boxes, classes in objects]
        values, weights = (np.stack([one[part] for one in made]) for part in (0, 1))
        if not self._last:
            values, weights = values.transpose(0, 2, 1), weights.transpose(0, 2, 1)
        return {self._output: Target(np.ascontiguousarray(values), np.ascontiguousarray(weights))}

    def _targets(
        self, boxes: Boxes, classes: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(places, fields) of one image."""
        first = self._fields - self._classes
        values = np.zeros((len(self._strides), self._fields), np.float32)
        weights = np.zeros_like(values)
        weights[:, 4:first] = 1  # objectness
        weights[:, first:] = 0 if self._objectness else 1
        for box in boxes[classes < 0]:
            weights[self._inside(box, 1.0), 4:] = 0
        # Largest first, so that the smallest has the last word.
        sides = boxes[:, 2:] - boxes[:, :2]
        order = np.argsort(-sides.prod(axis=1), kind="stable")
        for index in order[classes[order] >= 0]:
            box, side = boxes[index], np.maximum(sides[index], 1.0)
            within = self._inside(box, 1.0)
            own = self._own_cells(box)
            said = within | own
            middle = (box[:2] + box[2:]) / 2
            values[said, :4] = np.concatenate([middle, sides[index]]) / self._unit
            weights[said, :4] = self._box_weight * np.square(self._unit / np.tile(side, 2))
            values[said, 4:] = 0
            weights[said, 4:] = UNSURE
            values[own, 4:first] = 1
            values[own, first + int(classes[index])] = 1
            weights[own, 4:] = 1
            weights[own, 4:first] = self._positive
            weights[own, first + int(classes[index])] = self._positive
        return values, weights

    def _inside(self, box: Boxes, shrink: float) -> NDArray[np.bool_]:
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * shrink
        found: NDArray[np.bool_] = np.all(np.abs(self._centres - middle) <= half, axis=1)
        return found

    def _own_cells(self, box: Boxes) -> NDArray[np.bool_]:
        """Cells that should say an object."""
        strides = np.unique(self._strides)
        longer = max(1.0, float((box[2:] - box[:2]).max()))
        stride = strides[np.argmin(np.abs(np.log(longer / (SIDES_PER_STRIDE * strides))))]
        grid = self._strides == stride
        distance = np.abs(self._centres - (box[:2] + box[2:]) / 2).max(axis=1)
        nearest = distance <= distance[grid].min() + 1e-9
        found: NDArray[np.bool_] = grid & (self._inside(box, self._shrink) | nearest)
        return found

    def detections(self, found: Mapping[str, Array], size: int) -> Iterator[tuple[Detections, Detections]]:
        """See `heads.DetectionHead`.

        Raises:
            TaskError: the output has another shape.
        """
        output, places = found[self._output], len(self._strides)
        shape = (size, places, self._fields) if self._last else (size, self._fields, places)
        if output.shape != shape:
            raise TaskError(
                f"The model's output {self._output!r} has shape {list(output.shape)}; this task needs "
                f"{list(shape)}."
            )
        for rows in output if self._last else output.transpose(0, 2, 1):
            ranked = self._decoded(rows.astype(np.float64), min(RANKED_FROM, self._threshold))
            yield ranked.above(self._threshold), ranked

    def _decoded(self, rows: NDArray[np.float64], threshold: float) -> Detections:
        """Boxes of one image, (places, fields), suppressed class by class."""
        first = self._fields - self._classes
        sides = rows[:, 2:4] * self._unit[2:]
        middle = rows[:, :2] * self._unit[:2]
        boxes = np.concatenate([middle - sides / 2, middle + sides / 2], axis=1)
        with np.errstate(invalid="ignore"):  # comparisons with NaN are false
            usable = np.isfinite(boxes).all(axis=1) & (sides > 0).all(axis=1)
            scores = rows[:, first:] * (rows[:, 4:5] if self._objectness else 1.0)
            chosen = usable[:, None] & (scores >= threshold) & np.isfinite(scores)
        kept = [
            (*cluster(boxes[chosen[:, kind]], scores[chosen[:, kind], kind], self._clustering), kind)
            for kind in range(self._classes)
        ]
        return Detections(
            np.concatenate([one for one, _, _ in kept]),
            np.concatenate([certain for _, certain, _ in kept]),
            np.concatenate([np.full(len(one), kind, np.int64) for one, _, kind in kept]),
        )
