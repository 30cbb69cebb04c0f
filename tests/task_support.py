"""Task files with their data, and ancestors that are trained on them by the adapter itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from evolution_support import options
from onnx import numpy_helper

from evonnx import plugins
from evonnx.adapter import RetrainRequest, TrainingBudget
from evonnx.evaluation import evaluate
from evonnx.evolution import evolve
from evonnx.masks import live_masks
from evonnx.network import load_network
from evonnx.tasks import load_task

CLASSES = {
    "multi-output": "evonnx.tasks.regression:MultiOutputTask",
    "regression": "evonnx.tasks.regression:RegressionTask",
    "segmentation": "evonnx.tasks.segmentation:SegmentationTask",
}


def kind(name: str) -> str:
    """What a task file calls a kind; its class where the installed evonnx is an older one."""
    return CLASSES[name] if name in CLASSES and name not in plugins.tasks() else name


def write_task(folder: Path, name: str, text: str) -> Path:
    """`model.toml` in a folder, with the kind and these lines of [task]."""
    path = folder / "model.toml"
    path.write_text(f'[task]\nkind = "{kind(name)}"\n{text}\n')
    return path


def save(model: onnx.ModelProto, folder: Path) -> Path:
    """`model.onnx` in a folder."""
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def request(model: Path, task, **changes) -> RetrainRequest:
    """To train all live weights; `changes` are the budget's."""
    usual = {"epochs": 5, "batch_size": 16, "threads": 1, "optimizer": "adam", "learning_rate": 0.01}
    return RetrainRequest(
        model=model,
        masks=live_masks(load_network(model)),
        task=task,
        budget=TrainingBudget(**(usual | changes)),
        seed=0,
    )


def train(model: Path, adapter: str = "torch", **changes):
    """Train a model on the task beside it, in place; the history of losses."""
    task = load_task(model.with_suffix(".toml"), load_network(model))
    result = plugins.get("adapters", adapter)().retrain(request(model, task, **changes))
    proto = onnx.load(model)
    for tensor in proto.graph.initializer:
        if tensor.name in result.weights:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(result.weights[tensor.name]), tensor.name))
    onnx.save(proto, model)
    return result.history


def scores(model: Path, split: str = "test"):
    """A model's score on the task beside it."""
    return evaluate(model, load_task(model.with_suffix(".toml"), load_network(model)), split, threads=1)


def evolved(model: Path, out: Path, **changes):
    """One quick generation in torch; the run's record."""
    usual = {"adapter": "torch", "generations": 1, "keep": 0.7, "screen": 4, "epochs": 3}
    return evolve(model, out=out, options=options(**(usual | changes))).record
