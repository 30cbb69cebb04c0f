"""The tables of a run: the paper's, and what every offspring costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evonnx.report.reading import Latency, Run
from evonnx.report.table import Table


def times(value: float | None) -> str:
    """`9.71x`, or a dash where there is nothing to divide."""
    return "-" if value is None else f"{value:,.2f}x"


def whole(value: float | None) -> str:
    """A count with thousands set apart by commas, or a dash."""
    return "-" if value is None else f"{value:,.0f}"


def timing(bench: Mapping[str, Any]) -> str:
    """How it was timed: provider, precision, threads, processor; of a GPU also its name and how runs went."""
    threads = f"{bench['threads']} thread{'' if bench['threads'] == 1 else 's'}"
    parts = [
        bench["provider"],
        bench["precision"].replace(",", ", "),
        threads,
        bench["environment"]["processor"],
    ]
    device = bench.get("device") or {}
    if device.get("name"):
        parts.append(device["name"] + (f" at {device['mhz']:,.0f} MHz" if device.get("mhz") else ""))
    if bench.get("copies", "none") != "none":
        parts.append(f"copies {bench['copies']}")
    if bench.get("cuda_graphs"):
        parts.append("CUDA graphs")
    return ", ".join(parts)


def part(value: int, total: int) -> str:
    """`12 of 20`, or a dash where there never was anything."""
    return f"{whole(value)} of {whole(total)}" if total else "-"


def milliseconds(value: float) -> str:
    """Three significant digits."""
    return f"{value:#.3g}" if value < 99.95 else f"{value:,.0f}"


def efficiency_table(run: Run) -> Table:
    """The paper's tables 1 and 2: generation, architectural efficiency, score."""
    return Table(
        "Architectural efficiency (A-E) and " + run.metric,
        ("Gen.", "A-E", run.metric_column, *run.details, "validation"),
        tuple(
            (
                one.label,
                times(one.architectural_efficiency),
                run.score(one.score),
                *(run.score(one.details.get(name)) for name in run.details),
                run.score(one.score_validation),
            )
            for one in run.entries
        ),
        "Gen. 0 is the ancestor (the paper's Gen. 1). A-E: the ancestor's synapses over the offspring's live "
        f"ones. {run.metric.capitalize()} is on test data, which decided nothing; validation data did.",
        marked=run.marked,
    )


def cluster_table(run: Run) -> Table:
    """The paper's table 4: generation, cluster efficiency, score; filters beside it."""
    return Table(
        "Cluster efficiency (C-E) and " + run.metric,
        ("Gen.", "C-E", "filters", run.metric_column),
        tuple(
            (
                one.label,
                times(one.cluster_efficiency),
                part(one.filters, one.filters_ancestor),
                run.score(one.score),
            )
            for one in run.entries
        ),
        "C-E: the ancestor's kernels of convolutions over the offspring's live ones, as the paper counts.",
        marked=run.marked,
    )


def size_table(run: Run) -> Table:
    """How big an offspring is, each measure by itself."""
    return Table(
        "Size, each measure by itself",
        ("Gen.", "synapses", "kernels", "filters", "parameters", "MACs", "bytes"),
        tuple(
            (
                one.label,
                whole(one.synapses),
                whole(one.kernels),
                whole(one.filters),
                whole(one.parameters),
                whole(one.macs),
                whole(one.bytes),
            )
            for one in run.entries
        ),
        "Synapses, kernels and filters are live ones; parameters are numbers stored in the file; MACs are "
        "multiply-accumulates of its graph for one example.",
        marked=run.marked,
    )


def latency_table(run: Run, bench: Mapping[str, Any]) -> Table:
    """What was measured in onnxruntime, per batch size."""
    columns = ["Gen."]
    for batch in run.batches:
        columns += [f"ms (batch {batch})", "p10", "p90", "speed-up", "95% interval"]
    rows = []
    for one in run.entries:
        cells = [one.label]
        for batch in run.batches:
            cells += _latency_cells(one.latency.get(batch))
        rows.append(tuple(cells))
    note = f"Median and spread of one call, {timing(bench)}; the models took turns. Speed-up: against Gen. 0."
    return Table(
        "Latency",
        tuple(columns),
        tuple(rows),
        " ".join([note, *bench.get("notes", ())]),
        marked=run.marked,
    )


def _latency_cells(latency: Latency | None) -> tuple[str, ...]:
    if latency is None:
        return ("-",) * 5
    return (
        *map(milliseconds, (latency.median_ms, latency.p10_ms, latency.p90_ms)),
        times(latency.ratio),
        f"{latency.ratio_low:.2f} to {latency.ratio_high:.2f}",
    )


