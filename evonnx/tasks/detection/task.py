"""Detection: images with boxes, a head's terms to train, F1 or mAP to score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array, Network
from evonnx.task import Batch, Metric, Split
from evonnx.tasks._settings import Settings
from evonnx.tasks.data.geometry import Geometry
from evonnx.tasks.data.images import Files, ImageFolder
from evonnx.tasks.data.inputs import GraphInput, image_size, only_input, prepare, task_settings
from evonnx.tasks.data.sources import Source
from evonnx.tasks.data.splits import DEFAULT_SHARE, Feed, Part, complete, describe_parts, in_batches
from evonnx.tasks.detection.grid import between
from evonnx.tasks.detection.heads import keys_of, make_head
from evonnx.tasks.detection.labels import Objects, Vocabulary
from evonnx.tasks.detection.metrics import DetectionMetrics, Truth
from evonnx.tasks.detection.sources import Scenes, read_scenes

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

KEYS = (
    *SPLITS,
    *("validation_share", "seed", "scale", "mean", "std", "channel_order", "size"),
    *("class_names", "ignore", "min_height"),
    *("head", "metric", "iou"),
)
"""Keys of [task], beside `kind` and those of the head."""

METRICS = {"f1": "F1", "map": "mAP"}


class DetectionTask:
    """Objects as boxes, found by a network with a coverage and a box output on a grid of cells (`head`
    "grid", as DetectNet), or with one list of boxes as YOLO exports it ("yolov8", "yolov5").

    Keys of [task], defaults in brackets:

    data: train, validation, test (see `sources`; at least one; `validation_share` [0.1] and `seed` [0] as for
    classification: neighbouring frames of a film are no independent validation, so give such data all three);
    `class_names`, KITTI's types, or what YOLO's indices mean; `ignore` [["DontCare"]], names that are neither
    right nor wrong; the other names are the coverage channels in order; `min_height` [0], objects lower than
    so many pixels of the model's input are ignored alike; `size` [height, width] where the graph leaves it
    open; `scale` [255], `mean`, `std` and `channel_order` of the inputs. `metric` is "f1" or "map" (usual for
    YOLO); `iou` [0.5] makes a detection right.

    YOLO's heads (see `yolo`): `output` [the first], `strides` and `anchors` per cell [by the number of
    boxes], `box_unit` ["pixels"] or "share"; `shrink` [0.5], `positive_weight` and `box_weight` [1];
    `threshold` [0.25] of scores, `cluster_iou` [0.45] of non-maximum suppression.

    The grid's head follows.

    outputs (see `targets` for their meaning): `coverage` ["coverage"], `boxes` ["boxes"], `stride` [input /
    grid], `box_scale` [1: pixels], `shrink` [0.5].

    loss: `coverage_loss` ["mse"] or "bce", `box_loss` ["l1"] or "mse", with `coverage_weight` and
    `box_weight` [1]; cells that hold an object count `positive_weight` [1] times in the coverage, and only
    they count in the boxes: with `per_object` [true] large and small objects alike, see `targets.Targets`.

    score: `threshold` [0.5] on coverage; `cluster_iou` [0.5], `average` [true] and `least` [1], see
    `decoding.Clustering`.
    """

    name = "detection"

    def __init__(self, config: Mapping[str, Any], network: Network) -> None:
        """Read labels and hold the settings against the model; images are read when they are needed.

        Raises:
            TaskError: anything wrong with a key, a file or its content; both are named.
        """
        settings = task_settings(config)
        settings.only((*KEYS, *keys_of(settings)))
        graph_input = only_input(network)
        names = settings.strings("class_names")
        if names is None:
            raise TaskError(
                f'{settings.where}: the key class_names is missing, such as class_names = ["Car"].'
            )
        size = image_size(graph_input, settings)
        if size is None:
            raise TaskError(
                f"{settings.where}: input {graph_input.name!r} of {network.source} takes no images of 1 or 3 "
                "channels, [N, C, H, W] or [N, H, W, C]; detection needs one that does."
            )
        vocabulary = Vocabulary(names, frozenset(settings.strings("ignore") or ("DontCare",)))
        classes = len(vocabulary.classes)
        self._head = make_head(settings, network, size[:2], classes)
        self._classes = classes
        self._min_height = between(settings, "min_height", 0.0, 0.0, 1e9)
        self._iou = between(settings, "iou", 0.5, 0.01, 1.0)
        self.loss = self._head.loss
        score = METRICS[settings.text("metric", tuple(METRICS)) or self._head.usual_metric]
        self.metric = Metric(score, higher_is_better=True, scale=1.0, unit="%")
        self._objects: dict[str, tuple[Objects, ...]] = {}
        self._parts = self._read(settings, vocabulary, graph_input, size)

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
        counts = {
            split: sum(int((self._in_pixels(one)[1] >= 0).sum()) for one in self._of_part(part))
            for split, part in self._parts.items()
        }
        objects = ", ".join(f"{counts[split]} in {split}" for split in SPLITS if split in counts)
        return (
            f"detection: {describe_parts(self._parts)}; objects: {objects}; {self._head.describe()}; "
            f"{self.metric.name} at IoU {self._iou:g}, {self._head.working()}"
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
            targets = self._head.targets([self._in_pixels(objects[place]) for place in places])
            yield Batch(part.inputs(places), targets, len(places))

    def _in_pixels(self, objects: Objects) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Boxes in pixels of the model's input, classes with -1 for what is ignored."""
        boxes = objects.boxes * self._head.size
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
            TaskError: an output's shape is not what the head's should be.
        """
        metrics = DetectionMetrics(self._classes, self._iou)
        objects = iter(self._of_part(self._parts[split]))
        for batch, found in outputs:
            for working, ranked in self._head.detections(found, batch.size):
                pixels, classes = self._in_pixels(next(objects))
                truth = Truth(pixels[classes >= 0], classes[classes >= 0], pixels[classes < 0])
                metrics.add(working, ranked, truth)
        return metrics.figures


def _source(scenes: Scenes, size: tuple[int, int, int]) -> Source:
    examples = ImageFolder(Files(scenes.images), Geometry(*size[:2]), size[2])
    return Source(scenes.name, examples, None, scenes.name, channels_last=True)
