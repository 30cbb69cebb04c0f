"""The sections of report.html, in order; each is complete without script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evonnx.report import charts
from evonnx.report.inspection import part_of
from evonnx.report.lineage import tree
from evonnx.report.plots import heatmap
from evonnx.report.reading import Entry, Run
from evonnx.report.table import Table, html, to_html
from evonnx.report.tables import (
    cluster_table,
    efficiency_table,
    fault_table,
    latency_table,
    layer_table,
    milliseconds,
    pace_table,
    size_table,
    tables,
    whole,
)


@dataclass(frozen=True)
class Panel:
    """A section: one tab of the page."""

    name: str
    """Its id."""
    title: str
    content: str
    """HTML."""


def panels(run: Run) -> list[Panel]:
    """Sections that have something to say about this run."""
    found = [Panel("overview", "Overview", _overview(run)), Panel("layers", "Layers", _layers(run))]
    if run.bench:
        found.append(Panel("speed", "Speed", _speed(run, run.bench)))
    if trades := charts.trade_offs(run):
        found.append(Panel("choice", "Choice", _choice(run, trades)))
    if len(run.entries) > 1:
        found.append(Panel("lineage", "Lineage", _lineage(run)))
    found.append(Panel("pinned", "What stays", _pinned(run.pinned)))
    found.append(Panel("record", "Record", _record(run)))
    return found


def _overview(run: Run) -> str:
    """Plots need a second point to say anything."""
    tables = "".join(map(to_html, (efficiency_table(run), cluster_table(run), size_table(run))))
    if len(run.entries) < 2:
        return f"<p>There is no offspring yet.</p>\n{tables}"
    plots = _plot(f"{run.metric_column} against A-E", charts.score_chart(run)) + _plot(
        "Size", charts.size_chart(run)
    )
    if losses := charts.loss_chart(run):
        plots += _plot("Loss while retraining", losses)
    return f'<div class="plots">{plots}</div>\n<div class="tables">{tables}</div>\n'


def _plot(title: str, drawing: str, note: str = "") -> str:
    remark = f'<p class="note">{html(note)}</p>' if note else ""
    return f'<section class="chart"><h3>{html(title)}</h3>\n{drawing}{remark}</section>\n'


def _wide(title: str, drawing: str) -> str:
    """A drawing as large as it is, in a box that scrolls."""
    return (
        f'<div class="scroll chart" tabindex="0" role="region" aria-label="{html(title)}">{drawing}</div>\n'
    )


def _layers(run: Run) -> str:
    if len(run.entries) < 2:
        return to_html(layer_table(run))
    columns = [one.label for one in run.line]
    names = [layer.name for layer in run.entries[0].layers]
    survival_of = [{layer.name: layer.survival for layer in one.layers} for one in run.line]
    shares = [[living.get(name, 0.0) for living in survival_of] for name in names]
    title = "Synapses that live, per layer and generation, in %"
    return (
        '<div id="explorer"></div>\n'
        '<div class="tables">'
        f"<section><h3>{title}</h3>\n{_wide(title, heatmap('Survival', names, columns, shares))}</section>\n"
        f"{to_html(layer_table(run))}</div>\n"
    )


def _speed(run: Run, bench: Mapping[str, Any]) -> str:
    parts = ['<div id="compare"></div>\n']
    if len(run.line) > 1 and run.batches:
        parts.append(f'<div class="plots">{_plot("Latency", charts.latency_chart(run))}</div>\n')
    parts.append(to_html(latency_table(run, bench)))
    if any(one.pace for one in run.entries):
        parts.append(to_html(pace_table(run)))
    return "".join(parts)


def _choice(run: Run, trades: Sequence[charts.TradeOff]) -> str:
    words = (
        "A model is on the Pareto front if no other is at least as good in both, score and cost. "
        f"Scores are on {'test' if trades[0].tested else 'validation'} data; what is chosen was chosen on "
        "validation data."
    )
    plots = "".join(
        f'<section class="chart trade" data-name="{html(one.name)}"><h3>{html(run.metric)} against '
        f"{html(one.name)}</h3>\n{charts.trade_off_chart(run, one)}</section>\n"
        for one in trades
    )
    costs = to_html(costs_table(run, trades))
    if run.raised:
        plots += "".join(
            f'<section class="chart trade" data-name="{html(name)}, all offspring"><h3>All offspring: '
            f"{html(run.metric)} against {html(name)}</h3>\n{charts.raised_chart(run, name, cost_of)}"
            '<p class="note">On the front: no other beats it in validation score, synapses and time at '
            "once.</p></section>\n"
            for name, cost_of in charts.RAISED
        )
    return (
        f'<p>{html(words)}</p>\n<div class="beside"><div id="trades" class="plots">{plots}</div>\n'
        f"<div>{costs}{_titled(run, _CHOICE)}</div></div>\n"
    )


def costs_table(run: Run, trades: Sequence[charts.TradeOff]) -> Table:
    """Every model with its costs; a star where it is on that cost's front."""
    tested = trades[0].tested

    def cell(one: charts.TradeOff, entry: Entry) -> str:
        if entry not in one.entries:
            return "-"
        cost = one.costs[one.entries.index(entry)]
        shown = milliseconds(cost) if one.name.startswith("ms") else whole(cost)
        return f"{shown} *" if entry.label in one.labels else shown

    return Table(
        "Score and cost of every model",
        ("Gen.", run.metric_column, *(one.name for one in trades)),
        tuple(
            (
                entry.label,
                run.score(entry.score if tested else entry.score_validation),
                *(cell(one, entry) for one in trades),
            )
            for entry in run.entries
        ),
        "A star: on the Pareto front of score and that cost.",
        marked=run.marked,
    )


