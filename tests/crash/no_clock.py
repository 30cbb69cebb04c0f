"""Preloaded into a nursery: choices by the clock find all models equally fast, so that runs are alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evonnx.evolution import timings


def alike(models: Sequence[Path], **given: Any) -> Any:
    rows = [timings.Timing(1.0, 1.0, 1.0, 1.0) for _ in models]
    return SimpleNamespace(latencies=rows, provider="cpu", threads=1, rounds=10, notes=())


timings.bench = alike  # type: ignore[assignment]
