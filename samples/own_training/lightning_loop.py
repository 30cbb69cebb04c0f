"""PyTorch Lightning around the ONNX model itself; callbacks, loggers and strategies are Lightning's own.

pip install lightning
python lightning_loop.py compact.onnx trained.onnx --data train.npz
evonnx evolve lenet5.onnx --adapter command \\
        --command "python lightning_loop.py {model} {output} --data {data}"
"""

from __future__ import annotations

import argparse

import lightning
import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from evonnx_torch import load_module, save_weights


class Offspring(lightning.LightningModule):
    """The model is a submodule like any other."""

    def __init__(self, model: str, rate: float) -> None:
        super().__init__()
        self.net, self.rate = load_module(model), rate

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        images, labels = batch
        return F.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.rate)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model")
    options.add_argument("output")
    options.add_argument("--data", required=True)
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--rate", type=float, default=0.001)
    arguments = options.parse_args()

    lightning.seed_everything(0, verbose=False)
    with np.load(arguments.data) as data:
        examples = TensorDataset(torch.from_numpy(data["image"]), torch.from_numpy(data["targets"]))
    offspring = Offspring(arguments.model, arguments.rate)
    trainer = lightning.Trainer(
        max_epochs=arguments.epochs,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(offspring, DataLoader(examples, batch_size=32, shuffle=True))
    save_weights(offspring.net, arguments.output)


if __name__ == "__main__":
    main()
