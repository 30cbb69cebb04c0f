"""What decides the result of a run: recorded when it begins, compared when it is resumed."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evonnx.adapter import TrainingBudget
from evonnx.errors import RunError
from evonnx.evolution.options import EvolveOptions
from evonnx.genome import Encoding
from evonnx.onnx_io import model_digest
from evonnx.plugins import get
from evonnx.speed import arithmetic_of
from evonnx.task import Task

PACKAGES = ("evonnx", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "torch")
"""What decides the result whoever retrains."""


def configuration_of(
    model: Path, task: Task, options: EvolveOptions, encoding: Encoding, budget: TrainingBudget
) -> dict[str, Any]:
    """What must be equal for a run to be continued."""
    return {
        "model": model.name,
        "model_sha256": model_digest(model),
        "task": task.describe(),
        "options": options.to_json(),
        "encoding": {**vars(encoding), "strength": encoding.strength.name},
        "training": budget.__dict__,
        "versions": versions_of(get("adapters", options.retraining.adapter)),
        "machine": arithmetic_of(),
    }


def check_same(recorded: object, now: dict[str, Any], folder: Path) -> None:
    """Refuse to continue a run under another configuration.

    Raises:
        RunError: something differs; the message names each thing with both values.
    """
    plain = json.loads(json.dumps(now))
    if isinstance(recorded, dict):
        defaults = {"options": EvolveOptions().to_json(), "training": vars(TrainingBudget())}
        recorded = recorded | {
            name: _completed(recorded[name], usual)
            for name, usual in defaults.items()
            if isinstance(recorded.get(name), dict)
        }
        recorded = {"machine": plain["machine"]} | recorded  # not recorded by the first runs
    differing = sorted(_differences(recorded, plain))
    if differing:
        raise RunError(
            f"The run in {folder} was begun differently: {'; '.join(differing)}. "
            "Resume it with the same options, model, versions and machine, or start a new run."
        )


def _completed(recorded: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Options that a run knew nothing of had their defaults; what an option does by default never changes."""
    return recorded | {
        key: _completed(recorded[key], value)
        if isinstance(value, dict) and isinstance(recorded.get(key), dict)
        else recorded.get(key, value)
        for key, value in defaults.items()
    }


def _differences(recorded: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(recorded, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted({*recorded, *now})
            for line in _differences(recorded.get(key), now.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if recorded == now else [f"{path} was {recorded!r} and is {now!r}"]


def versions_of(adapter: object) -> dict[str, str]:
    """Of evonnx's own packages and the adapter's: installing another's ends no run."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *getattr(adapter, "packages", ())):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
