"""One model in a process of its own, and the memory that it takes: `python -m evonnx.speed.resident`.

Standard input has one JSON document, the arguments of `measure`; standard output gets one, its result.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evonnx.sessions import CPU, input_specs, make_session, probe_model, run_session
from evonnx.speed.feeding import feeds_for

RUNS = 3
"""Runs of the model before memory is read: the first ones still allocate."""

_PROC = Path("/proc/self")


def measure(
    model: str,
    batch: int,
    threads: int,
    providers: Sequence[str],
    seed: int,
    input_shapes: Mapping[str, Sequence[int]] | None,
) -> dict[str, Any]:
    """Load a model, run it, and say what this process then holds.

    Args:
        model: the file.
        batch: examples per run.
        threads: onnxruntime's.
        providers: as for `sessions.make_session`.
        seed: of the inputs.
        input_shapes: as for `feeding.feeds_for`.

    Returns:
        Fields of `records.Memory`: resident_bytes, baseline_bytes, device_bytes, reason, device_reason.
    """
    # What onnxruntime takes once, whatever it runs, belongs to the baseline.
    probe = make_session(probe_model(), threads=threads, providers=providers)
    run_session(probe, {"x": np.zeros((1, 1), np.float32)})
    del probe
    forget_peak()
    before = peak_bytes()
    session = make_session(model, threads=threads, providers=providers, spinning=True)
    feeds = feeds_for(input_specs(session), batch, np.random.default_rng([seed, 0]), input_shapes)
    for _ in range(RUNS):
        run_session(session, feeds)
    after = peak_bytes()
    found: dict[str, Any] = {
        "resident_bytes": None,
        "baseline_bytes": before,
        "reason": None,
        "device_bytes": None,
        "device_reason": None,
    }
    if before is None or after is None:
        found["reason"] = f"{sys.platform} does not tell a process's peak memory where evonnx looks for it"
    else:
        found["resident_bytes"] = after - before
    if providers[0] != CPU:
        used = device_bytes(os.getpid())
        found["device_reason" if isinstance(used, str) else "device_bytes"] = used
    return found


def forget_peak(proc: Path = _PROC) -> None:
    """Let the peak count from now on, where the kernel can: importing libraries has had a peak of its own."""
    with contextlib.suppress(OSError):
        (proc / "clear_refs").write_text("5")


def peak_bytes(proc: Path = _PROC) -> int | None:
    """Largest resident memory of this process so far; None where the platform does not tell."""
    with contextlib.suppress(OSError):
        for line in (proc / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    if sys.platform == "linux":
        return None  # there getrusage has the peak of the process that started this one
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_bytes(pid: int, run: Callable[..., Any] = subprocess.run) -> int | str:
    """Device memory that NVIDIA's driver says a process holds, or why it is not known.

    What a process holds after its runs is its peak but for scratch space: onnxruntime's arena gives nothing
    back. It includes the driver's context.

    Args:
        pid: the process.
        run: `subprocess.run`.
    """
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        done = run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvidia-smi does not tell: {type(error).__name__}"
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    own = [row[1] for row in rows if len(row) == 2 and row[0] == str(pid)]
    if not own or not all(cell.isdecimal() for cell in own):
        return "nvidia-smi does not list this process's memory (in a container it often can't)"
    return sum(int(cell) for cell in own) * 2**20


if __name__ == "__main__":
    print(json.dumps(measure(**json.load(sys.stdin))))
