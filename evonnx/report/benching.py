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
    latency = Table("Latency in onnxruntime", columns, rows, note)
    checked = [agreement_table(bench["agreement"])] if bench.get("agreement") else []
    placed = tuple((one["model"], whole(one["bytes"]), one["placement"]) for one in bench["models"])
    return [
        latency,
        *checked,
        Table("Nodes by provider", ("model", "bytes", "nodes"), placed, " ".join(bench["notes"])),
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
