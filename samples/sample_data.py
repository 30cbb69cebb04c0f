"""The data sets of the samples: found in a folder that has them in their official layouts, or downloaded.

`EVONNX_DATA`, or a script's `--data`, names a folder that holds `mnist/`, `cifar-10-batches-bin/` or
`stl10_binary/` as their makers publish them, or is such a folder itself. Without one the data is downloaded
with pooch, held against its known hash, and kept in runs/data. Nothing is copied into the repository.

`prepare` reads a set, keeps a seeded choice of training images apart for validation, and writes train.npz,
val.npz, test.npz and the task file into the sample's folder under runs/.
"""

from __future__ import annotations

import argparse
import os
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfileobj

import numpy as np
from numpy.typing import NDArray

from evonnx.durable import write_whole
from evonnx.errors import EvonnxError
from evonnx.tasks.data.arrays import GIB, read_cifar10, read_idx, read_npz, read_stl10

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Arrays = tuple[Images, Labels, Images, Labels]
"""Training images (N, C, H, W) and labels from 0, test images and labels."""

ROOT = Path(__file__).resolve().parent.parent
DOWNLOADS = ROOT / "runs" / "data"
LIMIT = 4 * GIB
CIFAR10_MEAN, CIFAR10_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per channel, of images in [0, 1]: ImageNet's, as the task files say them too."""


