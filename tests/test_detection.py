"""Detection: labels, targets and decoding, metrics by hand, and the task itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from detection_support import SIZES, TASK, detector, kitti_line, write_case, write_kitti, write_yolo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evonnx.errors import TaskError
from evonnx.evaluation import evaluate
from evonnx.network import load_network
from evonnx.task import Detailed
from evonnx.tasks import load_task
from evonnx.tasks.detection.decoding import Clustering, Detections, cluster, decode, overlaps
from evonnx.tasks.detection.labels import Vocabulary, read_kitti, read_yolo
from evonnx.tasks.detection.metrics import DetectionMetrics, Truth, average_precision, judge
from evonnx.tasks.detection.sources import label_file
from evonnx.tasks.detection.targets import Grid, make_targets
from evonnx.testing import TaskContract

CARS = Vocabulary(("Car", "Van", "Truck"), frozenset({"DontCare", "Van"}))

# --- labels


def test_kitti_labels(tmp_path):
    path = tmp_path / "000000.txt"
    lines = [
        kitti_line("Truck", (10, 20, 60, 70)),
        kitti_line("Pedestrian", (0, 0, 5, 5)),
        "",
        kitti_line("Car", (-10, 50, 20, 300)),
        kitti_line("DontCare", (80, 80, 90, 90)),
        kitti_line("Van", (0, 0, 100, 100)),
        kitti_line("Car", (300, 0, 400, 10)),
    ]
    path.write_text("\r\n".join(lines))
    found = read_kitti(path, (200, 100), CARS)
    # Pedestrians are background; the last car lies outside the image.
    assert found.classes.tolist() == [1, 0, -1, -1]
    np.testing.assert_allclose(
        found.boxes, [[0.05, 0.2, 0.3, 0.7], [0, 0.5, 0.1, 1], [0.4, 0.8, 0.45, 0.9], [0, 0, 0.5, 1]]
    )


def test_yolo_labels(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("0 0.5 0.5 0.2 0.4\n\n2 0.95 0.1 0.2 0.2\n1 0.5 0.5 1 1\n")
    found = read_yolo(path, CARS)
    assert found.classes.tolist() == [0, 1, -1]
    np.testing.assert_allclose(
        found.boxes, [[0.4, 0.3, 0.6, 0.7], [0.85, 0, 1, 0.2], [0, 0, 1, 1]], atol=1e-9
    )


@pytest.mark.parametrize(
    ("layout", "text", "says"),
    [
        ("kitti", "\nCar 0 0 1 2 3", "line 2: it has 6 fields, a KITTI label has 15"),
        ("kitti", kitti_line("Car", (1, 2, 3, 4)).replace("3.00", "x"), "line 1: 'x' is not a finite number"),
        ("kitti", kitti_line("Car", (1, 2, 3, 4)).replace("3.00", "nan"), "'nan' is not a finite number"),
        ("kitti", kitti_line("Car", (9, 2, 3, 4)), "the box 9.00 2.00 3.00 4.00 ends before it begins"),
        ("yolo", "0 0.5 0.5 0.5", "line 1: it has 4 fields, a YOLO label has 5"),
        ("yolo", "0 0.1 0.1 0.1 0.1\n-1 0.1 0.1 0.1 0.1", "line 2: its class '-1' is not a whole number"),
        ("yolo", "1.5 0.1 0.1 0.1 0.1", "its class '1.5' is not a whole number"),
        ("yolo", "3 0.1 0.1 0.1 0.1", "its class is 3, but class_names has 0 Car, 1 Van, 2 Truck"),
        ("yolo", "0 0.1 inf 0.1 0.1", "'inf' is not a finite number"),
        ("yolo", "0 10 20 30 40", "outside [0, 1]; YOLO boxes are shares"),
        ("yolo", b"\xff\xfe\x00", "is not text"),
        ("yolo", b" " * (2**20 + 1), "is larger than"),
    ],
)
def test_malformed_labels_name_file_and_line(tmp_path, layout, text, says):
    path = tmp_path / "frame.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TaskError, match=r"frame\.txt") as caught:
        _ = read_kitti(path, (200, 100), CARS) if layout == "kitti" else read_yolo(path, CARS)
    assert says in str(caught.value)


@given(text=st.text(alphabet="0123456789. -+eCarnif\n\tx", max_size=120))
def test_no_text_breaks_the_readers(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "a.txt"
    path.write_text(text)
    for read in (lambda: read_yolo(path, CARS), lambda: read_kitti(path, (50, 40), CARS)):
        try:
            found = read()
        except TaskError:
            continue
        assert np.all((found.boxes >= 0) & (found.boxes <= 1))
        assert np.all(found.boxes[:, :2] < found.boxes[:, 2:])


def test_label_files_lie_beside_images(tmp_path):
    image = tmp_path / "images" / "x" / "images" / "val" / "a.b.jpg"
    assert label_file(image) == (tmp_path / "images" / "x" / "labels" / "val" / "a.b.txt", "images")
    assert label_file(tmp_path / "image_2" / "1.png") == (tmp_path / "label_2" / "1.txt", "image_2")
    with pytest.raises(TaskError, match="cannot be found"):
        label_file(tmp_path / "photos" / "1.png")


# --- targets and decoding

TILE = 4
"""Cells between objects that cannot touch."""


@st.composite
def grids_with_objects(draw):
    """A grid, and objects in tiles of their own."""
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    classes = draw(st.integers(1, 3))
    stride = draw(st.sampled_from([4, 8, 16]))
    grid = Grid(
        rows * TILE,
        columns * TILE,
        stride,
        classes,
        shared=draw(st.booleans()),
        scale=draw(st.sampled_from([1.0, 32.0])),
        shrink=draw(st.sampled_from([0.0, 0.4, 1.0])),
    )
    boxes, kinds = [], []
    for row in range(rows):
        for column in range(columns):
            if draw(st.booleans()):
                continue
            size = st.integers(1, TILE * stride)
            width, height = draw(size), draw(size)
            left = column * TILE * stride + draw(st.integers(0, TILE * stride - width))
            top = row * TILE * stride + draw(st.integers(0, TILE * stride - height))
            boxes.append((left, top, left + width, top + height))
            kinds.append(draw(st.integers(0, classes - 1)))
    return grid, np.array(boxes, np.float64).reshape(-1, 4), np.array(kinds, np.int64)


@given(case=grids_with_objects(), average=st.booleans())
def test_what_targets_say_is_decoded(case, average):
    """Perfect outputs give back every object, once."""
    grid, boxes, kinds = case
    targets = make_targets(grid, boxes, kinds)
    assert targets.coverage.shape == (grid.classes, grid.rows, grid.columns)
    found = decode(grid, targets.coverage, targets.boxes, 0.5, Clustering(0.9, average))
    wanted = sorted((int(kind), *box) for kind, box in zip(kinds, boxes, strict=True))
    got = sorted((int(kind), *np.round(box, 2)) for kind, box in zip(found.classes, found.boxes, strict=True))
    assert got == wanted
    np.testing.assert_array_equal(found.scores, 1)


@given(case=grids_with_objects())
def test_boxes_count_exactly_where_objects_are(case):
    grid, boxes, kinds = case
    targets = make_targets(grid, boxes, kinds)
    covered = targets.coverage.max(axis=0, keepdims=True) if grid.shared else targets.coverage
    np.testing.assert_array_equal(targets.box_weights > 0, np.repeat(covered, 4, axis=0) > 0)
    assert not targets.boxes[targets.box_weights == 0].any()
    # Every object counts alike: its sides' weights times their lengths add up to twice the stride per axis.
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1)
    wanted = sum(2 * grid.stride / side for pair in sides for side in pair)
    assert targets.box_weights.sum() == pytest.approx(wanted, rel=1e-4)
    every_cell = make_targets(replace(grid, per_object=False), boxes, kinds)
    np.testing.assert_array_equal(every_cell.box_weights, targets.box_weights > 0)
    assert targets.coverage_weights.all()


def test_targets_by_hand():
    """3 x 4 cells of 10 pixels: a wide object over two centres, a small one inside it, an ignored region."""
    grid = Grid(3, 4, 10, classes=1, scale=2.0, shrink=1.0)
    boxes = np.array([[0, 0, 20, 10], [12, 2, 18, 8], [20, 10, 40, 30]], np.float64)
    targets = make_targets(grid, boxes, np.array([0, 0, -1]))
    assert targets.coverage[0].tolist() == [[1, 1, 0, 0], [0] * 4, [0] * 4]
    assert targets.coverage_weights[0].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert targets.boxes[:, 0, 0].tolist() == [-2.5, -2.5, 7.5, 2.5]
    assert targets.boxes[:, 0, 1].tolist() == [-1.5, -1.5, 1.5, 1.5]  # the smallest claims a cell


@pytest.mark.parametrize(
    ("clustering", "boxes", "scores"),
    [
        (Clustering(0.5), [[0.4, 0, 10.4, 10], [50, 0, 60, 10]], [0.9, 0.7]),
        (Clustering(0.5, average=False), [[0, 0, 10, 10], [50, 0, 60, 10]], [0.9, 0.7]),
        (Clustering(0.5, least=2), [[0.4, 0, 10.4, 10]], [0.9]),
        (Clustering(0.9, average=False), [[0, 0, 10, 10], [50, 0, 60, 10], [1, 0, 11, 10]], [0.9, 0.7, 0.6]),
    ],
)
def test_clusters_by_hand(clustering, boxes, scores):
    given_boxes = np.array([[50, 0, 60, 10], [0, 0, 10, 10], [1, 0, 11, 10]], np.float64)
    found, certain = cluster(given_boxes, np.array([0.7, 0.9, 0.6]), clustering)
    np.testing.assert_allclose(found, boxes, atol=1e-6)
    np.testing.assert_allclose(certain, scores)


def test_neighbours_are_not_chained():
    """Each box overlaps the next by half, the ends not at all: two groups, not one."""
    boxes = np.array([[3 * i, 0, 3 * i + 9, 9] for i in range(4)], np.float64)
    found, _ = cluster(boxes, np.array([0.9, 0.8, 0.8, 0.9]), Clustering(0.5))
    assert len(found) == 2


def test_damaged_outputs_are_no_objects():
    grid = Grid(2, 2, 8, classes=1)
    coverage = np.array([[[np.nan, 1], [1, 1]]], np.float32)
    boxes = np.tile(np.array([-4, -4, 4, 4], np.float32)[:, None, None], (1, 2, 2))
    boxes[:, 0, 1] = np.inf
    boxes[0, 1, 0] = 9  # ends before it begins
    found = decode(grid, coverage, boxes, 0.5, Clustering())
    assert found.boxes.tolist() == [[8, 8, 16, 16]]


# --- metrics


@pytest.mark.parametrize(
    ("one", "other", "iou"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
        ([0, 0, 10, 10], [5, 0, 15, 10], 50 / 150),
        ([0, 0, 10, 10], [10, 0, 20, 10], 0.0),
        ([0, 0, 10, 10], [2, 2, 4, 4], 0.04),
        ([3, 3, 3, 3], [3, 3, 3, 3], 0.0),
    ],
)
def test_overlaps_by_hand(one, other, iou):
    assert overlaps(np.array([one], float), np.array([other], float)).tolist() == [[iou]]


def found(*rows):
    """Detections from (x1, y1, x2, y2, score, class)."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def truth(*rows, ignored=()):
    table = np.array(rows, np.float64).reshape(-1, 5)
    return Truth(table[:, :4], table[:, 4].astype(np.int64), np.array(ignored, np.float64).reshape(-1, 4))


