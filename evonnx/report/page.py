"""report.html: one self-contained page, nothing fetched, nothing run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evonnx.report.plots import Series, heatmap, line_chart
from evonnx.report.reading import Entry, Latency, Run
from evonnx.report.table import html, to_html
from evonnx.report.tables import milliseconds, tables, times, whole

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --fore: #1f2328; --soft: #59636e; --rule: #d8dee4;
  --mark: #eef6ff; --heat: #2166ac; --on-heat: #ffffff;
  --c0: #0b63ce; --c1: #bc4c00; --c2: #1a7f37; --c3: #8250df; --c4: #a40e56; }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --fore: #e6edf3; --soft: #9198a1;
  --rule: #30363d; --mark: #14233a; --heat: #58a6ff; --on-heat: #0d1117;
  --c0: #58a6ff; --c1: #f0883e; --c2: #3fb950; --c3: #bc8cff; --c4: #ff7bac; } }
body { background: var(--back); color: var(--fore); font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p.note, p.task, li { color: var(--soft); } p.note { font-size: .9rem; max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
.words { text-align: left; } tr.marked { background: var(--mark); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 0 2rem; }
svg { width: 100%; height: auto; font-family: inherit; }
.grid { stroke: var(--rule); stroke-width: 1; } .axis { stroke: var(--soft); }
.tick, .label { fill: var(--soft); font-size: 12px; } .label { fill: var(--fore); }
.line { fill: none; stroke-width: 2; } .bar { stroke-width: 1.5; opacity: .6; }
.dashed { stroke-dasharray: 5 4; }
.s0 { stroke: var(--c0); background: var(--c0); } .s1 { stroke: var(--c1); background: var(--c1); }
.s2 { stroke: var(--c2); background: var(--c2); } .s3 { stroke: var(--c3); background: var(--c3); }
.s4 { stroke: var(--c4); background: var(--c4); } .dot { fill: var(--back); stroke-width: 2; }
.cell { fill: var(--heat); } .share { fill: var(--fore); font-size: 11px; }
.share.strong { fill: var(--on-heat); }
.legend { display: flex; flex-wrap: wrap; gap: 0 1.2rem; list-style: none; margin: 0; padding: 0 0 0 3.6rem; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""


def page(run: Run) -> str:
    """The whole document."""
    sections = "".join(to_html(table) for table in tables(run))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html(run.model)}: evonnx</title>\n<style>{STYLE}</style></head><body>\n"
        f'<h1>{html(run.model)}</h1>\n<p class="task">{html(run.task)}</p>\n'
        f"{_plots(run)}{sections}{_notes(run)}{_facts(run)}</body></html>\n"
    )


def _plots(run: Run) -> str:
    """Plots need a second point to say anything."""
    if len(run.entries) < 2:
        return "<p>There is no offspring yet.</p>\n"
    parts = [
        _section(f"{run.metric_column} against A-E", _score_plot(run)),
        _section("Size", _size_plot(run)),
    ]
    if run.batches:
        parts.append(_section("Latency", _latency_plot(run)))
    columns = [one.label for one in run.line]
    names = [layer.name for layer in run.entries[0].layers]
    survival_of = [{layer.name: layer.survival for layer in one.layers} for one in run.line]
    shares = [[living.get(name, 0.0) for living in survival_of] for name in names]
    survival = _section(
        "Synapses that live, per layer and generation, in %", heatmap("Survival", names, columns, shares)
    )
    return f'<div class="plots">{"".join(parts)}</div>{survival}'


def _section(title: str, plot: str) -> str:
    return f"<section><h2>{html(title)}</h2>\n{plot}</section>\n"


def _score_plot(run: Run) -> str:
    measures: tuple[tuple[str, Callable[[Entry], float | None]], ...] = (
        ("test", lambda one: one.score),
        ("validation", lambda one: one.score_validation),
    )
    lines = [_score_series(run, name, run.line, pick) for name, pick in measures]
    if run.has_best:
        # Apart from the line: it stands beside the offspring whose structure it has.
        lines += [_score_series(run, f"best.onnx, {name}", run.entries[-1:], pick) for name, pick in measures]
    lines = [line for line in lines if line.points]
    if not lines:
        return "<p>Nothing was scored.</p>"
    return line_chart(
        f"{run.metric} against A-E", "A-E (times, logarithmic)", run.metric_column, lines, log_x=True
    )


def _score_series(
    run: Run, name: str, entries: Sequence[Entry], pick: Callable[[Entry], float | None]
) -> Series:
    factor = 100 if run.unit == "%" else 1
    known = [(one, value) for one in entries if (value := pick(one)) is not None]
    return Series(
        name,
        tuple((one.architectural_efficiency, factor * value) for one, value in known),
        tuple(
            f"{one.label}: {times(one.architectural_efficiency)}, {name} {run.score_with_unit(value)}"
            for one, value in known
        ),
    )


def _size_plot(run: Run) -> str:
    measures: tuple[tuple[str, Callable[[Entry], float | None]], ...] = (
        ("synapses", lambda one: one.synapses),
        ("parameters", lambda one: one.parameters),
        ("MACs", lambda one: one.macs),
        ("bytes", lambda one: one.bytes),
    )
    lines = []
    for name, pick in measures:
        base = pick(run.entries[0])
        if not base:
            continue
        # A logarithmic axis has no place for zero.
        known = [(one, value) for one in run.line if (value := pick(one))]
        lines.append(
            Series(
                name,
                tuple((one.generation, 100 * value / base) for one, value in known),
                tuple(f"{one.label}: {whole(value)} {name}" for one, value in known),
            )
        )
    return line_chart(
        "Size", "generation", "% of the ancestor (logarithmic)", lines, log_y=True, whole_x=True
    )


def _latency_plot(run: Run) -> str:
    lines = []
    for batch in run.batches:
        timed = [(one, one.latency[batch]) for one in run.line if batch in one.latency]
        lines.append(
            Series(
                f"batch {batch}",
                tuple((one.generation, latency.median_ms) for one, latency in timed),
                tuple(f"{one.label}: {_spread(latency)}, {times(latency.ratio)}" for one, latency in timed),
                tuple((latency.p10_ms, latency.p90_ms) for _, latency in timed),
            )
        )
    return line_chart(
        "Latency", "generation", "median ms, bars p10 to p90 (logarithmic)", lines, log_y=True, whole_x=True
    )


def _spread(latency: Latency) -> str:
    low, middle, high = (milliseconds(ms) for ms in (latency.p10_ms, latency.median_ms, latency.p90_ms))
    return f"{middle} ms ({low} to {high})"


def _notes(run: Run) -> str:
    if not run.notes:
        return ""
    return (
        "<section><h2>Notes</h2><ul>"
        + "".join(f"<li>{html(note)}</li>" for note in run.notes)
        + "</ul></section>\n"
    )


def _facts(run: Run) -> str:
    items = "".join(f"<dt>{html(name)}</dt><dd>{html(value)}</dd>" for name, value in run.facts.items())
    return f"<section><h2>How it was made</h2><dl>{items}</dl></section>\n"
