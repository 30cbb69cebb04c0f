"""Timings as tables: what `evonnx bench` measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evonnx.report.table import Table
from evonnx.report.tables import milliseconds, times, timing, whole


def bench_tables(bench: Mapping[str, Any]) -> list[Table]:
    """Latency per model and batch size, and where the nodes ran.

    Args:
        bench: `BenchResult.to_json()`.
    """
    rows = tuple(
        (
            one["model"],
            str(one["batch"]),
            milliseconds(one["median_ms"]),
            milliseconds(one["p10_ms"]),
            milliseconds(one["p90_ms"]),
            whole(one["throughput"]),
            times(one["ratio"]),
            f"{one['ratio_low']:.2f} to {one['ratio_high']:.2f}",
        )
        for one in bench["latencies"]
    )
    columns = ("model", "batch", "median ms", "p10", "p90", "examples/s", "speed-up", "95% interval")
    note = f"{timing(bench)}; {bench['rounds']} rounds, the models taking turns. Speed-up: against the first."
    latency = Table("Latency in onnxruntime", columns, rows, note)
    placed = tuple((one["model"], whole(one["bytes"]), one["placement"]) for one in bench["models"])
    return [
        latency,
        Table("Nodes by provider", ("model", "bytes", "nodes"), placed, " ".join(bench["notes"])),
    ]
