"""Train the ancestor of the paper's second experiment: LeNet-5 on STL-10's labelled images.

    python samples/lenet5_stl10/train.py [--data FOLDER] [--out runs/lenet5_stl10] [--epochs 60] [--seed 0]

The data is STL-10's binary files, found in --data or in the folder that EVONNX_DATA names, else downloaded
(2.6 GB). 4 500 images train, 500 validate (a seeded choice), 8 000 test. Written to --out: train.npz,
val.npz, test.npz, lenet5.onnx, lenet5.toml, and after each epoch a checkpoint, from which a killed training
goes on.
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
    parser = options("Train LeNet-5 on STL-10 and write it as ONNX.", "lenet5_stl10", held=500)
    training_options(parser, 60, "device")
    arguments = parser.parse_args(words)
    splits = prepare("stl10", arguments, HERE / "lenet5.toml")
    if arguments.data_only:
        return
    how = as_asked(Training(batch_size=64, learning_rate=0.02, shift=8, flip=True), arguments)
    model = ancestor(lambda: LeNet5(3, 96), splits, how, arguments.out)
    write_onnx(model, arguments.out / "lenet5.onnx")
    report(model, splits, how, arguments.out)


if __name__ == "__main__":
    main()
