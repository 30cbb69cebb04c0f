"""A scripted run under the live dashboard, on standard error; goes on whenever a line comes in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from evonnx.adapter import Progress
from evonnx.cli._live import LiveObserver


def row(generation: int, **changes: Any) -> dict[str, Any]:
    """Figures of a generation."""
    return {
        "generation": generation,
        "architectural_efficiency": 1.5**generation,
        "cluster_efficiency": 1.2**generation,
        "score_validation": 0.98 - generation / 1000,
        "bytes": 1_700_000 // generation,
        "retrain_seconds": 12.0,
        "overhead_seconds": 3.4,
        "faults": [],
        **changes,
    }


FAULT = {"stage": "retraining", "kind": "out of memory", "detail": "-", "action": "tried with half the batch"}


def main() -> None:
    """Two generations, a third that is being retrained; a line; the rest."""
    observer = LiveObserver(Console(stderr=True))
    with observer:
        observer.opened(Path("run"))
        observer.started("lenet5.onnx: classification [of digits]", 4, ["Task from lenet5.toml."])
        for generation in (1, 2):
            observer.stage(generation, "sampling")
            observer.stage(generation, "screening 1/2")
            observer.generation_done(row(generation, faults=[FAULT] * (generation == 2)))
        observer.stage(3, "retraining")
        for epoch in (1, 2):
            for step in range(1, 21):
                observer.training(3, Progress(epoch, 3, step, 20, 2.0 / (20 * epoch + step)))
        sys.stdin.readline()
        observer.note("A late remark.")
        sys.stdin.readline()
        observer.generation_done(row(3))
        observer.stage(0, "timing in onnxruntime")


if __name__ == "__main__":
    main()
