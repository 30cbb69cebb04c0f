"""The machine that times are taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from evonnx.sessions import default_threads, versions


def environment() -> dict[str, str]:
    """Machine and versions, for records."""
    return {
        "processor": _processor(),
        "cores": str(default_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or os.environ.get("PROCESSOR_IDENTIFIER", "unknown")
