"""Detection on a grid: images with boxes, coverage and box terms to train, F1 or mAP to score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array, Network
from evonnx.task import Batch, Loss, Metric, Split, Target, Term
from evonnx.tasks._geometry import Geometry
from evonnx.tasks._images import Files, ImageFolder
from evonnx.tasks._inputs import GraphInput, image_size, only_input, prepare, task_settings
from evonnx.tasks._settings import Settings
from evonnx.tasks._sources import Source
from evonnx.tasks._splits import DEFAULT_SHARE, Feed, Part, complete, describe_parts, in_batches
from evonnx.tasks.detection.decoding import Clustering, decode
from evonnx.tasks.detection.labels import Objects, Vocabulary
from evonnx.tasks.detection.metrics import DetectionMetrics, Truth
from evonnx.tasks.detection.sources import Scenes, read_scenes
from evonnx.tasks.detection.targets import Grid, make_targets

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

KEYS = (
    *SPLITS,
    *("validation_share", "seed", "scale", "mean", "std", "size"),
    *("class_names", "ignore", "min_height"),
    *("coverage", "boxes", "stride", "box_scale", "shrink"),
    *("coverage_loss", "coverage_weight", "box_loss", "box_weight", "positive_weight", "per_object"),
    *("metric", "iou", "threshold", "cluster_iou", "average", "least"),
)
"""Keys of [task], beside `kind`."""

RANKED_FROM = 0.05
"""mAP looks at cells down to this coverage (or to `threshold`, if that is lower)."""

METRICS = {"f1": "F1", "map": "mAP"}


class DetectionTask:
    """Objects as boxes, found by a network with a coverage and a box output on a grid of cells (as
    DetectNet).

    Keys of [task], defaults in brackets:

    data: train, validation, test (see `sources`; at least one; `validation_share` [0.1] and `seed` [0] as for
    classification: neighbouring frames of a film are no independent validation, so give such data all three);
    `class_names`, KITTI's types, or what YOLO's indices mean; `ignore` [["DontCare"]], names that are neither
    right nor wrong; the other names are the coverage channels in order; `min_height` [0], objects lower than
    so many pixels of the model's input are ignored alike; `size` [height, width] where the graph leaves it
    open; `scale` [255], `mean` and `std` of the inputs.

    outputs (see `targets` for their meaning): `coverage` ["coverage"], `boxes` ["boxes"], `stride` [input /
    grid], `box_scale` [1: pixels], `shrink` [0.5].

    loss: `coverage_loss` ["mse"] or "bce", `box_loss` ["l1"] or "mse", with `coverage_weight` and
    `box_weight` [1]; cells that hold an object count `positive_weight` [1] times in the coverage, and only
    they count in the boxes: with `per_object` [true] large and small objects alike, see `targets.Targets`.

    score: `metric` ["f1"] or "map"; `iou` [0.5] that makes a detection right; `threshold` [0.5] on coverage;
    `cluster_iou` [0.5], `average` [true] and `least` [1], see `decoding.Clustering`.
    """

    name = "detection"

    def __init__(self, config: Mapping[str, Any], network: Network) -> None:
        """Read labels and hold the settings against the model; images are read when they are needed.

        Raises:
            TaskError: anything wrong with a key, a file or its content; both are named.
        """
        settings = task_settings(config)
        settings.only(KEYS)
        graph_input = only_input(network)
        names = settings.strings("class_names")
        if names is None:
            raise TaskError(
                f'{settings.where}: the key class_names is missing, such as class_names = ["Car"].'
            )
        self._coverage, self._boxes = _outputs(settings, network)
        size = image_size(graph_input, settings)
        if size is None:
            raise TaskError(
                f"{settings.where}: input {graph_input.name!r} of {network.source} takes no images of 1 or 3 "
                "channels, [N, C, H, W] or [N, H, W, C]; detection needs one that does."
            )
        vocabulary = Vocabulary(names, frozenset(settings.strings("ignore") or ("DontCare",)))
        classes = len(vocabulary.classes)
        self._grid = _grid(settings, network, self._coverage, self._boxes, size[:2], classes)
        self._read_rules(settings)
        self._objects: dict[str, tuple[Objects, ...]] = {}
        self._parts = self._read(settings, vocabulary, graph_input, size)

    def _read_rules(self, settings: Settings) -> None:
        """How to train and how to score."""

        def number(key: str, default: float, low: float, high: float) -> float:
            want = f"a number from {low:g} to {high:g}" if high < 1e9 else f"a number of at least {low:g}"
            found = settings.number(key, want, lambda value: low <= value <= high)
            return default if found is None else float(found)

        self._min_height = number("min_height", 0.0, 0.0, 1e9)
        self._positive = number("positive_weight", 1.0, 0.0, 1e9)
        coverage_loss = settings.text("coverage_loss", ("mse", "bce")) or "mse"
        box_loss = settings.text("box_loss", ("l1", "mse")) or "l1"
        self.loss = Loss(
            "terms",
            terms=(
                Term(
                    self._coverage,
                    "bce" if coverage_loss == "bce" else "mse",
                    number("coverage_weight", 1.0, 0.0, 1e9),
                ),
                Term(self._boxes, "l1" if box_loss == "l1" else "mse", number("box_weight", 1.0, 0.0, 1e9)),
            ),
        )
        score = METRICS[settings.text("metric", tuple(METRICS)) or "f1"]
        self.metric = Metric(score, higher_is_better=True, scale=1.0, unit="%")
        self._iou = number("iou", 0.5, 0.01, 1.0)
        self._threshold = number("threshold", 0.5, -1e9, 1e9)
        self._clustering = Clustering(
            number("cluster_iou", 0.5, 0.01, 1.0),
            settings.flag("average", True),
            settings.integer("least", 1) or 1,
        )

    def _read(
        self,
        settings: Settings,
        vocabulary: Vocabulary,
        graph_input: GraphInput,
        size: tuple[int, int, int],
    ) -> dict[Split, Part]:
        given = [split for split in SPLITS if split in settings.table]
        if not given:
            raise TaskError(f'{settings.where}: no data is named; add train = "..." and test = "...".')
        share = settings.number("validation_share", "a share between 0 and 1", lambda value: 0 < value < 1)
        parts: dict[Split, Part] = {}
        for split in given:
            scenes = read_scenes(settings, split, vocabulary)
            self._objects[scenes.name] = scenes.objects
            source = _source(scenes, size)
            every = np.arange(len(source), dtype=np.int64)
            feed = Feed(source.examples, prepare(source, graph_input, settings))
            parts[split] = Part(source, every, (feed,))
        return complete(parts, share or DEFAULT_SHARE, settings.integer("seed", 0) or 0)

    def describe(self) -> str:
        """One line: splits with files, sizes and objects, grid, loss and metric."""
        grid = self._grid
        counts = {
            split: sum(int((self._in_pixels(one)[1] >= 0).sum()) for one in self._of_part(part))
            for split, part in self._parts.items()
        }
        objects = ", ".join(f"{counts[split]} in {split}" for split in SPLITS if split in counts)
        terms = " + ".join(f"{term.weight:g} x {term.kind} of {term.output!r}" for term in self.loss.terms)
        return (
            f"detection: {describe_parts(self._parts)}; objects: {objects}; {grid.rows} x {grid.columns} "
            f"cells of {grid.stride} pixels; {terms}; {self.metric.name} at IoU {self._iou:g}, coverage "
            f"{self._threshold:g}"
        )

    def _of_part(self, part: Part) -> list[Objects]:
        objects = self._objects[part.source.name]
        return [objects[index] for index in part.indices]

    def size(self, split: Split) -> int:
        """Number of images; 0 where a split is missing."""
        return len(self._parts[split]) if split in self._parts else 0

    def batches(
        self, split: Split, batch_size: int, rng: np.random.Generator | None = None
    ) -> Iterator[Batch]:
        """Images in the graph's layout and dtype; targets for both outputs, with element weights."""
        part = self._parts.get(split)
        if part is None:
            return
        objects = self._of_part(part)
        for places in in_batches(len(part), batch_size, rng):
            targets = self._targets([objects[place] for place in places])
            yield Batch(part.inputs(places), targets, len(places))

    def _targets(self, objects: list[Objects]) -> dict[str, Target]:
        made = []
        for one in objects:
            boxes, classes = self._in_pixels(one)
            made.append(make_targets(self._grid, boxes, classes))
        coverage = np.stack([one.coverage for one in made])
        weights = np.stack([one.coverage_weights for one in made])
        weights *= np.where(coverage > 0, np.float32(self._positive), np.float32(1))
        return {
            self._coverage: Target(coverage, weights),
            self._boxes: Target(
                np.stack([one.boxes for one in made]), np.stack([one.box_weights for one in made])
            ),
        }

    def _in_pixels(self, objects: Objects) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Boxes in pixels of the model's input, classes with -1 for what is ignored."""
        boxes = objects.boxes * self._grid.size
        low = boxes[:, 3] - boxes[:, 1] < self._min_height
        return boxes, np.where(low, -1, objects.classes)

    def score(self, split: Split, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]) -> float:
        """The figure under the metric's name.

        Raises:
            TaskError: as `details`.
        """
        return self.details(split, outputs)[self.metric.name]

    def details(self, split: Split, outputs: Iterator[tuple[Batch, Mapping[str, Array]]]) -> dict[str, float]:
        """F1, precision and recall of detections from `threshold` on, and mAP.

        Raises:
            TaskError: an output's shape is not the grid's.
        """
        metrics = DetectionMetrics(self._grid.classes, self._iou)
        objects = iter(self._of_part(self._parts[split]))
        ranked_from = min(RANKED_FROM, self._threshold)
        for batch, found in outputs:
            coverage, boxes = self._on_grid(found, batch.size)
            for place in range(batch.size):
                pixels, classes = self._in_pixels(next(objects))
                truth = Truth(pixels[classes >= 0], classes[classes >= 0], pixels[classes < 0])
                working, ranked = (
                    decode(self._grid, coverage[place], boxes[place], threshold, self._clustering)
                    for threshold in (self._threshold, ranked_from)
                )
                metrics.add(working, ranked, truth)
        return metrics.figures

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


def _source(scenes: Scenes, size: tuple[int, int, int]) -> Source:
    examples = ImageFolder(Files(scenes.images), Geometry(*size[:2]), size[2])
    return Source(scenes.name, examples, None, scenes.name, channels_last=True)


def _outputs(settings: Settings, network: Network) -> tuple[str, str]:
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


def _grid(
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
