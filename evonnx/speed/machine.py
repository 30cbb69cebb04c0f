"""The machine that times are taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from evonnx.sessions import default_threads, versions

_CPUINFO = Path("/proc/cpuinfo")
_ARITHMETIC = ("avx", "amx", "fma", "sse4", "asimd", "sve", "bf16")
"""How the names of instruction sets begin that kernels are chosen by."""


def environment() -> dict[str, str]:
    """Machine and versions, for records."""
    return {
        "processor": _processor(),
        "cores": str(default_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions(),
    }


def arithmetic_of(cpuinfo: Path = _CPUINFO) -> dict[str, str]:
    """What decides how a float32 sum is rounded here, beside versions and threads: another processor, or one
    that hides an instruction set, adds in another order."""
    flags = {flag for line in _lines(cpuinfo, "flags", "Features") for flag in line.split()}
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(cpuinfo),
        "instructions": " ".join(sorted(flag for flag in flags if flag.startswith(_ARITHMETIC))),
    }


def _processor(cpuinfo: Path = _CPUINFO) -> str:
    names = _lines(cpuinfo, "model name")
    return names[0] if names else platform.processor() or os.environ.get("PROCESSOR_IDENTIFIER", "unknown")


def _lines(cpuinfo: Path, *keys: str) -> list[str]:
    """What Linux says under some keys, for the first of the processors that says it."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(keys)][:1]
