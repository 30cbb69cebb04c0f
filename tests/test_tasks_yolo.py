"""YOLO's heads: decoding and targets by hand, wrong models, and a tiny detector evolved from end to end."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from detection_support import HEIGHT, WIDTH, write_yolo
from graph_builder import Builder
from task_support import evolved, save, scores, train

from evonnx.errors import TaskError
from evonnx.network import load_network
from evonnx.tasks import load_task
from evonnx.tasks._settings import Settings
from evonnx.tasks.detection.heads import make_head
from evonnx.testing import TaskContract

STRIDE = 8
ROWS, COLUMNS = HEIGHT // STRIDE, WIDTH // STRIDE
PLACES = ROWS * COLUMNS


def detector(classes=1, objectness=False, last=False, anchors=1):
    """As exported: centres from cells and offsets, sides from exponents, probabilities, one list of boxes."""
    b = Builder(["N", 3, HEIGHT, WIDTH])
    y = "x"
    for inputs, outputs, stride in ((3, 8, 2), (8, 16, 2), (16, 24, 2), (24, 24, 1)):
        y = b.node("Relu", b.conv(y, inputs, outputs, 3, strides=[stride, stride], pads=[1, 1, 1, 1]))
    row, column = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
    corners = np.tile(np.stack([column, row]).reshape(1, 2, PLACES), (1, 1, anchors)).astype(np.float32)
    parts = []
    for channels in (2, 2, classes + objectness):
        flat = b.node("Reshape", b.conv(y, 24, channels * anchors, 1), b.ints(0, channels, -1))
        parts.append(flat)
    offsets = b.node("Add", b.node("Sigmoid", parts[0]), b.constant(corners))
    centres = b.node("Mul", offsets, b.constant(np.float32(STRIDE)))
    sides = b.node("Mul", b.node("Exp", parts[1]), b.constant(np.float32(STRIDE)))
    y = b.node("Concat", centres, sides, b.node("Sigmoid", parts[2]), axis=1)
    if last:
        y = b.node("Transpose", y, perm=[0, 2, 1])
    fields = 4 + objectness + classes
    shape = [PLACES * anchors, fields] if last else [fields, PLACES * anchors]
    b.output(y, ["N", *shape], "boxes")
    return b.model()


def text_of(head="yolov8", more="", names='["Car"]'):
    splits = "".join(f'{split} = "{split}"\n' for split in ("train", "validation", "test"))
    return f'[task]\nkind = "detection"\nhead = "{head}"\n{splits}class_names = {names}\n{more}\n'


def write_case(folder, counts=(24, 8, 9), text=None, model=None):
    for seed, (split, count) in enumerate(zip(("train", "validation", "test"), counts, strict=True)):
        write_yolo(folder / split, count, seed)
    (folder / "model.toml").write_text(text or text_of())
    return save(model or detector(), folder)


def task_at(model):
    return load_task(model.with_suffix(".toml"), load_network(model))


class TestYolov8(TaskContract):
    @pytest.fixture
    def model(self, tmp_path):
        return write_case(tmp_path)

    @pytest.fixture
    def task(self, model):
        return task_at(model)


def head_of(folder, model, name="yolov8", classes=1, **keys):
    """A head alone."""
    settings = Settings({"head": name, **keys}, "here", folder)
    return make_head(settings, load_network(save(model, folder)), (HEIGHT, WIDTH), classes)


BOXES = np.array([[2.0, 3.0, 20.0, 17.0], [26.0, 8.0, 45.0, 31.0]])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("name", "anchors"), [("yolov8", 1), ("yolov5", 1), ("yolov5", 3)])
def test_targets_are_decoded_to_the_objects(tmp_path, name, anchors, last):
    """What the head asks for is what it reads: every object, each once, of its class."""
    keys = {} if anchors == 3 else {"anchors": anchors}
    model = detector(2, name == "yolov5", last, anchors)
    head = head_of(tmp_path, model, name, 2, **keys)
    targets = head.targets([(BOXES, np.array([0, 1])), (BOXES[:0], np.zeros(0, np.int64))])
    values, weights = targets["boxes"]
    fields = 6 + (name == "yolov5")
    shape = (PLACES * anchors, fields) if last else (fields, PLACES * anchors)
    assert values.shape == weights.shape == (2, *shape)
    one, nothing = (working for working, _ in head.detections({"boxes": values}, 2))
    assert one.classes.tolist() == [0, 1]
    np.testing.assert_allclose(one.boxes, BOXES, atol=1e-4)
    assert len(nothing.scores) == 0


def test_a_list_of_boxes_by_hand(tmp_path):
    """The better of two that overlap, what another class says, and nothing that is no box."""
    head = head_of(tmp_path, detector(2), classes=2)
    output = np.zeros((1, 6, PLACES), np.float32)
    rows = output[0].T
    rows[0] = [10, 10, 8, 6, 0.6, 0]
    rows[1] = [11, 10, 8, 6, 0.9, 0.3]
    rows[2] = [30, 20, 10, 10, 0.1, 0.05]
    rows[3] = [30, 20, -4, 10, 0.9, 0]
    rows[4] = [np.nan, 20, 10, 10, 0.9, 0]
    rows[5] = [30, 20, 10, 10, np.nan, 0]
    ((working, ranked),) = head.detections({"boxes": output}, 1)
    np.testing.assert_allclose(working.boxes, [[7, 7, 15, 13], [7, 7, 15, 13]])
    np.testing.assert_allclose(working.scores, [0.9, 0.3], rtol=1e-6)
    assert working.classes.tolist() == [0, 1]
    np.testing.assert_allclose(ranked.scores, [0.9, 0.1, 0.3, 0.05], rtol=1e-6)


def test_objectness_multiplies_and_shares_are_of_the_picture(tmp_path):
    head = head_of(tmp_path, detector(1, True, True), "yolov5", anchors=1, box_unit="share")
    output = np.zeros((1, PLACES, 6), np.float32)
    output[0, 3] = [0.5, 0.5, 0.25, 0.5, 0.8, 0.5]
    ((working, _),) = head.detections({"boxes": output}, 1)
    np.testing.assert_allclose(working.boxes, [[WIDTH * 3 / 8, HEIGHT / 4, WIDTH * 5 / 8, HEIGHT * 3 / 4]])
    np.testing.assert_allclose(working.scores, [0.4], rtol=1e-6)


def test_weights_say_what_counts(tmp_path):
    """Boxes inside objects relative to their sides, classes everywhere but in regions to ignore."""
    head = head_of(tmp_path, detector(), positive_weight=3)
    ignored = np.array([[32.0, 0.0, 48.0, 32.0]])
    boxes = np.concatenate([BOXES[:1], ignored])
    values, weights = head.targets([(boxes, np.array([0, -1]))])["boxes"]
    x, y = np.meshgrid(np.arange(COLUMNS) * 8 + 4, np.arange(ROWS) * 8 + 4)
    x, y = x.reshape(-1), y.reshape(-1)
    inside = (x >= 2) & (x <= 20) & (y >= 3) & (y <= 17)
    np.testing.assert_array_equal(weights[0, 0] > 0, inside)
    np.testing.assert_allclose(weights[0, :4, inside], [[1 / 18**2, 1 / 14**2] * 2] * inside.sum(), rtol=1e-5)
    found = values[0, 4] == 1
    assert 0 < found.sum() < inside.sum()
    want = np.select([found, inside, x > 32], [3, 0.25, 0], 1)
    np.testing.assert_allclose(weights[0, 4], want)


def test_objects_belong_to_the_grid_of_their_size(tmp_path):
    """Two grids in one list, finest first."""
    b = Builder(["N", 3, 64, 64])
    flat = [b.node("Reshape", b.conv("x", 3, 5, 1, strides=[s, s]), b.ints(0, 5, -1)) for s in (8, 32)]
    b.output(b.node("Concat", *flat, axis=2), ["N", 5, 68], "boxes")
    settings = Settings({"head": "yolov8", "strides": [8, 32]}, "here", tmp_path)
    head = make_head(settings, load_network(save(b.model(), tmp_path)), (64, 64), 1)
    small, large = np.array([[8.0, 8.0, 20.0, 20.0]]), np.array([[0.0, 0.0, 64.0, 64.0]])
    for box, places in ((small, slice(0, 64)), (large * 4 - 96, slice(64, 68))):
        values, _ = head.targets([(box, np.array([0]))])["boxes"]
        chosen = np.flatnonzero(values[0, 4])
        assert len(chosen)
        assert set(chosen) <= set(range(68)[places])


@pytest.mark.parametrize(
    ("model", "keys", "says"),
    [
        (detector(2), {}, "has shape [1, 6, 24]; with 1 names"),
        (detector(), {"strides": [16]}, "24 boxes are not those of grids of strides [16] with 1 to a cell"),
        (detector(), {"anchors": 3}, "24 boxes are not those of grids of strides [8, 16, 32]"),
        (detector(), {"output": "scores"}, "output must be one of boxes"),
        (detector(), {"name": "yolo11"}, "head must be one of grid, yolov8, yolov5"),
        (detector(), {"box_unit": "px"}, "box_unit must be one of pixels, share"),
    ],
)
def test_wrong_models_and_settings(tmp_path, model, keys, says):
    with pytest.raises(TaskError) as caught:
        head_of(tmp_path, model, **{"name": "yolov8", **keys})
    assert says in str(caught.value)


def test_keys_of_the_other_head_are_unknown(tmp_path):
    model = write_case(tmp_path, (2, 1, 1), text_of(more='coverage = "boxes"'))
    with pytest.raises(TaskError, match="unknown key 'coverage'"):
        task_at(model)


def test_another_output_shape_is_told(tmp_path):
    head = head_of(tmp_path, detector())
    with pytest.raises(TaskError, match=r"has shape \[1, 5, 20\]; this task needs \[1, 5, 24\]"):
        list(head.detections({"boxes": np.zeros((1, 5, 20), np.float32)}, 1))


# --- end to end


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    more = "positive_weight = 3\n[retrain]\noptimizer = 'adam'\nbatch_size = 8"
    model = write_case(tmp_path_factory.mktemp("yolo"), (48, 12, 16), text_of(more=more))
    train(model, epochs=60, batch_size=8, learning_rate=0.01)
    return model


def test_objects_are_found_and_still_after_evolution(trained, tmp_path):
    before = scores(trained)
    assert before.metric == "mAP"
    assert before.value > 0.6
    assert set(before.details) == {"F1", "precision", "recall"}
    record = evolved(trained, tmp_path / "run", epochs=8, keep=0.75)
    assert record["best"]["architectural_efficiency"] > 1.2
    assert record["best"]["score"] > 0.4


def test_the_ancestor_alone_can_teach(trained, tmp_path):
    """`distill = 1`: labels train nothing, and only score."""
    text = trained.with_suffix(".toml").read_text() + "\ndistill = 1.0\n"
    for split in ("train", "validation", "test"):
        (tmp_path / split).symlink_to(trained.parent / split)
    (tmp_path / "model.toml").write_text(text)
    onnx.save(onnx.load(trained), tmp_path / "model.onnx")
    record = evolved(tmp_path / "model.onnx", tmp_path / "run", epochs=8, keep=0.75)
    assert record["best"]["score"] > 0.4


def test_jax_trains_it_too(tmp_path):
    pytest.importorskip("jax")
    model = write_case(tmp_path, (16, 2, 2), text_of("yolov5", "anchors = 1"), detector(1, True, True))
    history = train(model, "jax", epochs=5, batch_size=8)
    assert history[-1].loss < 0.8 * history[0].loss
