"""What evolution's speed is compared with at equal multiply-accumulates: other ways to a smaller network."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from architectures import Width
from torch import nn

from evonnx.network import load_network
from evonnx.onnx_io import initializer_arrays, load_model, save_model, set_array
from evonnx.resources import count

STEPS = 12
"""Of bisection."""
NEAR = 0.01
"""Multiply-accumulates may differ by this share of those asked for."""
IMAGE = (1, 3, 224, 224)


def export(model: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (torch.zeros(IMAGE),), str(path), dynamo=False, opset_version=17,
            input_names=["image"],
        )  # fmt: skip


def macs_of(path: Path) -> int:
    return count(load_network(path)).macs or 0


def at_macs(make: Callable[[float], nn.Module], macs: int, path: Path) -> int:
    """Export `make(size)`, size in (0.2, 1), at about these multiply-accumulates; how many they are."""
    low, high = 0.2, 1.0
    for _ in range(STEPS):
        size = (low + high) / 2
        export(make(size), path)
        found = macs_of(path)
        if abs(found - macs) <= NEAR * macs:
            break
        low, high = (size, high) if found < macs else (low, size)
    return found


def uniform(build: Callable[[Width], nn.Module], macs: int, step: int, path: Path) -> int:
    """The same architecture with all widths scaled alike, in multiples of `step`."""
    return at_macs(lambda size: build(lambda n: max(step, round(n * size / step) * step)), macs, path)


def torch_pruning(network: nn.Module, macs: int, path: Path) -> int:
    """The same network after Torch-Pruning's magnitude pruner with its defaults: each layer loses the same
    share of its channels, whatever number that leaves. All but the classifier may shrink, as in its examples.
    """
    try:
        import torch_pruning as library
    except ModuleNotFoundError:
        sys.exit(
            "Torch-Pruning, one of the controls, is not installed: `pip install torch-pruning`, or leave it "
            "out with --without torch-pruning."
        )

    def pruned(size: float) -> nn.Module:
        smaller = copy.deepcopy(network).eval()
        heads = [one for one in smaller.modules() if isinstance(one, nn.Linear)]
        library.pruner.MagnitudePruner(
            smaller,
            torch.zeros(IMAGE),
            importance=library.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=1 - size,
            ignored_layers=heads,
        ).step()
        return smaller

    return at_macs(pruned, macs, path)


def zeros(source: Path, share: float, path: Path) -> None:
    """The same file with all but this share of its weights set to zero, smallest first; nothing removed."""
    model, network = load_model(source), load_network(source)
    arrays = initializer_arrays(model)
    names = list(network.weights)
    sizes = np.sort(np.concatenate([np.abs(arrays[name]).ravel() for name in names]))
    threshold = sizes[round((1 - share) * len(sizes))]
    for name in names:
        set_array(model, name, np.where(np.abs(arrays[name]) < threshold, 0, arrays[name]))
    save_model(model, path)
