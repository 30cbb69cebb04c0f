"""Every task file in docs/tasks.md loads and scores a model, on data of the names that it uses."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from detection_support import detector as grid_detector
from detection_support import write_yolo
from graph_builder import Builder
from PIL import Image
from sound_support import band_net, wave_net, write_words
from task_support import kind
from test_tasks_arrow import png, write_folder
from test_tasks_regression import filter_net, mlp
from test_tasks_segmentation import net, write_pictures
from test_tasks_yolo import detector as yolo_detector

from evonnx.evaluation import evaluate
from evonnx.network import load_network
from evonnx.tasks import load_task

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tasks.md"
BLOCKS = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def images(count=24, side=24):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def classifier(inputs=(3, 16, 16)):
    b = Builder(["N", *inputs])
    b.output(b.gemm(b.node("Flatten", "x"), int(np.prod(inputs)), 3), ["N", 3], "y")
    return b.model()


def photos(folder):
    for split in ("train", "test"):
        for index, image in enumerate(images()):
            place = folder / "photos" / split / ("ant", "bee", "cat")[index % 3]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{index}.png")
    return classifier()


def pictures(folder):
    import pyarrow as pa

    cells = [{"bytes": png(image), "path": None} for image in images()]
    table = pa.table({"image": cells, "label": np.arange(24) % 3})
    for split in ("train", "test"):
        write_folder(folder / "pictures" / split, table)
    (folder / "pictures" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    return classifier()


def flowers(folder):
    rows = [f"{index},{index / 2},{index / 3},{index % 3}" for index in range(30)]
    (folder / "flowers.csv").write_text("\n".join(["length,width,height,species", *rows]))
    return classifier((3,))


def commands(folder):
    for seed, split in enumerate(("train", "test")):
        write_words(folder / "commands" / split, 24, seed)
    return wave_net(width=4)


def whisper(folder):
    names = write_words(folder / "clips", 30)
    rows = [f"{name},{('yes', 'no', 'other')[index % 3]}" for index, name in enumerate(names)]
    (folder / "clips" / "list.csv").write_text("\n".join(["file,word", *rows]))
    return band_net((80, 100))


def vectors(folder):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", x=rng.normal(size=(20, 6)), y=rng.normal(size=(20, 2)))
    return mlp()


def noisy(folder):
    for name in ("noisy", "clean"):
        (folder / name).mkdir()
        for index, image in enumerate(images(20, 16)):
            Image.fromarray(image[..., 0]).save(folder / name / f"{index}.png")
    return filter_net()


def both(folder):
    rng = np.random.default_rng(0)
    columns = {"signal": rng.normal(size=(20, 6)), "setting": rng.normal(size=20)}
    np.savez(folder / "both.npz", **columns, amount=rng.normal(size=20), kind=np.arange(20) % 3)
    b = Builder(["N", 6])
    b.inputs.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", 1]))
    joined = b.node("Concat", "x", "z", axis=1)
    b.output(b.gemm(joined, 7, 1), ["N", 1], "amount")
    b.output(b.gemm(joined, 7, 3), ["N", 3], "kind")
    return b.model()


def masks(folder):
    write_pictures(folder, 20)
    return net(stride=2)


def scenes(model):
    def write(folder):
        for seed, split in enumerate(("train", "test")):
            write_yolo(folder / "scenes" / split, 12, seed)
        return model

    return write


def inputs_alone(folder):
    np.savez(folder / "x.npz", x=np.random.default_rng(0).normal(size=(20, 6)))
    return mlp()


CASES = [
    photos,
    pictures,
    flowers,
    commands,
    whisper,
    vectors,
    noisy,
    both,
    masks,
    scenes(grid_detector()),
    scenes(yolo_detector()),
    inputs_alone,
]


def test_every_kind_is_shown():
    shown = {tomllib.loads(block)["task"]["kind"] for block in BLOCKS}
    assert len(BLOCKS) == len(CASES)
    assert shown == {
        *("classification", "regression", "multi-output", "segmentation", "detection", "distillation")
    }


@pytest.mark.parametrize(("block", "write"), list(zip(BLOCKS, CASES, strict=True)))
def test_every_example_loads_and_scores(tmp_path, block, write):
    onnx.save(write(tmp_path), tmp_path / "model.onnx")
    name = tomllib.loads(block)["task"]["kind"]
    (tmp_path / "model.toml").write_text(block.replace(f'kind = "{name}"', f'kind = "{kind(name)}"', 1))
    task = load_task(tmp_path / "model.toml", load_network(tmp_path / "model.onnx"))
    for split in ("train", "validation", "test"):
        assert task.size(split) > 0
    model = tmp_path / "model.onnx"
    score = evaluate(model, task, "test", threads=1, ancestor=model)
    assert np.isfinite(score.value)
    assert score.metric == task.metric.name
