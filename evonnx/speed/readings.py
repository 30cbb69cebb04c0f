"""What the operating system says of the cores that times are taken on. Whatever it does not say is None."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from evonnx.sessions import default_threads
from evonnx.speed.turns import Clock

_PROC = Path("/proc")
_CPUS = Path("/sys/devices/system/cpu")
_FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
"""Columns of a cpu line of /proc/stat; guest times after them are in user and nice already."""


@dataclass(frozen=True)
class Reading:
    """A moment: counters since the machine or the process started, and rates as they are."""

    seconds: float
    """Of a clock."""
    cores: int
    """That this process may run on; what follows is about these."""
    own_seconds: float
    """Processor time of this process, all its threads."""
    busy_seconds: float | None
    """Processor time of all processes on these cores."""
    stolen_seconds: float | None
    """Time that a hypervisor gave these cores to other machines."""
    switches: int | None
    """How often this process was made to wait although it had work."""
    throttled: int | None
    """How often a core was slowed down because it was hot."""
    mhz: float | None
    """Mean clock rate."""


def read(clock: Clock = time.perf_counter, proc: Path = _PROC, cpus: Path = _CPUS) -> Reading:
    """Take a reading.

    Args:
        clock: seconds.
        proc: where Linux tells of processes.
        cpus: where it tells of processors.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    busy, stolen = _core_seconds(proc / "stat", cores)
    return Reading(
        seconds=clock(),
        cores=default_threads(),
        own_seconds=time.process_time(),
        busy_seconds=busy,
        stolen_seconds=stolen,
        switches=_switches(),
        throttled=_throttled(cpus, cores),
        mhz=_mhz(proc / "cpuinfo", cpus, cores),
    )


def _core_seconds(stat: Path, cores: list[int] | None) -> tuple[float | None, float | None]:
    """Busy and stolen seconds of some cores."""
    ticks_per_second = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    busy = stolen = 0
    found = 0
    for line in _lines(stat):
        name, *figures = line.split()
        if not name.startswith("cpu") or name == "cpu" or len(figures) < len(_FIELDS):
            continue
        if cores is None or int(name[3:]) in cores:
            ticks = dict(zip(_FIELDS, map(int, figures), strict=False))
            stolen += ticks["steal"]
            busy += sum(ticks.values()) - ticks["steal"] - ticks["idle"] - ticks["iowait"]
            found += 1
    if not found or (cores is not None and found < len(cores)):
        return None, None
    return busy / ticks_per_second, stolen / ticks_per_second


def _switches() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _throttled(cpus: Path, cores: list[int] | None) -> int | None:
    counts = [
        _number(cpus / f"cpu{core}" / "thermal_throttle" / "core_throttle_count") for core in cores or ()
    ]
    known = [int(count) for count in counts if count is not None]
    return sum(known) if known else None


def _mhz(cpuinfo: Path, cpus: Path, cores: list[int] | None) -> float | None:
    """Mean clock rate: what the frequency driver says of these cores, else what /proc/cpuinfo says of all."""
    khz = [_number(cpus / f"cpu{core}" / "cpufreq" / "scaling_cur_freq") for core in cores or ()]
    rates = [rate / 1000 for rate in khz if rate is not None]
    if not rates:
        rates = [float(line.split(":", 1)[1]) for line in _lines(cpuinfo) if line.startswith("cpu MHz")]
    return sum(rates) / len(rates) if rates else None


def _number(path: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        return float(path.read_text())
    return None


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except OSError:
        return []
