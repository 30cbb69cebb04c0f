"""Torch's process-wide settings, changed for the time of one retraining and put back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def pick_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def deterministic(seed: int, threads: int | None, device: torch.device) -> Iterator[None]:
    """Seeded, deterministic algorithms, a fixed number of threads; everything restored afterwards.

    Results are equal bit for bit between processes only if the thread count is equal.
    """
    debugging: Any = torch.utils.deterministic  # its only attribute is made at run time
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.is_grad_enabled(),
        debugging.fill_uninitialized_memory,
    )
    if device.type == "cuda":
        # cuBLAS reads it when its first handle is made.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    try:
        if threads is not None and threads != before[0]:
            torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)
        # A debugging aid that writes all memory twice.
        debugging.fill_uninitialized_memory = False
        with torch.random.fork_rng(devices), torch.enable_grad():
            torch.manual_seed(seed)
            yield
    finally:
        if torch.get_num_threads() != before[0]:
            torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        torch.backends.cudnn.benchmark = before[3]
        torch.set_grad_enabled(before[4])
        debugging.fill_uninitialized_memory = before[5]
