"""Make this sample: scikit-learn's handwritten digits (1797 of 8x8) resized to 28x28, and a LeNet-5 for them.

    python samples/digits/train.py [--epochs 40] [--seed 0]

Writes train.npz, val.npz, test.npz (stratified 1197 / 240 / 360) and lenet5.onnx beside this file;
all are committed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from lenet5 import LeNet5, write_onnx, write_split  # noqa: E402
from sample_data import Images, Labels  # noqa: E402
from sample_training import Training, accuracy, train  # noqa: E402


def main() -> None:
    options = argparse.ArgumentParser(
        description="Train LeNet-5 on scikit-learn's digits and write it as ONNX."
    )
    options.add_argument("--out", type=Path, default=HERE)
    options.add_argument("--epochs", type=int, default=40)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=1)
    arguments = options.parse_args()

    x, y = digits()
    x_rest, x_test, y_rest, y_test = train_test_split(
        x, y, test_size=360, stratify=y, random_state=arguments.seed
    )
    x_train, x_val, y_train, y_val = train_test_split(
        x_rest, y_rest, test_size=240, stratify=y_rest, random_state=arguments.seed
    )
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    write_split(out / "train.npz", x_train, y_train)
    write_split(out / "val.npz", x_val, y_val)
    write_split(out / "test.npz", x_test, y_test)

    how = Training(
        epochs=arguments.epochs,
        batch_size=32,
        learning_rate=0.05,
        seed=arguments.seed,
        threads=arguments.threads,
    )
    model = train(LeNet5, x_train, y_train, how, news=lambda line: print(line, flush=True))
    write_onnx(model, out / "lenet5.onnx")
    print(f"validation {accuracy(model, x_val, y_val):.2%}  test {accuracy(model, x_test, y_test):.2%}")


def digits() -> tuple[Images, Labels]:
    """All 1797 digits as uint8 [N, 1, 28, 28] (bilinear from 8x8) and their labels."""
    data = load_digits()
    small = torch.from_numpy(data.images[:, None] * (255 / 16))
    images = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    return images.round().to(torch.uint8).numpy(), data.target.astype(np.int64)


if __name__ == "__main__":
    main()