CAR, OTHER = (0, 0, 10, 10), (50, 50, 70, 60)


@pytest.mark.parametrize(
    ("detections", "objects", "verdicts"),
    [
        (found((*CAR, 0.9, 0), (*CAR, 0.8, 0)), truth((*CAR, 0)), [1, 0]),  # each object once
        (found((*CAR, 0.9, 0)), truth((*CAR, 1)), [0]),  # another class
        (found((*CAR, 0.9, 1)), truth((*CAR, 0)), []),
        (found((*CAR, 0.9, 0)), truth(), [0]),
        (found((*CAR, 0.9, 0)), truth(ignored=[CAR]), [-1]),
        (found((2, 2, 4, 4, 0.9, 0)), truth(ignored=[CAR]), [-1]),  # inside a region
        (found((0, 0, 40, 10, 0.9, 0)), truth(ignored=[CAR]), [0]),  # a quarter inside
        (found((*CAR, 0.9, 0)), truth((*CAR, 0), ignored=[CAR]), [1]),  # right goes before ignored
        (found((0, 0, 10, 8, 0.9, 0), (*CAR, 0.8, 0)), truth((*CAR, 0), (0, 0, 10, 8, 0)), [1, 1]),
    ],
)
def test_verdicts_by_hand(detections, objects, verdicts):
    assert judge(detections, objects, 0, 0.7).tolist() == verdicts


