"""Older networks: response normalisation, flattened features, recurrent heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.parts import conv


class AlexNet(nn.Module):
    """AlexNet (Krizhevsky et al., 2012): LRN, grouped convolution, Flatten."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=1e-2, k=2.0),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 24, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=1e-2, k=2.0),
            nn.MaxPool2d(2),
            nn.Conv2d(24, 16, 3, padding=1),
            nn.ReLU(),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(256, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class Recurrent(nn.Module):
    """A text reader: features per image column, a recurrent layer in both directions, a linear head."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 12, 3, 2), conv(12, 16, 3, 2))
        self.recurrent = kind(16, 12, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.features(x).mean(2).transpose(1, 2)
        return self.head(self.recurrent(columns)[0])


def lstm_reader() -> nn.Module:
    return Recurrent(nn.LSTM)


def gru_reader() -> nn.Module:
    return Recurrent(nn.GRU)