def _lineage(run: Run) -> str:
    told = to_html(descent_table(run)) + _titled(run, _LINEAGE)
    return f'<div class="beside">{_wide("Lineage", tree(run))}<div>{told}</div></div>\n'


def descent_table(run: Run) -> Table:
    """Parents of every model, what it was allowed to keep, and why it lives."""
    return Table(
        "How each came to live",
        ("Gen.", "parents", "chosen because", "kept", "bound", "samples", "proof"),
        tuple(
            (
                one.label,
                ", ".join("ancestor" if name == "0" else name for name in one.parents) or "-",
                one.reason or "-",
                _share(one.achieved),
                _share(one.bound),
                whole(one.screened),
                _proof(one),
            )
            for one in run.entries
        ),
        "Kept and bound: shares of the parent's budgeted quantity. Samples were scored before one was "
        "retrained. Proof: the compact model against the masked one, in tensors compared.",
        left=3,
        marked=run.marked,
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _proof(one: Entry) -> str:
    if one.proof is None:
        return "-"
    verdict = "void" if one.proof.void else "equal" if one.proof.passed else "failed"
    return f"{verdict}, {whole(one.proof.tensors)}"


def _pinned(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return (
            "<p>This run was recorded before evonnx wrote down what cannot be removed; "
            "<code>evonnx inspect</code> with the ancestor shows it.</p>\n"
        )
    words = (
        f"{part_of(record['synapses_removable'], record['synapses'])} of the ancestor's synapses can go if "
        f"every channel goes that can; {whole(record['removable'])} of {whole(record['channels'])} channels "
        "are not pinned. What cannot go stays for these reasons."
    )
    tables = [table for table in pinned_tables(record) if table.rows]
    none = "" if tables else "<p>Nothing is pinned.</p>\n"
    return f"<p>{html(words)}</p>\n{none}{''.join(map(to_html, tables))}"


def pinned_tables(record: Mapping[str, Any]) -> list[Table]:
    """What cannot be removed and why, as run.json has it."""
    total = record["synapses"]
    return [
        Table(
            "Pinned channels",
            ("first node", "reason", "nodes", "channels", "synapses touched"),
            tuple(
                (
                    str(one["node"]),
                    str(one["reason"]),
                    whole(one["nodes"]),
                    whole(one["channels"]),
                    part_of(one["synapses"], total),
                )
                for one in record["pins"]
            ),
            "Synapses touched have such a channel at one end; they go with their other end, if at all.",
            left=2,
        ),
        Table(
            "Kept equally many",
            ("first node", "reason", "nodes", "rows"),
            tuple(
                (
                    str(one["node"]),
                    str(one["reason"]),
                    whole(one["nodes"]),
                    f"{whole(one['groups'])} x {whole(one['members'])}",
                )
                for one in record["equal_counts"]
            ),
            left=2,
        ),
        Table(
            "Weights left alone",
            ("first node", "reason", "weights"),
            tuple(
                (str(one["node"]), str(one["reason"]), whole(one["nodes"])) for one in record["left_alone"]
            ),
            left=2,
        ),
    ]


_CHOICE, _LINEAGE = ("Pareto",), ("Mating",)
_PLACED = ("Architectural", "Cluster", "Size", "Latency", "Faults", "Layers of", *_CHOICE, *_LINEAGE)
"""How titles of tables begin that stand in a section of their own; others of a run are in its record."""


def _titled(run: Run, beginnings: tuple[str, ...]) -> str:
    return "".join(to_html(table) for table in tables(run) if table.title.startswith(beginnings))


def _record(run: Run) -> str:
    others = [table for table in tables(run) if not table.title.startswith(_PLACED)]
    notes = "".join(f"<li>{html(note)}</li>" for note in run.notes)
    facts = "".join(f"<dt>{html(name)}</dt><dd>{html(value)}</dd>" for name, value in run.facts.items())
    return (
        "".join(map(to_html, others))
        + (to_html(fault_table(run)) if run.faults else "")
        + (f"<section><h3>Notes</h3><ul>{notes}</ul></section>\n" if notes else "")
        + f"<section><h3>How it was made</h3><dl>{facts}</dl></section>\n"
    )