def pace_table(run: Run) -> Table:
    """Time as it was budgeted: what the cost table predicted, and what came out."""
    paced = [(one.label, one.pace) for one in run.entries if one.pace is not None]
    return Table(
        "Latency as the environment",
        ("Gen.", "predicted", "measured", "95% interval"),
        tuple(
            (
                label,
                f"{pace.predicted_share:.1%}",
                f"{pace.measured_share:.1%}",
                f"{pace.measured_share_low:.1%} to {pace.measured_share_high:.1%}",
            )
            for label, pace in paced
        ),
        "Of the ancestor's time, timed in turns with it. The prediction is the cost table's in run.json, "
        "corrected by pilots.",
    )


def mating_table(run: Run) -> Table:
    """Which offspring were bred from several parents."""
    return Table(
        "Mating",
        ("Gen.", "parents", "overlap", "synapses of parents", "of the joint network"),
        tuple(
            (
                str(one.generation),
                ", ".join(one.parents),
                f"{one.overlap:.1%}",
                ", ".join(map(whole, one.synapses_of_parents)),
                whole(one.synapses),
            )
            for one in run.matings
        ),
        "The fittest parent first. Overlap: clusters that live in both of two parents over those that live "
        "in either, as a mean over pairs. The joint network is their union; what its offspring may use is a "
        "share of what the fittest parent uses.",
        left=2,
    )


def front_table(run: Run) -> Table:
    """The Pareto front of all offspring that were raised."""
    return Table(
        "Pareto front",
        ("Gen.", f"validation {run.metric_column}", "synapses", "bytes", "time", "kept"),
        tuple(
            (
                one.name,
                run.score(one.score_validation),
                whole(one.synapses),
                whole(one.bytes),
                f"{one.latency_share:.1%}",
                one.kept or "no",
            )
            for one in run.front
        ),
        f"Of {run.front_of} retrained models those that no other beats in validation score, synapses and "
        "time at once. Time: of the ancestor's, timed in turns with it; times within 3% of each other count "
        "as equal.",
    )


def layer_table(run: Run) -> Table:
    """Survival per layer in the last entry (best.onnx once the run is finished)."""
    last = run.entries[-1]
    return Table(
        f"Layers of {last.label}",
        ("weight", "operator", "synapses", "kernels", "filters"),
        tuple(
            (
                layer.name,
                layer.op_type,
                part(layer.synapses, layer.synapses_ancestor),
                part(layer.kernels, layer.kernels_ancestor),
                part(layer.filters, layer.filters_ancestor),
            )
            for layer in last.layers
        ),
        left=2,
    )


def fault_table(run: Run) -> Table:
    """What went wrong, and what was done about it."""
    return Table(
        "Faults",
        ("Gen.", "while", "what", "in words", "done about it"),
        tuple(
            (label or "-", fault.stage, fault.kind, fault.detail, fault.action) for label, fault in run.faults
        ),
        left=5,
    )


def tables(run: Run) -> tuple[Table, ...]:
    """Everything that a report shows as a table, in order."""
    timed = [latency_table(run, run.bench)] if run.bench else []
    paced = [pace_table(run)] if any(one.pace for one in run.entries) else []
    faults = [fault_table(run)] if run.faults else []
    sizes = efficiency_table(run), cluster_table(run), size_table(run)
    mated = [mating_table(run)] if run.matings else []
    front = [front_table(run)] if run.front else []
    return *sizes, *mated, *paced, *timed, *front, *faults, layer_table(run)


def summary(run: Run) -> str:
    """One sentence: what the last model has won and lost against the ancestor."""
    ancestor, last = run.entries[0], run.entries[-1]
    if len(run.entries) == 1:
        return "There is no offspring yet."
    recovered = " after recovery training" if run.recovered else ""
    name = f"best.onnx, offspring {last.generation}{recovered}" if run.has_best else f"Offspring {last.label}"
    parts = [
        f"{times(last.architectural_efficiency)} fewer synapses",
        f"{times(ancestor.bytes / last.bytes)} fewer bytes",
    ]
    if ancestor.macs and last.macs:
        parts.append(f"{times(ancestor.macs / last.macs)} fewer MACs")
    for batch, one in last.latency.items():
        interval = f"95% interval {one.ratio_low:.2f} to {one.ratio_high:.2f}"
        parts.append(f"{times(one.ratio)} the speed at batch {batch} ({interval})")
    scores = f"test {run.metric} {run.score_with_unit(last.score)} from {run.score_with_unit(ancestor.score)}"
    return f"{name}: {', '.join(parts)}; {scores}."
