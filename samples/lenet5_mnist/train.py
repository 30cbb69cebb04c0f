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
from sample_training import Training, report, train  # noqa: E402


def main(words: list[str] | None = None) -> None:
    parser = options("Train LeNet-5 on MNIST and write it as ONNX.", "lenet5_mnist")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(words)
    splits = prepare("mnist", arguments, HERE / "lenet5.toml")
    if arguments.data_only:
        return
    how = Training(epochs=arguments.epochs, seed=arguments.seed, threads=arguments.threads)
    checkpoint = arguments.out / "training.safetensors"
    model = train(LeNet5, *splits.train, how, lambda line: print(line, flush=True), checkpoint)
    write_onnx(model, arguments.out / "lenet5.onnx")
    report(model, splits, how, arguments.out)


if __name__ == "__main__":
    main()
