"""LeNet-5 as in Caffe and in the paper: 20 and 50 filters of 5x5, 500 hidden units, 10 classes.

The training scripts of `digits/`, `lenet5_mnist/` and `lenet5_stl10/` share it. The ONNX file is written with
`onnx.helper` from the trained weights, so that the graph is exactly the eight operators one would draw.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sample_data import Images, Labels
from torch import nn
from torch.nn import functional as F

from evonnx.durable import write_whole


class LeNet5(nn.Module):
    """Images [batch, channels, size, size] in [0, 1] to logits [batch, 10].

    On 1x28x28 it has 430 500 synapses, on 3x96x96 11 056 500; 580 biases.
    """

    def __init__(self, channels: int = 1, size: int = 28) -> None:
        super().__init__()
        self.image = (channels, size, size)
        left = ((size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * left * left, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.conv1(image), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: torch.Tensor = self.fc2(x)
        return logits


def write_onnx(model: LeNet5, path: Path) -> None:
    """Write the trained network as ONNX, opset 17: "image" [batch, C, H, W] to "logits" [batch, 10]."""
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node(
            "Conv", ["image", "conv1.weight", "conv1.bias"], ["c1"], "conv1", kernel_shape=[5, 5]
        ),
        helper.make_node("MaxPool", ["c1"], ["p1"], "pool1", **pool),
        helper.make_node("Conv", ["p1", "conv2.weight", "conv2.bias"], ["c2"], "conv2", kernel_shape=[5, 5]),
        helper.make_node("MaxPool", ["c2"], ["p2"], "pool2", **pool),
        helper.make_node("Flatten", ["p2"], ["flat"], "flatten", axis=1),
        helper.make_node("Gemm", ["flat", "fc1.weight", "fc1.bias"], ["f1"], "fc1", transB=1),
        helper.make_node("Relu", ["f1"], ["r1"], "relu"),
        helper.make_node("Gemm", ["r1", "fc2.weight", "fc2.bias"], ["logits"], "fc2", transB=1),
    ]
    weights = [
        numpy_helper.from_array(tensor.detach().numpy(), name) for name, tensor in model.state_dict().items()
    ]
    graph = helper.make_graph(
        nodes,
        "lenet5",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *model.image])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="lenet5"
    )
    onnx.checker.check_model(proto, full_check=True)
    write_whole(path, proto.SerializeToString())


def write_split(path: Path, images: Images, labels: Labels) -> None:
    """One split as .npz: x uint8 [N, 1, 28, 28], y uint8 [N]."""
    np.savez_compressed(path, x=images, y=labels.astype(np.uint8))
