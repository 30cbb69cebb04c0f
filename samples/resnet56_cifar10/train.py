"""Build or train the ancestor of the paper's fourth experiment: ResNet-56 on CIFAR-10.

    python samples/resnet56_cifar10/train.py [--weights FILE.npz] [--data FOLDER]
           [--out runs/resnet56_cifar10] [--epochs 100] [--bfloat16] [--seed 0]

The data is the binary version of CIFAR-10, found in --data or in the folder that EVONNX_DATA names, else
downloaded. 45 000 images train, 5 000 validate (a seeded choice), 10 000 test. With --weights nothing is
trained: the file's arrays go into the graph. Written to --out: train.npz, val.npz, test.npz, resnet56.onnx,
resnet56.toml, and in training after each epoch a checkpoint, from which a killed training goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from sample_data import options, prepare  # noqa: E402
from sample_graph import Graph  # noqa: E402
from sample_training import CIFAR10, ancestor, as_asked, report, training_options  # noqa: E402

from evonnx.errors import EvonnxError  # noqa: E402
from evonnx.tasks.data.arrays import read_npz  # noqa: E402

STAGES = ((1, 16), (2, 32), (3, 64))
"""Number and channels; the second and third start by halving rows and columns."""
LIMIT = 2**26
"""Bytes that one array of weights may take."""


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A of He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.more = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return F.relu(x + y)


class ResNet(nn.Module):
    """Normalised images [batch, 3, 32, 32] to logits [batch, 10].

    n blocks per stage make 6 n + 2 layers: 9 make ResNet-56, 848 944 synapses in 94 256 kernels. `width`
    multiplies all channels.
    """

    def __init__(self, blocks: int = 9, width: float = 1.0) -> None:
        super().__init__()
        self.blocks = blocks
        self.stages = tuple((stage, round(width * channels)) for stage, channels in STAGES)
        inputs = self.stages[0][1]
        self.conv1 = nn.Conv2d(3, inputs, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        for stage, outputs in self.stages:
            rest = [Block(outputs, outputs) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(Block(inputs, outputs), *rest))
            inputs = outputs
        self.linear = nn.Linear(inputs, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(image)))
        for stage, _ in self.stages:
            x = self.get_submodule(f"layer{stage}")(x)
        logits: torch.Tensor = self.linear(x.mean((2, 3)))
        return logits


def write_onnx(model: ResNet, path: Path) -> None:
    """Write the network as ONNX, BatchNormalization and all: "image" [batch, 3, 32, 32] to "logits"."""
    name = f"resnet{6 * model.blocks + 2}"
    graph = Graph(name, {key: value.numpy() for key, value in model.state_dict().items()}, (3, 32, 32))
    x = graph.relu(graph.batch_norm(graph.conv("image", "conv1", 1, 1), "bn1"), "relu1")
    inputs = model.stages[0][1]
    for stage, channels in model.stages:
        more, inputs = channels - inputs, channels
        for block in range(model.blocks):
            here = f"layer{stage}.{block}"
            halved = stage > 1 and block == 0
            y = graph.conv(x, f"{here}.conv1", 2 if halved else 1, 1)
            y = graph.relu(graph.batch_norm(y, f"{here}.bn1"), f"{here}.relu1")
            y = graph.batch_norm(graph.conv(y, f"{here}.conv2", 1, 1), f"{here}.bn2")
            if halved:
                x = graph.every_second(x, f"{here}.shortcut.slice")
                x = graph.pad_channels(x, f"{here}.shortcut.pad", more // 2, more - more // 2)
            x = graph.relu(graph.add(y, x, f"{here}.add"), f"{here}.relu2")
    x = graph.flatten(graph.average_pool(x, "pool"), "flatten")
    graph.write(path, graph.linear(x, "linear"), 10)


def with_weights(model: ResNet, path: Path) -> ResNet:
    """The network with the arrays of an .npz file, named like its own tensors."""
    state = model.state_dict()
    wanted = [name for name in state if not name.endswith(".num_batches_tracked")]
    try:
        found = {name: torch.from_numpy(read_npz(path, name, LIMIT)) for name in wanted}
    except EvonnxError as error:
        sys.exit(f"{path} does not hold this network: {error}")
    for name in wanted:
        if found[name].shape != state[name].shape:
            sys.exit(f"{path}: {name} is {list(found[name].shape)}, not {list(state[name].shape)}.")
    model.load_state_dict(state | found)
    return model.eval()


def main(words: list[str] | None = None) -> None:
    parser = options("Build or train ResNet-56 for CIFAR-10 and write it as ONNX.", "resnet56_cifar10")
    parser.add_argument("--weights", type=Path, help="trained weights (.npz); nothing is trained")
    training_options(parser, 100, "device", "bfloat16")
    parser.add_argument("--blocks", type=int, default=9, help="per stage; 3 gives ResNet-20, 9 ResNet-56")
    arguments = parser.parse_args(words)
    splits = prepare("cifar10", arguments, HERE / "resnet56.toml")
    if arguments.data_only:
        return
    how = as_asked(CIFAR10, arguments)
    if arguments.weights is not None:
        model = with_weights(ResNet(arguments.blocks), arguments.weights)
    else:
        model = ancestor(lambda: ResNet(arguments.blocks), splits, how, arguments.out)
    write_onnx(model, arguments.out / "resnet56.onnx")
    report(model, splits, how, arguments.out)


if __name__ == "__main__":
    main()
