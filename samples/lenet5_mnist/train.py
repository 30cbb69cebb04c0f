"""Train the ancestor of the paper's first experiment: LeNet-5 on full MNIST.

    python samples/lenet5_mnist/train.py --data WHERE [--out runs/lenet5_mnist] [--epochs 12] [--seed 0]

The data is `mnist.npz` (x_train, y_train, x_test, y_test) or the four IDX files, found at --data or in the
folder that EVONNX_DATA names. 55 000 images train, 5 000 validate (a seeded choice), 10 000 test. Written to
--out: train.npz, val.npz, test.npz, lenet5.onnx, lenet5.toml. Nothing is copied into the repository.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from lenet5 import Images, Labels, Training, accuracy, train, write_onnx, write_split  # noqa: E402


def main() -> None:
    arguments = parser().parse_args()
    where = arguments.data or os.environ.get("EVONNX_DATA")
    if where is None:
        sys.exit("Where is MNIST? Give --data FOLDER_OR_FILE or set EVONNX_DATA.")
    x, y, x_test, y_test = read_mnist(Path(where))
    order = np.random.default_rng(arguments.seed).permutation(len(x))
    validation, training = np.sort(order[:5000]), np.sort(order[5000:])

    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    write_split(out / "train.npz", x[training], y[training])
    write_split(out / "val.npz", x[validation], y[validation])
    write_split(out / "test.npz", x_test, y_test)
    shutil.copyfile(HERE / "lenet5.toml", out / "lenet5.toml")

    how = Training(epochs=arguments.epochs, seed=arguments.seed, threads=arguments.threads)
    model = train(x[training], y[training], how, news=lambda line: print(line, flush=True))
    write_onnx(model, out / "lenet5.onnx")
    print(f"validation {accuracy(model, x[validation], y[validation]):.2%}")
    print(f"test       {accuracy(model, x_test, y_test):.2%}")
    print(f"written to {out}")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description="Train LeNet-5 on MNIST and write it as ONNX.")
    options.add_argument(
        "--data", help="mnist.npz, or a folder that holds it or the IDX files (else EVONNX_DATA)"
    )
    options.add_argument("--out", type=Path, default=Path("runs/lenet5_mnist"))
    options.add_argument("--epochs", type=int, default=12)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=2)
    return options


def read_mnist(where: Path) -> tuple[Images, Labels, Images, Labels]:
    """Training images and labels, test images and labels; images uint8 [N, 1, 28, 28]."""
    archive = where / "mnist.npz" if where.is_dir() else where
    if archive.is_file():
        with np.load(archive) as data:
            parts = [data[key] for key in ("x_train", "y_train", "x_test", "y_test")]
    else:
        parts = [
            read_idx(where, f"{split}-{kind}-ubyte")
            for split in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        ]
    x, y, x_test, y_test = parts
    return (
        x.reshape(-1, 1, 28, 28),
        y.astype(np.int64),
        x_test.reshape(-1, 1, 28, 28),
        y_test.astype(np.int64),
    )


def read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """One IDX file of bytes, as it is or gzipped."""
    for path in (folder / name, folder / name.replace("-idx", ".idx"), folder / f"{name}.gz"):
        if path.is_file():
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            shape = [int.from_bytes(raw[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(raw[3])]
            return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    sys.exit(f"{folder} has neither mnist.npz nor {name}.")


if __name__ == "__main__":
    main()
