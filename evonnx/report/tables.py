"""The tables of a run: the paper's, and what every offspring costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evonnx.report.reading import Entry, Run
from evonnx.report.table import Table


def times(value: float | None) -> str:
    """`9.71x`, or a dash where there is nothing to divide."""
    return "-" if value is None else f"{value:,.2f}x"


def whole(value: float | None) -> str:
    """A count with thousands set apart by commas, or a dash."""
    return "-" if value is None else f"{value:,.0f}"


def timing(bench: Mapping[str, Any]) -> str:
    """How it was timed: provider, precision, threads, processor."""
    threads = f"{bench['threads']} thread{'' if bench['threads'] == 1 else 's'}"
    return f"{bench['provider']}, {bench['precision']}, {threads}, {bench['environment']['processor']}"


def share_of(value: int, whole_value: int) -> str:
    """`12 of 20 (60.0%)`, or a dash where there never was anything."""
    return f"{whole(value)} of {whole(whole_value)} ({value / whole_value:.1%})" if whole_value else "-"


def milliseconds(value: float) -> str:
    """Three significant digits."""
    return f"{value:#.3g}" if value < 99.95 else f"{value:,.0f}"


def efficiency_table(run: Run) -> Table:
    """The paper's tables 1 and 2: generation, architectural efficiency, score."""
    return Table(
        "Architectural efficiency (A-E) and " + run.metric,
        ("Gen.", "A-E", run.metric_column, "validation"),
        tuple(
            (
                one.label,
                times(one.architectural_efficiency),
                run.score(one.score),
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
                f"{whole(one.filters)} of {whole(one.filters_ancestor)}",
                run.score(one.score),
            )
            for one in run.entries
        ),
        "C-E: the ancestor's kernels of convolutions over the offspring's live ones, as the paper counts.",
        marked=run.marked,
    )


def cost_table(run: Run) -> Table:
    """What an offspring costs, each measure by itself."""
    columns = ["Gen.", "synapses", "kernels", "filters", "parameters", "MACs", "bytes"]
    for batch in run.batches:
        columns += [f"ms (batch {batch})", "speed-up"]
    return Table(
        "Cost, each measure by itself",
        tuple(columns),
        tuple(
            (
                one.label,
                whole(one.synapses),
                whole(one.kernels),
                whole(one.filters),
                whole(one.parameters),
                whole(one.macs),
                whole(one.bytes),
                *_latency_cells(one, run.batches),
            )
            for one in run.entries
        ),
        "Synapses, kernels and filters are live ones; parameters are numbers stored in the file; MACs are "
        "multiply-accumulates of its graph for one example."
        + (f" Latency: median in onnxruntime, {timing(run.bench)}." if run.bench else ""),
        marked=run.marked,
    )


def _latency_cells(one: Entry, batches: Iterable[int]) -> Iterable[str]:
    for batch in batches:
        latency = one.latency.get(batch)
        yield milliseconds(latency.median_ms) if latency else "-"
        yield times(latency.ratio) if latency else "-"


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
                share_of(layer.synapses, layer.synapses_ancestor),
                share_of(layer.kernels, layer.kernels_ancestor),
                share_of(layer.filters, layer.filters_ancestor),
            )
            for layer in last.layers
        ),
        left=2,
    )


def tables(run: Run) -> tuple[Table, ...]:
    """Everything that a report shows as a table, in order."""
    return efficiency_table(run), cluster_table(run), cost_table(run), layer_table(run)


def summary(run: Run) -> str:
    """One sentence: what the last model has won and lost against the ancestor."""
    ancestor, last = run.entries[0], run.entries[-1]
    if len(run.entries) == 1:
        return "There is no offspring yet."
    name = "best.onnx" if run.has_best else f"Generation {last.label}"
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