def test_figures_by_hand():
    """Two images, two classes. Class 0: right 0.9, wrong 0.8, right 0.7 of 3 objects: AP = (1 + 2/3) / 3.
    Class 1: nothing found of one object: AP = 0. A class that has no objects does not count."""
    metrics = DetectionMetrics(3, 0.7)
    one = found((*CAR, 0.9, 0), (200, 0, 210, 10, 0.8, 0), (*OTHER, 0.7, 0))
    metrics.add(one.above(0.75), one, truth((*CAR, 0), (*OTHER, 0), (100, 100, 120, 120, 1)))
    metrics.add(found(), found(), truth((*CAR, 0)))
    assert metrics.figures == pytest.approx(
        {"F1": 2 / 6, "precision": 1 / 2, "recall": 1 / 4, "mAP": (5 / 3) / 3 / 2}
    )


def test_nothing_to_find_and_nothing_found():
    metrics = DetectionMetrics(1, 0.7)
    metrics.add(found(), found(), truth())
    assert metrics.figures == {"F1": 0, "precision": 0, "recall": 0, "mAP": 0}


@given(right=st.lists(st.booleans(), max_size=12), more=st.integers(0, 4), seed=st.integers(0, 2**16))
def test_average_precision_is_its_definition(right, more, seed):
    """The mean, over objects in the order they are found, of the best precision from there on."""
    objects = max(1, sum(right) + more)
    hits = np.cumsum(right)
    precision = [hits[i] / (i + 1) for i in range(len(right))]
    wanted = sum(max(precision[i:]) for i in range(len(right)) if right[i]) / objects
    shuffled = np.random.default_rng(seed).permutation(len(right))
    scores = -np.arange(len(right), dtype=np.float64)
    got = average_precision(scores[shuffled], np.array(right, np.bool_)[shuffled], objects)
    assert got == pytest.approx(wanted)


