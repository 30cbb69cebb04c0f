"""What is mutated: the tests' small models, dense and with zeros; tasks with every kind of data; a finished
run."""

from __future__ import annotations

import gzip
import json
import math
import random
import struct
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from mutate import damaged, edited, mutated

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from evolution_support import options, write_case
from graphs import GRAPHS

from evonnx.testing import tiny_classifier

TASK = '[task]\nkind = "classification"\n'


# ----------------------------------------------------------------------------------------------------- models


@cache
def models() -> list[tuple[str, bytes]]:
    """Every small graph of the tests by name, serialised; and again with a third of its channels at zero."""
    found = []
    for name, build in sorted(GRAPHS.items()):
        proto = build()
        found.append((name, proto.SerializeToString()))
        found.append((f"{name} with zeros", _with_zeros(proto).SerializeToString()))
    return found


def _with_zeros(proto: onnx.ModelProto) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        if tensor.data_type not in (
            onnx.TensorProto.FLOAT,
            onnx.TensorProto.FLOAT16,
            onnx.TensorProto.DOUBLE,
        ):
            continue
        array = onnx.numpy_helper.to_array(tensor).copy()
        if array.ndim:
            array[rng.random(len(array)) < 0.3] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return proto


def hostile_model(rng: random.Random, dense: bool) -> bytes:
    """A mutated model: fields edited, bytes damaged, or both."""
    data = rng.choice([one[1] for one in models() if dense or "zeros" in one[0]])
    if rng.random() < 0.85:
        proto = onnx.ModelProto.FromString(data)
        mutated(proto, rng, rng.choice((1, 1, 1, 2, 3, 6)))
        data = proto.SerializeToString()
    else:
        data = damaged(data, rng)
    return damaged(data, rng) if rng.random() < 0.03 else data


def declared_elements(path: Path) -> int:
    """Of all inputs of a model; 0 where there is none or it cannot be read."""
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception:  # damaged on purpose
        return 0
    shapes = [value.type.tensor_type.shape.dim for value in proto.graph.input]
    return sum(math.prod(max(1, dim.dim_value) for dim in shape) for shape in shapes)


def write_external(folder: Path, rng: random.Random) -> None:
    """m.onnx in `folder`/model with its data beside it, one or both damaged, or the data somewhere else."""
    name = rng.choice(sorted(GRAPHS))
    inner = folder / "model"
    inner.mkdir()
    onnx.save(
        GRAPHS[name](), inner / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    data = inner / "w.bin"
    if not data.exists():
        data.write_bytes(b"")
    action = rng.choice(("entry", "entry", "entry", "data", "link", "fifo", "folder", "gone"))
    if action == "entry":
        proto = onnx.load(inner / "m.onnx", load_external_data=False)
        tensors = [tensor for tensor in proto.graph.initializer if tensor.external_data]
        for _ in range(rng.choice((1, 2, 5))):
            if tensors:
                mutated(rng.choice(tensors), rng, 1)
        (inner / "m.onnx").write_bytes(proto.SerializeToString())
    elif action == "data":
        data.write_bytes(damaged(data.read_bytes(), rng))
    else:
        data.rename(folder / "outside.bin")
        if action == "link":
            data.symlink_to(rng.choice(("../outside.bin", "/etc/passwd", "/dev/zero", "w.bin", "m.onnx")))
        elif action == "folder":
            data.mkdir()
        elif action == "fifo":
            import os

            os.mkfifo(data)


# ------------------------------------------------------------------------------------------------ tasks' data


def _npz(folder: Path, rng: random.Random) -> str:
    images, labels = (
        np.zeros((6, 1, 8, 8), rng.choice(("f4", "u1", "f2", "i8", "U1", "c8"))),
        np.arange(6) % 3,
    )
    save = rng.choice((np.savez, np.savez_compressed))
    save(folder / "data.npz", x=images, y=labels.astype(rng.choice(("i8", "f4", "u1"))))
    return 'test = "data.npz"\n'


def _idx(folder: Path, rng: random.Random) -> str:
    pack: Callable[[bytes], bytes] = rng.choice((bytes, gzip.compress))
    images = struct.pack(">HBB3I", 0, 8, 3, 6, 8, 8) + bytes(6 * 64)
    (folder / "i").write_bytes(pack(images))
    (folder / "l").write_bytes(pack(struct.pack(">HBBI", 0, 8, 1, 6) + bytes([0, 1, 2, 0, 1, 2])))
    return 'test = { images = "i", labels = "l" }\n'


def _cifar10(folder: Path, rng: random.Random) -> str:
    (folder / "data_batch_1.bin").write_bytes(bytes(3073 * 4))
    return 'test = "data_batch_1.bin"\n'


def _stl10(folder: Path, rng: random.Random) -> str:
    (folder / "test_X.bin").write_bytes(bytes(3 * 96 * 96 * 2))
    (folder / "test_y.bin").write_bytes(b"\1\2")
    return 'test = "test_X.bin"\n'


def _images(folder: Path, rng: random.Random) -> str:
    from PIL import Image

    kind = rng.choice(("png", "bmp", "gif", "jpeg", "tiff", "webp", "ppm"))
    for label in ("a", "b", "c"):
        (folder / "photos" / label).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(folder / "photos" / label / f"1.{kind}")
    return 'test = "photos"\n'


_DATA = (_npz, _npz, _idx, _cifar10, _stl10, _images)


def write_task(folder: Path, rng: random.Random) -> None:
    """m.onnx, m.toml and data, of which one file is damaged."""
    (folder / "m.onnx").write_bytes(tiny_classifier().SerializeToString())
    split = rng.choice(_DATA)(folder, rng)
    (folder / "m.toml").write_text(TASK + split)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".onnx")
    data = [path for path in files if path.suffix != ".toml"]
    chosen = rng.choice(data) if rng.random() < 0.9 else folder / "m.toml"
    chosen.write_bytes(damaged(chosen.read_bytes(), rng))


