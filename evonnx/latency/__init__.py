"""Latency as the environment: what layers cost at other widths, measured on this machine."""

from evonnx.latency.measuring import Setting, latency_budget, measure_latency
from evonnx.latency.piloting import corrected, find_correction, latency_bound, measured_share

__all__ = [
    "Setting",
    "corrected",
    "find_correction",
    "latency_bound",
    "latency_budget",
    "measure_latency",
    "measured_share",
]
