"""A small evolution: the tiny classifier, trained, with its task file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from evonnx.adapter import RetrainRequest
from evonnx.encodings import first_order
from evonnx.evolution import EvolveOptions, Pressure, Retraining, Selection, evolve
from evonnx.masks import live_masks
from evonnx.network import load_network
from evonnx.run_store import load_tensors
from evonnx.testing import ToyAdapter, tiny_classifier
from evonnx.testing.models import example_images

TASK = """
[task]
kind = "classification"
train = "train.npz"
validation = "validation.npz"
test = "test.npz"
"""


def write_case(folder: Path, test_labels_shift: int = 0) -> Path:
    """Model, data and task file; the test labels may be made wrong on purpose."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, split in enumerate(("train", "validation", "test")):
        images, labels = example_images(96 if split == "train" else 60, seed)
        if split == "test":
            labels = (labels + test_labels_shift) % 3
        np.savez(folder / f"{split}.npz", x=images, y=labels)
    (folder / "model.toml").write_text(TASK)
    onnx.save(tiny_classifier(), folder / "model.onnx")
    return folder / "model.onnx"


class MeasuringToy(ToyAdapter):
    """The toy adapter, with squared weights for sensitivities."""

    def sensitivities(self, request: RetrainRequest) -> dict[str, np.ndarray]:
        network = load_network(request.model)
        return {name: np.square(network.array(name)) for name in request.masks}


certain = replace(first_order, cluster_selectivity=0.001, synapse_selectivity=0.001)
PRESSURES = ("target", "budget", "best_effort", "encoding", "levels")


def options(**changes: Any) -> EvolveOptions:
    """Two quick generations with the toy adapter."""
    settings = {
        "keep": 0.7,
        "screen": 3,
        "offspring": 1,
        "epochs": 2,
        "generations": 2,
        "seed": 0,
        "max_drop": 1.0,
    }
    settings |= changes
    pressure = {name: settings[name] for name in PRESSURES if name in settings}
    return EvolveOptions(
        generations=settings["generations"],
        seed=settings["seed"],
        max_drop=settings["max_drop"],
        threads=1,
        pressure=Pressure(keep=settings["keep"], align=1, **pressure),
        selection=Selection(screen=settings["screen"], offspring=settings["offspring"]),
        retraining=Retraining(
            adapter=settings.get("adapter", "evonnx.testing:ToyAdapter"),
            epochs=settings["epochs"],
            recovery_epochs=settings.get("recovery_epochs", 1),
        ),
    )


def run(model: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Evolve and give the run's document."""
    return evolve(model, out=out, options=options(**changes)).record


def in_ancestor_coordinates(model: Path, ancestor: Path) -> dict[str, np.ndarray]:
    """Live synapses of a compact model, laid out in the ancestor's shapes by its lineage file."""
    lineage = load_tensors(model.parent / "lineage.safetensors")
    shapes = {name: weight.shape for name, weight in load_network(ancestor).weights.items()}
    found: dict[str, np.ndarray] = {}
    for name, mask in live_masks(load_network(model)).items():
        whole = np.zeros(shapes[name], dtype=bool)
        kept = [lineage.get(f"{name}:{axis}", np.arange(length)) for axis, length in enumerate(shapes[name])]
        whole[np.ix_(*kept)] = mask
        found[name] = whole
    return found


def metadata(model: Path) -> dict[str, str]:
    """metadata_props of a file."""
    return dict(ir.load(model).metadata_props)
