"""Train the ancestor of the paper's first experiment: LeNet-5 on full MNIST.

    python samples/lenet5_mnist/train.py [--data FOLDER] [--out runs/lenet5_mnist] [--epochs 12] [--seed 0]

The data is the four IDX files or `mnist.npz` (x_train, y_train, x_test, y_test), found in --data or in the
folder that EVONNX_DATA names, else downloaded. 55 000 images train, 5 000 validate (a seeded choice), 10 000
test. Written to --out: train.npz, val.npz, test.npz, lenet5.onnx, lenet5.toml.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from lenet5 import LeNet5, write_onnx  # noqa: E402
from sample_data import options, prepare  # noqa: E402
from sample_training import Training, ancestor, as_asked, report, training_options  # noqa: E402


def main(words: list[str] | None = None) -> None:
    parser = options("Train LeNet-5 on MNIST and write it as ONNX.", "lenet5_mnist")
    training_options(parser, 12)
    arguments = parser.parse_args(words)
    splits = prepare("mnist", arguments, HERE / "lenet5.toml")
    if arguments.data_only:
        return
    how = as_asked(Training(), arguments)
    model = ancestor(LeNet5, splits, how, arguments.out)
    write_onnx(model, arguments.out / "lenet5.onnx")
    report(model, splits, how, arguments.out)


if __name__ == "__main__":
    main()
