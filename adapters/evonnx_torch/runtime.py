"""What torch runs on, and its process-wide settings, changed for the time of one retraining and put back."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's mallopt parameters (malloc.h)."""


def pick_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def native_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX-512 BF16 or AMX); emulated it is slow.

    Args:
        cpuinfo: where Linux lists the processor's abilities; without it torch is asked.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        flags = cpuinfo.read_text(errors="replace").split()
    except OSError:  # not Linux
        capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()
        flags = [name for name, given in capabilities.items() if given]
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


@contextmanager
def roomy_heap() -> Iterator[None]:
    """Let the C library keep freed blocks for the next step, where it is glibc.

    By default it gives large ones back to the kernel, which has to clear every page again: tens of thousands
    of page faults a step, most harmful with several threads.
    """
    try:
        library = ctypes.CDLL(None)
        adjust, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        yield
        return
    adjust(_MMAP_THRESHOLD, 2**30)
    adjust(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # Where its own adaptation ends up once large blocks have been freed.
        adjust(_MMAP_THRESHOLD, 2**25)
        adjust(_TRIM_THRESHOLD, 2**26)
        trim(0)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device. To a GPU it is copied from pinned memory, so that nobody waits: the next
    batch is prepared while this one is computed with."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fits(size: int, device: torch.device) -> bool:
    """Whether so many bytes may stay on a device: always on the CPU, up to a quarter of what is free on a
    GPU."""
    return device.type != "cuda" or 4 * size <= torch.cuda.mem_get_info(device)[0]


def is_memory_error(error: RuntimeError) -> bool:
    """Whether torch says that memory did not suffice, of a device or of the host."""
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def release(device: torch.device) -> None:
    """Let go of what a retraining that failed may have left on a device."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Of torch's own generators on the CPU and the device, by name."""
    state = {"random/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["random/cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state["random/cpu"])
    if "random/cuda" in state:
        torch.cuda.set_rng_state(state["random/cuda"])


@contextmanager
def deterministic(seed: int, threads: int | None, device: torch.device) -> Iterator[None]:
    """Seeded, deterministic algorithms, a fixed number of threads; everything restored afterwards.

    Results are equal bit for bit between processes only if the thread count is equal.
    """
    debugging: Any = torch.utils.deterministic  # its only attribute is made at run time
    before = (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
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
        # `use_deterministic_algorithms` does the same, but first imports torch's compiler for seconds.
        torch.set_deterministic_debug_mode("error")
        # A debugging aid that writes all memory twice.
        debugging.fill_uninitialized_memory = False
        with torch.random.fork_rng(devices), torch.enable_grad():
            torch.manual_seed(seed)
            yield
    finally:
        if torch.get_num_threads() != before[0]:
            torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
        torch.backends.cudnn.benchmark = before[2]
        torch.set_grad_enabled(before[3])
        debugging.fill_uninitialized_memory = before[4]
