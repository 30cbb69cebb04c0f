"""How much of a model goes when a share of its synapses is kept, channel by channel: a row per model.

    python benchmarks/removal.py --keep 0.25 model.onnx unet timm:resnet50 timm:inception_v3@299 ...

A model is an ONNX file; a name in benchmarks/architectures.py; or LIBRARY:NAME with timm, torchvision or
ultralytics, where that is installed, and @SIDE for images that are not 224 pixels high. All but files are
exported with random weights, with --dynamo by the newer of torch's exporters. Each is sampled once (channel
clusters, no alignment), made compact, and proven equal to its masked form. "parameters" and "MACs" are the
original's over the compact model's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.clusters import find_clusters
from evonnx.compaction import apply_plan, plan_compaction
from evonnx.dependency import analyse
from evonnx.encodings.presets import adaptive
from evonnx.environment import Budget
from evonnx.errors import EvonnxError
from evonnx.genome import encode
from evonnx.masking import apply_masks
from evonnx.network import load_network, network_of
from evonnx.proof import prove
from evonnx.resources import count, ratios
from evonnx.synthesis import synthesize


def row(path: Path, keep: float, seed: int, threads: int) -> str:
    network = load_network(path)
    coupling = analyse(network)
    genes = replace(adaptive, granularity="channel", levels="clusters")
    genome = encode(network, find_clusters(network, coupling, "channel"), genes)
    sample = synthesize(
        network, coupling, genome, Budget(keep), np.random.default_rng(seed), best_effort=True, align=1
    )
    masked = network_of(apply_masks(network, coupling, sample.masks), str(path), network.input_shapes)
    start = time.process_time()
    plan = plan_compaction(masked, analyse(masked))
    compacted = apply_plan(masked, plan)
    seconds = time.process_time() - start
    made = network_of(compacted.model, str(path), network.input_shapes)
    found = ratios(count(network), count(made))
    proof = prove(masked.model, compacted, input_shapes=masked.input_shapes or None, threads=threads)
    verdict = "proven" if proof.passed else f"{'void' if proof.void else 'DIFFERS'}: {proof.reason[:80]}"
    macs = "-" if found.macs is None else f"{found.macs:.2f}x"
    return (
        f"| {path.stem} | {count(network).parameters / 1e6:.1f} | {sample.achieved_share:.3f} "
        f"| {found.parameters or 0:.2f}x | {macs} | {seconds:.2f} | {verdict} |"
    )


def from_library(library: str, name: str) -> Any:
    """A torch module with random weights."""
    if library == "timm":
        import timm

        return timm.create_model(name, pretrained=False)
    if library == "torchvision":
        import torchvision

        parts = {"weights_backbone": None} if "_resnet" in name else {}
        return torchvision.models.get_model(name, weights=None, **parts)
    from ultralytics import YOLO

    return YOLO(f"{name}.yaml").model


def wake(module: Any) -> None:
    """Draw weights that a library starts at zero (heads, the last scale of a branch): zeros are dead."""
    import torch

    for name, values in module.named_parameters():
        if values.any():
            continue
        if values.ndim > 1:
            torch.nn.init.normal_(values, std=0.02)
        elif name.endswith("weight"):
            torch.nn.init.ones_(values)


def exported(name: str, folder: Path, dynamo: bool) -> Path:
    import torch
    from architectures import ARCHITECTURES

    torch.manual_seed(0)
    library, _, rest = name.rpartition(":")
    label, _, size = rest.partition("@")
    side = int(size or 224)
    if library:
        module = from_library(library, label)
    else:
        module, side = ARCHITECTURES[label].build(), ARCHITECTURES[label].side
    wake(module)
    path = folder / f"{label}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.randn(1, 3, side, side)
        torch.onnx.export(module.eval(), (example,), str(path), dynamo=dynamo, input_names=["x"])
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--dynamo", action="store_true", help="export with torch's newer exporter")
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print("| model | M parameters | synapses kept | parameters | MACs | analysis to apply, CPU s | proof |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(name) if Path(name).exists() else exported(name, Path(folder), arguments.dynamo)
            try:
                print(row(path, arguments.keep, arguments.seed, arguments.threads), flush=True)
            except EvonnxError as error:
                print(f"| {path.stem} | refused: {error} |", flush=True)


if __name__ == "__main__":
    main()
