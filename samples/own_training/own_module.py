"""Carry what evolution found over to your own module, and go on in your own code.

    evonnx evolve lenet5.onnx --out run
    evonnx plan run --ancestor lenet5.onnx -o plan.safetensors
    python own_module.py lenet5.onnx plan.safetensors run/best.onnx

The module is shrunk in place, layer by layer, takes over the trained weights, and is proven equal to
best.onnx in onnxruntime. From there it is a module like any other: train it, export it, quantise it.
"""

from __future__ import annotations

import argparse

import onnx
import torch
from onnx import numpy_helper
from train_script import Net

from evonnx_torch import apply_plan


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("ancestor", "plan", "best"):
        options.add_argument(name)
    arguments = options.parse_args()

    net = Net()  # with the weights that were exported; yours come from your own checkpoint
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(arguments.ancestor).graph.initializer}
    net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in stored.items()})
    before = sum(parameter.numel() for parameter in net.parameters())
    print(apply_plan(net, arguments.plan, weights=arguments.best))
    after = sum(parameter.numel() for parameter in net.parameters())
    print(f"{before:,} parameters before, {after:,} after; conv2 is now {net.conv2}")


if __name__ == "__main__":
    main()
