"""Memory per model, read in a process that runs that model and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evonnx.text import plain

MEMORY_SECONDS = 600.0
"""Longest time that one model's process may take."""


def measure_memory(
    source: str | bytes,
    *,
    batch: int,
    threads: int,
    providers: Sequence[str],
    seed: int,
    input_shapes: Mapping[str, Sequence[int]] | None,
    spawn: Callable[..., Any] = subprocess.run,
) -> dict[str, Any]:
    """What `resident.measure` finds in a process of its own; a reason in place of figures where that fails.

    Args:
        source: a file, or a serialised model, which is written into a temporary folder meanwhile.
        batch: examples per run.
        threads: onnxruntime's.
        providers: onnxruntime's names.
        seed: of the inputs.
        input_shapes: as for `feeding.feeds_for`.
        spawn: `subprocess.run`.
    """
    with tempfile.TemporaryDirectory(prefix="evonnx-") as folder:
        model = source
        if isinstance(source, bytes):
            copy = Path(folder) / "model.onnx"
            copy.write_bytes(source)
            model = str(copy)
        shapes = None if input_shapes is None else {name: list(one) for name, one in input_shapes.items()}
        request: dict[str, Any] = {
            "model": model,
            "batch": batch,
            "threads": threads,
            "providers": list(providers),
        }
        request.update(seed=seed, input_shapes=shapes)
        # -P: nothing in the folder that the user works in takes the place of a library.
        command = [sys.executable, "-P", "-m", "evonnx.speed.resident"]
        try:
            done = spawn(
                command, input=json.dumps(request), capture_output=True, text=True, timeout=MEMORY_SECONDS
            )
        except (OSError, subprocess.SubprocessError) as error:
            return _unknown(f"its process could not run: {type(error).__name__}")
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        return _unknown(f"its process ended with code {done.returncode}: {said[-1] if said else 'no word'}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _unknown(reason: str) -> dict[str, Any]:
    names = ("resident_bytes", "baseline_bytes", "device_bytes", "device_reason")
    return {**dict.fromkeys(names), "reason": plain(reason)[:300]}
