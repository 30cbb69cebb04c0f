"""Timings as tables: what `evonnx bench` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evonnx.report.table import Table
from evonnx.report.tables import milliseconds, part, times, timing, whole

TOP_NODES = 15
"""Nodes that a table of times per node shows."""


def bench_tables(bench: Mapping[str, Any]) -> list[Table]:
    """Latency per model and batch size, what else was asked for, and where the nodes ran.

    Args:
        bench: `BenchResult.to_json()`.
    """
    rows = tuple(
        (
            named(one),
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
    more += layer_tables(bench["per_layer"]) if bench.get("per_layer") else []
    placed = tuple((named(one), whole(one["bytes"]), one["placement"]) for one in bench["models"])
    return [
        latency,
        *more,
        Table("Nodes by provider", ("model", "bytes", "nodes"), placed),
    ]


def named(one: Mapping[str, Any]) -> str:
    """A model, and the precision of a copy of it."""
    precision = one.get("precision", "fp32")
    return str(one["model"]) if precision == "fp32" else f"{one['model']} ({precision})"


def agreement_table(agreement: Sequence[Mapping[str, Any]]) -> Table:
    """How far outputs are from those of the first model, or of the file that a copy is of.

    Args:
        agreement: `BenchResult.to_json()["agreement"]`.
    """
    rows: list[tuple[str, ...]] = []
    for one in agreement:
        against = named({"model": one["against"], "precision": one["against_precision"]})
        start = (named(one), against)
        if one["reason"] is not None:
            rows.append((*start, f"not compared: {one['reason']}", str(one["batch"]), "-", "-", "-"))
        rows += [(*start, *_output_cells(output, one["batch"])) for output in one["outputs"]]
    return Table(
        "Agreement of outputs",
        ("model", "against", "output", "batch", "largest difference", "relative", "same"),
        tuple(rows),
        "On at least 16 random examples per batch size. Relative: over the largest number in the other's "
        "output. Same: examples with the same largest class, of integers the equal ones. Files that compute "
        "the same function differ by rounding only; how accurate a model is, random inputs do not say.",
        left=3,
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


def memory_table(memory: Sequence[Mapping[str, Any]]) -> Table:
    """What each model takes.

    Args:
        memory: `BenchResult.to_json()["memory"]`.
    """
    on_device = any(one["device_bytes"] is not None or one["device_reason"] for one in memory)
    columns = ("model", "batch", "resident MB", "without it, MB") + ("device MB",) * on_device
    rows = tuple(
        (named(one), str(one["batch"]), *map(megabytes, (one["resident_bytes"], one["baseline_bytes"])))
        + (megabytes(one["device_bytes"]),) * on_device
        for one in memory
    )
    reasons = dict.fromkeys(one[name] for one in memory for name in ("reason", "device_reason") if one[name])
    note = (
        "Each model in a process of its own. Resident: the peak while it is loaded and run, inputs and "
        "outputs included, over the same process with a model of one node."
    )
    return Table("Memory", columns, rows, " ".join([note, *(f"Not known: {why}." for why in reasons)]))


def layer_tables(per_layer: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Where time goes, the models side by side: per batch size, the nodes that take most, and operator types.

    Args:
        per_layer: `BenchResult.to_json()["per_layer"]`.
    """
    found = []
    for batch in dict.fromkeys(one["batch"] for one in per_layer):
        models = [one for one in per_layer if one["batch"] == batch]
        # Numbers stand for the models: their paths are wider than the figures under them.
        columns = tuple(cell for number in range(1, len(models) + 1) for cell in (f"us ({number})", "share"))
        legend = "; ".join(f"({number}) {named(one)}" for number, one in enumerate(models, start=1))
        nodes = [_keyed(one["nodes"]) for one in models]
        found.append(
            Table(
                f"Where time goes at batch {batch}: the nodes that take most",
                ("node", "operator", *columns),
                tuple((name, op_type, *cells) for (name, op_type, _), cells in _beside(nodes)[:TOP_NODES]),
                f"{legend}. Medians of onnxruntime's profiler, which costs time itself; fused and inserted "
                "nodes as it names them. --json has all nodes.",
                left=2,
            )
        )
        types = [{(one["op_type"],): one for one in model["op_types"]} for model in models]
        found.append(
            Table(
                f"Where time goes at batch {batch}: operator types",
                ("operator", *columns),
                tuple((op_type, *cells) for (op_type,), cells in _beside(types)),
                f"{legend}.",
            )
        )
    return found


Timed = Mapping[tuple[Any, ...], Mapping[str, Any]]


def _keyed(nodes: Sequence[Mapping[str, Any]]) -> Timed:
    """Nodes by name, operator type and how many like them came before: names may be there twice."""
    keyed: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for node in nodes:
        alike = 0
        while (key := (node["name"], node["op_type"], alike)) in keyed:
            alike += 1
        keyed[key] = node
    return keyed


def _beside(models: Sequence[Timed]) -> list[tuple[tuple[Any, ...], list[str]]]:
    """Times and shares of what goes by the same key in several models, what takes most in any first."""
    keys = dict.fromkeys(key for model in models for key in model)
    most = {key: max(model[key]["microseconds"] for model in models if key in model) for key in keys}
    rows = []
    for key in sorted(keys, key=lambda one: -most[one]):
        cells = []
        for model in models:
            one = model.get(key)
            cells += ["-", "-"] if one is None else [f"{one['microseconds']:,.0f}", f"{one['share']:.1%}"]
        rows.append((key, cells))
    return rows


def megabytes(value: int | None) -> str:
    """Millions of bytes, or a dash."""
    return "-" if value is None else f"{value / 1e6:,.1f}"
