"""Latency as the environment: what layers cost at other widths, measured on this machine."""

from evonnx.latency.measuring import latency_budget, measure_latency
from evonnx.latency.piloting import corrected, find_correction, measured_share

__all__ = ["corrected", "find_correction", "latency_budget", "measure_latency", "measured_share"]