# ----------------------------------------------------------------------------------------------------- runs


def make_run(folder: Path) -> None:
    """A case and a finished run of two generations in it, as `resume_words` would make it."""
    from evonnx.evolution import evolve

    model = write_case(folder)
    chosen = options(epochs=1, screen=2, recovery_epochs=1)
    evolve(model, out=folder / "run", options=chosen)


def resume_words() -> list[str]:
    """The command that made the run, with --resume."""
    return [
        *("evolve", "model.onnx", "--out", "run", "--resume", "--gens", "2", "--keep", "0.7", "--align", "1"),
        *("--screen", "2", "--epochs", "1", "--recovery-epochs", "1", "--max-drop", "1", "--threads", "1"),
        *("--adapter", "evonnx.testing:ToyAdapter"),
    ]


def damage_run(run: Path, rng: random.Random) -> None:
    """Change one to three files of a run directory, in place."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        files = sorted(path for path in run.rglob("*") if path.is_file() and not path.is_symlink())
        if not files:
            return
        documents = [path for path in files if path.suffix == ".json"]
        path = rng.choice(documents) if documents and rng.random() < 0.6 else rng.choice(files)
        action = rng.choice(("edit", "edit", "edit", "damage", "link", "gone", "folder", "stray"))
        if action == "edit" and path.suffix == ".json":
            try:
                document = edited(json.loads(path.read_text()), rng, rng.choice((1, 1, 2, 4)))
                path.write_text(json.dumps(document))
            except (ValueError, RecursionError):
                path.write_bytes(damaged(path.read_bytes(), rng))
        elif action == "edit" and path.suffix == ".onnx":
            proto = onnx.ModelProto()
            try:
                proto.ParseFromString(path.read_bytes())
                mutated(proto, rng, 1)
            except Exception:  # damaged before
                continue
            path.write_bytes(proto.SerializeToString())
        elif action == "link":
            path.unlink()
            path.symlink_to(
                rng.choice(("/etc/passwd", "/dev/zero", "../outside", "../../outside", path.name))
            )
        elif action == "gone":
            path.unlink()
        elif action == "folder":
            path.unlink()
            path.mkdir()
        elif action == "stray":
            stray = run / rng.choice(
                (".partial-gen-03", ".partial-1", "checkpoints", "gen-03", "gen-3", "lock")
            )
            if not stray.exists() and not stray.is_symlink():
                rng.choice((Path.mkdir, Path.touch, lambda link: link.symlink_to("../outside")))(stray)
        else:
            path.write_bytes(damaged(path.read_bytes(), rng))