@dataclass(frozen=True)
class DataSet:
    """Where a data set comes from and which of its files are needed."""

    folder: str
    """Name of the folder in the official layout."""
    files: tuple[str, ...]
    downloads: Mapping[str, str] = field(repr=False)
    """Address -> hash, of each file, or of one .tar.gz that holds them."""


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SETS = {
    "mnist": DataSet(
        "mnist",
        (
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        ),
        {
            _MNIST + "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            _MNIST + "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
            _MNIST + "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
            _MNIST + "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "cifar10": DataSet(
        "cifar-10-batches-bin",
        (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"),
        {
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz": (
                "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
            )
        },
    ),
    "stl10": DataSet(
        "stl10_binary",
        ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"),
        {
            "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz": (
                "md5:91f7769df0f17e558f3565bffb0c7dfb"
            )
        },
    ),
}


def options(description: str, out: str, held: int = 5000) -> argparse.ArgumentParser:
    """The options that all samples share; `held` training images are for validation by default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--data", help="folder that has the data set (else EVONNX_DATA, else it is downloaded)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs") / out)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validation", type=int, default=held, help="training images kept apart")
    parser.add_argument(
        "--data-only", action="store_true", help="write the splits and the task file, no more"
    )
    return parser


@dataclass(frozen=True)
class Splits:
    """Images uint8 (N, C, H, W) and labels (N,) from 0."""

    train: tuple[Images, Labels]
    validation: tuple[Images, Labels]
    test: tuple[Images, Labels]


def prepare(name: str, arguments: argparse.Namespace, task: Path) -> Splits:
    """Read a data set, keep training images apart for validation, and write splits and task file to `--out`.

    Args:
        name: a key of `SETS`.
        arguments: of a parser made by `options`.
        task: the sample's task file, whose paths lead to `runs/<the sample's folder>`; the copy in `--out`
            finds its data beside it.
    """
    try:
        x, y, x_test, y_test = read(name, arguments.data)
    except EvonnxError as error:
        sys.exit(str(error))
    held = arguments.validation
    if not 0 < held < len(x):
        sys.exit(f"--validation must be between 0 and {len(x)}, the number of training images, not {held}.")
    order = np.random.default_rng(arguments.seed).permutation(len(x))
    validation, training = np.sort(order[:held]), np.sort(order[held:])
    splits = Splits((x[training], y[training]), (x[validation], y[validation]), (x_test, y_test))

    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    for file, (images, labels) in (
        ("train.npz", splits.train),
        ("val.npz", splits.validation),
        ("test.npz", splits.test),
    ):
        beside = out / f"{file}.part.npz"
        np.savez(beside, x=images, y=labels.astype(np.uint8))
        beside.replace(out / file)
    text = task.read_text(encoding="utf-8").replace(f"../../runs/{task.parent.name}/", "")
    write_whole(out / task.name, text.encode())
    return splits


def read(name: str, where: str | None) -> Arrays:
    """A data set's official split; `where` as `--data` gives it."""
    where = where or os.environ.get("EVONNX_DATA") or None
    if name == "mnist" and where is not None:
        given = Path(where)
        archive = given / "mnist.npz" if given.is_dir() else given
        if archive.is_file():
            names = ("x_train", "y_train", "x_test", "y_test")
            return _as_images([read_npz(archive, one, LIMIT) for one in names])
    folder = locate(name, Path(where)) if where is not None else download(name)
    paths = [_present(folder, file) or folder / file for file in SETS[name].files]
    if name == "mnist":
        return _as_images([read_idx(path, LIMIT) for path in paths])
    if name == "cifar10":
        return (*read_cifar10(paths[:5], LIMIT), *read_cifar10(paths[5:], LIMIT))
    x, y = read_stl10(paths[0], paths[1], LIMIT)
    x_test, y_test = read_stl10(paths[2], paths[3], LIMIT)
    assert y is not None
    assert y_test is not None
    return x, y, x_test, y_test


def locate(name: str, where: Path) -> Path:
    """The folder with the data set's files: `where`, or the one of the official name in it."""
    wanted = SETS[name]
    for folder in (where / wanted.folder, where):
        if all(_present(folder, file) for file in wanted.files):
            return folder
    sys.exit(
        f"{where} has no {name}: looked in it, and in {wanted.folder}/ in it, for {', '.join(wanted.files)}. "
        "Name another folder with --data or EVONNX_DATA, or neither to download it."
    )


def download(name: str, folder: Path = DOWNLOADS) -> Path:
    """Download a data set into `folder` unless it is there; files of another hash are refused."""
    wanted = SETS[name]
    target = folder / wanted.folder
    if all(_present(target, file) for file in wanted.files):
        return target
    try:
        import pooch
    except ImportError:
        sys.exit(
            "Downloading data needs pooch: `pip install 'evonnx[samples]'`, or say with --data where it is."
        )
    target.mkdir(parents=True, exist_ok=True)
    for address, known in wanted.downloads.items():
        packed = address.endswith(".tar.gz")
        file = address.rsplit("/", 1)[1]
        try:
            path = pooch.retrieve(address, known, file, folder if packed else target, progressbar=True)
        except (OSError, ValueError) as error:
            sys.exit(f"{address} could not be downloaded: {error}")
        if packed:
            unpack(Path(path), wanted.files, target)
    return target


def unpack(archive: Path, files: Sequence[str], target: Path) -> None:
    """Write the named files of a .tar.gz into `target`, whatever folders they are in there."""
    with tarfile.open(archive) as packed:
        for member in packed:
            name = Path(member.name).name
            source = packed.extractfile(member) if member.isfile() and name in files else None
            if source is not None:
                beside = target / f"{name}.part"
                with source, beside.open("wb") as out:
                    copyfileobj(source, out)
                beside.replace(target / name)


def _present(folder: Path, file: str) -> Path | None:
    """A file as it is, gzipped, or with the dot that some copies of MNIST have in their names."""
    for name in (file, f"{file}.gz", file.replace("-idx", ".idx")):
        if (folder / name).is_file():
            return folder / name
    return None


def _as_images(parts: Sequence[NDArray[np.generic]]) -> Arrays:
    x, y, x_test, y_test = parts
    return (
        x.astype(np.uint8).reshape(-1, 1, 28, 28),
        y.astype(np.int64),
        x_test.astype(np.uint8).reshape(-1, 1, 28, 28),
        y_test.astype(np.int64),
    )
