"""Timings as tables: what `evonnx bench` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evonnx.report.table import Table
from evonnx.report.tables import milliseconds, part, times, timing, whole


def bench_tables(bench: Mapping[str, Any]) -> list[Table]:
    """Latency per model and batch size, what else was asked for, and where the nodes ran.

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
    note = " ".join([note, *bench["notes"]])
    latency = Table("Latency in onnxruntime", columns, rows, note)
    asked = (("agreement", agreement_table), ("memory", memory_table))
    more = [table(bench[name]) for name, table in asked if bench.get(name)]
    placed = tuple((one["model"], whole(one["bytes"]), one["placement"]) for one in bench["models"])
    return [
        latency,
        *more,
        Table("Nodes by provider", ("model", "bytes", "nodes"), placed),
    ]


def agreement_table(agreement: Sequence[Mapping[str, Any]]) -> Table:
    """How far each model's outputs are from the first one's.

    Args:
        agreement: `BenchResult.to_json()["agreement"]`.
    """
    rows: list[tuple[str, ...]] = []
    for one in agreement:
        if one["reason"] is not None:
            rows.append((one["model"], f"not compared: {one['reason']}", str(one["batch"]), "-", "-", "-"))
        rows += [(one["model"], *_output_cells(output, one["batch"])) for output in one["outputs"]]
    return Table(
        "Agreement with the first model",
        ("model", "output", "batch", "largest difference", "relative", "same"),
        tuple(rows),
        f"On {agreement[0]['examples']} random examples or more per batch size. Relative: over the largest "
        "number in the first model's output. Same: examples with the same largest class, of integers the "
        "equal ones. Files that compute the same function differ by rounding only; how accurate a model is, "
        "random inputs do not say.",
        left=2,
    )


def memory_table(memory: Sequence[Mapping[str, Any]]) -> Table:
    """What each model takes.

    Args:
        memory: `BenchResult.to_json()["memory"]`.
    """
    on_device = any(one["device_bytes"] is not None or one["device_reason"] for one in memory)
    columns = ("model", "batch", "resident MB", "without it, MB") + ("device MB",) * on_device
    rows = tuple(
        (one["model"], str(one["batch"]), *map(megabytes, (one["resident_bytes"], one["baseline_bytes"])))
        + (megabytes(one["device_bytes"]),) * on_device
        for one in memory
    )
    reasons = dict.fromkeys(one[name] for one in memory for name in ("reason", "device_reason") if one[name])
    note = (
        "Each model in a process of its own. Resident: the peak while it is loaded and run, inputs and "
        "outputs included, over the same process with a model of one node."
    )
    return Table("Memory", columns, rows, " ".join([note, *(f"Not known: {why}." for why in reasons)]))


def megabytes(value: int | None) -> str:
    """Millions of bytes, or a dash."""
    return "-" if value is None else f"{value / 1e6:,.1f}"


def _output_cells(output: Mapping[str, Any], batch: int) -> tuple[str, ...]:
    if output["reason"] is not None:
        return f"{output['output']}: not compared, {output['reason']}", str(batch), "-", "-", "-"
    relative = output["relative_difference"]
    unlike = f", {output['not_finite']} not finite" if output["not_finite"] else ""
    return (
        output["output"],
        str(batch),
        f"{output['largest_difference']:.2e}{unlike}",
        "-" if relative is None else f"{relative:.2e}",
        "-" if output["same"] is None else part(output["same"], output["of"]),
    )