# --- the task


class TestYoloTask(TaskContract):
    @pytest.fixture
    def model(self, tmp_path):
        return write_case(tmp_path / "case")

    @pytest.fixture
    def task(self, model):
        return load_task(model.with_suffix(".toml"), load_network(model))

    def test_sizes_and_description(self, task):
        assert {split: task.size(split) for split in SIZES} == SIZES
        text = task.describe()
        assert "4 x 6 cells of 8 pixels" in text
        assert "1 x mse of 'coverage' + 1 x l1 of 'boxes'" in text

    def test_every_object_has_cells(self, task):
        """Coverage and boxes lie on the grid; what the targets say scores 100%."""

        def perfect():
            for batch in task.batches("test", 4):
                yield batch, {name: target.values for name, target in batch.targets.items()}

        details = task.details("test", perfect())
        assert details == {"F1": 1, "precision": 1, "recall": 1, "mAP": 1}

    def test_evaluate_tells_details(self, task, model):
        assert isinstance(task, Detailed)
        score = evaluate(model, task, "test", threads=1)
        assert score.metric == "F1"
        assert list(score.details) == ["precision", "recall", "mAP"]


class TestKittiTask(TaskContract):
    @pytest.fixture
    def model(self, tmp_path):
        text = TASK + 'coverage_loss = "bce"\nbox_loss = "mse"\nmetric = "map"\npositive_weight = 3\n'
        return write_case(tmp_path / "case", text, write_kitti)

    @pytest.fixture
    def task(self, model):
        return load_task(model.with_suffix(".toml"), load_network(model))

    def test_the_same_scenes_as_in_yolo(self, task, tmp_path):
        """Both layouts say the same objects, whatever the image's own size."""
        model = write_case(tmp_path / "yolo")
        other = load_task(model.with_suffix(".toml"), load_network(model))
        for one, two in zip(task.batches("test", 4), other.batches("test", 4), strict=True):
            np.testing.assert_allclose(one.targets["boxes"].values, two.targets["boxes"].values, atol=1e-4)
            weights = one.targets["coverage"].weights
            np.testing.assert_array_equal(weights, 1 + 2 * two.targets["coverage"].values)


def test_low_objects_are_ignored(tmp_path):
    model = write_case(tmp_path, TASK + "min_height = 15\n")
    low = load_task(tmp_path / "model.toml", load_network(model))
    batch = next(low.batches("train", 24))
    assert (batch.targets["coverage"].weights == 0).any()
    (tmp_path / "model.toml").write_text(TASK)
    every = next(load_task(tmp_path / "model.toml", load_network(model)).batches("train", 24))
    assert batch.targets["coverage"].values.sum() < every.targets["coverage"].values.sum()


def test_a_list_of_images_and_background(tmp_path):
    """Lists name images in their own order; a YOLO image without labels shows nothing."""
    model = write_case(tmp_path)
    (tmp_path / "test" / "labels" / "001.txt").unlink()
    (tmp_path / "some.txt").write_text("test/images/001.png\n\ntest/images/000.png\n")
    (tmp_path / "model.toml").write_text(TASK.replace('test = "test"', 'test = "some.txt"'))
    task = load_task(tmp_path / "model.toml", load_network(model))
    (batch,) = task.batches("test", 8)
    covered = batch.targets["coverage"].values.reshape(2, -1).any(axis=1)
    assert covered.tolist() == [False, True]


