"""A torch module, its export, an offspring and the plan: what the tests of plans begin with."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from removal_support import random_masks
from torch import nn

from evonnx.clusters import find_clusters
from evonnx.compaction import apply_plan as remove
from evonnx.compaction import plan_compaction
from evonnx.dependency import analyse
from evonnx.encodings.presets import adaptive
from evonnx.environment import Budget
from evonnx.genome import encode
from evonnx.masking import apply_masks
from evonnx.module_plan import ModulePlan, make_plan
from evonnx.network import load_network
from evonnx.onnx_io import initializer_arrays, save_model, set_array
from evonnx.synthesis import sample, solve

Build = Callable[[], nn.Module]
IMAGES = (1, 3, 16, 16)


def seeded(build: Build) -> nn.Module:
    """A module with the same weights each time, ready to be run."""
    torch.manual_seed(zlib.crc32(build.__name__.encode()))
    return build().eval()


def export(build: Build, path: Path, **options: object) -> Path:
    """The file that `torch.onnx.export` makes of it."""
    options = {"dynamo": False, "input_names": ["image"], **options}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            torch.onnx.export(seeded(build), (torch.randn(IMAGES),), str(path), **options)
        finally:
            logging.disable(logging.NOTSET)
    return path


@dataclass(frozen=True)
class Case:
    """An exported module and what became of it."""

    build: Build
    ancestor: Path
    masked: Path
    compact: Path
    plan: ModulePlan

    def module(self) -> nn.Module:
        """As it was exported."""
        return seeded(self.build)


def case_of(
    build: Build, ancestor: Path, kind: str = "sampled", *, seed: int = 1, share: float = 0.4
) -> Case:
    """An offspring of an exported module.

    Args:
        build: the module.
        ancestor: its export; masked and compact model are written beside it.
        kind: "sampled" channels as `synthesize` draws them, or a kind of `random_masks`.
        seed: of the draw.
        share: what lives.
    """
    network = load_network(ancestor)
    coupling, rng = analyse(network), np.random.default_rng(seed)
    if kind == "sampled":
        genome = encode(network, find_clusters(network, coupling, adaptive.granularity), adaptive)
        masks = sample(solve(network, coupling, genome, Budget(share), levels="clusters"), rng).masks
    else:
        masks = random_masks(network, coupling, kind, rng, share)
    masked, compact = ancestor.with_suffix(".masked.onnx"), ancestor.with_suffix(".compact.onnx")
    save_model(apply_masks(network, coupling, masks), masked)
    zeros = load_network(masked)
    save_model(remove(zeros, plan_compaction(zeros, analyse(zeros))).model, compact)
    return Case(build, ancestor, masked, compact, make_plan(network, load_network(compact)))


def trained(case: Case) -> Path:
    """A copy of the compact model whose weights and vectors have moved, as after retraining."""
    moved, rng = ir.load(case.compact), np.random.default_rng(3)
    for name, array in initializer_arrays(moved).items():
        tensor = case.plan.tensors.get(name)
        if tensor is not None and tensor.axes and tensor.zeroed:
            factors = rng.uniform(0.7, 1.3, array.shape)
            set_array(moved, name, (array * factors).astype(array.dtype))
    path = case.compact.with_suffix(".trained.onnx")
    save_model(moved, path)
    return path


def outputs_of_file(path: Path, image: torch.Tensor) -> list[np.ndarray]:
    """What onnxruntime makes of an image, without anything of the code under test."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {onnx.load(path).graph.input[0].name: image.numpy()})


def outputs_of_module(module: nn.Module, image: torch.Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        found = module(image)
    return [one.numpy() for one in (found if isinstance(found, tuple) else (found,))]


def assert_equal(module: nn.Module, path: Path) -> None:
    """Outputs within 1e-4 of each one's largest number, on an image that no code under test has seen."""
    image = torch.randn(IMAGES, generator=torch.Generator().manual_seed(17))
    pairs = list(zip(outputs_of_module(module, image), outputs_of_file(path, image), strict=True))
    assert pairs
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
