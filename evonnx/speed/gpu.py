"""What NVIDIA's driver says of the device that times are taken on, through its nvidia-smi."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from evonnx.speed.records import Device

_PLAIN = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "power.draw", "temperature.gpu")
_SLOWED = ("hw_thermal_slowdown", "hw_power_brake_slowdown", "sw_thermal_slowdown", "sw_power_cap")
_PREFIXES = ("clocks_event_reasons", "clocks_throttle_reasons")
"""What drivers call the reasons for low clocks, newer ones first."""


def read_device(
    run: Callable[..., Any] = subprocess.run, environment: Mapping[str, str] = os.environ
) -> Device:
    """The first device that CUDA may use, as it is now; a reason in place of figures where nobody tells.

    Args:
        run: `subprocess.run`.
        environment: names the devices that CUDA may use, if that was restricted.
    """
    first = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    said = "it gave no answer"
    for prefix in _PREFIXES:
        fields = [*_PLAIN, *(f"{prefix}.{name}" for name in _SLOWED)]
        query = ["nvidia-smi", f"--id={first}", f"--query-gpu={','.join(fields)}"]
        query.append("--format=csv,noheader,nounits")
        try:
            done = run(query, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            return Device(reason=f"nvidia-smi does not tell: {type(error).__name__}")
        cells = [cell.strip() for cell in done.stdout.strip().split(",")]
        if done.returncode == 0 and len(cells) == len(fields):
            return _device(dict(zip((*_PLAIN, *_SLOWED), cells, strict=True)))
        said = " ".join((done.stdout.strip() or done.stderr.strip() or said).split())
    return Device(reason=f"nvidia-smi does not tell: {said[:200]}")


def device_note(device: Device) -> str | None:
    """A sentence where the device was slowed down, or nothing is known of it."""
    if device.reason is not None:
        return f"Of the device nothing is known: {device.reason}."
    if device.slowed:
        reasons = ", ".join(name.replace("_", " ") for name in device.slowed)
        return f"The driver held {device.name}'s clocks down while this was measured ({reasons})."
    return None


def _device(said: Mapping[str, str]) -> Device:
    return Device(
        name=said["name"],
        driver=said["driver_version"],
        mhz=_number(said["clocks.sm"]),
        mhz_max=_number(said["clocks.max.sm"]),
        watts=_number(said["power.draw"]),
        celsius=_number(said["temperature.gpu"]),
        slowed=tuple(name for name in _SLOWED if said[name] == "Active"),
    )


def _number(cell: str) -> float | None:
    """None where the driver says "[N/A]" or the like."""
    try:
        return float(cell)
    except ValueError:
        return None