def test_missing_splits_are_kept_apart_from_train(tmp_path):
    model = write_case(tmp_path, '[task]\nkind = "detection"\ntrain = "train"\nclass_names = ["Car"]\n')
    task = load_task(tmp_path / "model.toml", load_network(model))
    assert [task.size(split) for split in SIZES] == [20, 2, 2]


def test_images_of_a_size_that_the_graph_leaves_open(tmp_path):
    model = write_case(tmp_path, TASK + "size = [64, 96]\nstride = 8\n")
    onnx.save(detector(size=("H", "W")), model)
    task = load_task(tmp_path / "model.toml", load_network(model))
    assert next(task.batches("train", 2)).targets["boxes"].values.shape == (2, 4, 8, 12)
    assert evaluate(model, task, "test", threads=1).examples == SIZES["test"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('class_names = ["Car"]\n', ""), "class_names is missing"),
        (('["Car"]', '["Car", "Bus"]'), "class_names has 2 names that are not ignored"),
        (("box_scale = 8", "box_scale = 0"), "box_scale must be a number above 0"),
        (("box_scale = 8", "iou = 2"), "iou must be a number from 0.01 to 1"),
        (("box_scale = 8", "stride = 16"), "with stride 16 make 2 x 3 cells"),
        (("box_scale = 8", "stride = 7"), "stride = 7 does not divide images of 32 x 48"),
        (("box_scale = 8", "least = 0"), "least must be a whole number"),
        (("box_scale = 8", "average = 1"), "average must be true or false"),
        (("box_scale = 8", 'per_object = "yes"'), "per_object must be true or false"),
        (("box_scale = 8", 'coverage = "y"'), "coverage must be one of coverage, boxes"),
        (("box_scale = 8", 'coverage = "boxes"'), "are the same output"),
        (("box_scale = 8", 'box_loss = "l2"'), "box_loss must be one of l1, mse"),
        (("box_scale = 8", "augment = true"), "unknown key 'augment'"),
        (('train = "train"', 'train = "nowhere"'), "'nowhere' does not exist"),
        (('train = "train"', 'train = "train/images"'), "neither image_2/ and label_2/"),
        (('train = "train"', 'train = "model.onnx"'), "a .txt list of images"),
        (('train = "train"', 'train = "list.txt"'), "list.txt, line 2: there is no image"),
    ],
)
def test_wrong_task_files(tmp_path, change, says):
    model = write_case(tmp_path, TASK.replace(*change))
    (tmp_path / "list.txt").write_text("train/images/000.png\nnothing.png\n")
    with pytest.raises(TaskError) as caught:
        load_task(tmp_path / "model.toml", load_network(model))
    assert says in str(caught.value)


def test_wrong_data(tmp_path):
    model = write_case(tmp_path, TASK, write_kitti)
    network = load_network(model)
    (tmp_path / "train" / "label_2" / "000003.txt").unlink()
    with pytest.raises(TaskError, match=r"000003\.png has no label file"):
        load_task(tmp_path / "model.toml", network)
    (tmp_path / "train" / "label_2" / "000003.txt").write_text("")
    (tmp_path / "train" / "image_2" / "000003.png").write_bytes(b"no image")
    with pytest.raises(TaskError, match=r"000003\.png cannot be read"):
        load_task(tmp_path / "model.toml", network)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (detector(box_channels=3), "has 3 channels; boxes have 4"),
        (detector(classes=2), "class_names has 1 names"),
    ],
)
def test_models_that_are_no_such_detectors(tmp_path, model, says):
    path = write_case(tmp_path)
    onnx.save(model, path)
    with pytest.raises(TaskError, match=says):
        load_task(tmp_path / "model.toml", load_network(path))


def test_the_shared_folder_layouts_are_found_below_a_split(tmp_path):
    """images/val/ and labels/val/, as ultralytics lays them out."""
    write_yolo(tmp_path / "flat", 3, 0)
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "flat" / name).rename(tmp_path / "data" / name / "val")
    model = write_case(tmp_path / "case", TASK.replace('"test"', '"../data"'))
    task = load_task(tmp_path / "case" / "model.toml", load_network(model))
    assert task.size("test") == 3
    with Image.open(tmp_path / "data" / "images" / "val" / "000.png") as image:
        assert image.size == (48, 32)
