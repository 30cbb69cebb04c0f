"""Networks for the training benchmarks, in torch and exported: the graph keeps its normalisations."""

from __future__ import annotations

import io
import warnings

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional


class LeNet5(nn.Module):
    """Caffe's LeNet-5 for 28 x 28 grey images."""

    def __init__(self, first: int = 20, second: int = 50, third: int = 500) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, first, 5), nn.Conv2d(first, second, 5)
        self.fc1, self.fc2 = nn.Linear(16 * second, third), nn.Linear(third, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.conv1(x), 2)
        x = functional.max_pool2d(self.conv2(x), 2)
        return self.fc2(functional.relu(self.fc1(x.flatten(1))))


class Block(nn.Module):
    """Two 3 x 3 convolutions; the shortcut takes every second pixel and pads channels with zeros."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride, self.grown = 2 if inputs != outputs else 1, outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            before = self.grown // 2
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.grown - before))
        return functional.relu(y + x)


class CifarResNet(nn.Module):
    """ResNet-56 for 32 x 32 images (He et al., 2016, section 4.2): nine blocks a stage."""

    def __init__(self, blocks: int = 9, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        sizes = [width for width in widths for _ in range(blocks)]
        pairs = zip([widths[0], *sizes], sizes, strict=False)
        self.blocks = nn.Sequential(*(Block(*pair) for pair in pairs))
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(functional.relu(self.bn(self.stem(x)))).mean((2, 3)))


@torch.no_grad()
def awake(model: nn.Module) -> nn.Module:
    """Give every normalisation values of its own, as training does: exporters store equal ones once."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor += 0.1 * torch.rand_like(tensor)
    return model


def exported(model: nn.Module, shape: tuple[int, ...]) -> ir.Model:
    """The ONNX graph for examples of a shape; batches of any size."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (torch.zeros(2, *shape),), file, dynamo=False, opset_version=17, input_names=["x"],
            dynamic_axes={"x": {0: "n"}}, training=torch.onnx.TrainingMode.PRESERVE,
        )  # fmt: skip
    return ir.from_proto(onnx.load_model_from_string(file.getvalue()))
