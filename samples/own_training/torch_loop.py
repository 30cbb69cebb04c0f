"""A PyTorch loop around the ONNX model itself: no class of the network is needed.

python torch_loop.py compact.onnx trained.onnx --data train.npz
evonnx evolve lenet5.onnx --adapter command --command "python torch_loop.py {model} {output} --data {data}"
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch.nn import functional as F

from evonnx_torch import load_module, save_weights


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model")
    options.add_argument("output")
    options.add_argument("--data", required=True)
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--rate", type=float, default=0.001)
    arguments = options.parse_args()

    torch.manual_seed(0)
    with np.load(arguments.data) as data:
        images, labels = torch.from_numpy(data["image"]), torch.from_numpy(data["targets"])
    module = load_module(arguments.model)  # weights that are zero in the file stay zero
    optimizer = torch.optim.Adam(module.parameters(), arguments.rate)
    for epoch in range(1, arguments.epochs + 1):
        module.train()
        losses = []
        for batch in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            loss = F.cross_entropy(module(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(
            f"epoch {epoch}/{arguments.epochs} loss {np.mean(losses):.5f} lr {arguments.rate:g}", flush=True
        )
    save_weights(module, arguments.output)


if __name__ == "__main__":
    main()
