"""report.html: one self-contained page. It fetches nothing, and all it runs is its own script, by its hash.

Everything is there without script: tables and plots, one section after the other. The script (assets/) makes
tabs of the sections, adds what can only be done by asking (another generation, another model), and reads
values out of the plots.
"""

from __future__ import annotations

from dataclasses import dataclass

from evonnx.report.embedded import embedded
from evonnx.report.embedding import policy, safe_json, script, style
from evonnx.report.panels import Panel, panels
from evonnx.report.reading import Run
from evonnx.report.table import html
from evonnx.report.tables import summary, times, whole


def page(run: Run) -> str:
    """The whole document."""
    parts = panels(run)
    links = "".join(f'<a href="#{one.name}">{html(one.title)}</a>' for one in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html(policy())}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{html(run.model)}: evonnx</title>\n<style>{style()}</style></head><body>\n"
        '<a class="skip" href="#main">Skip to the figures</a>\n'
        f"{_header(run)}"
        f'<nav id="tabs" aria-label="Sections">{links}</nav>\n'
        f'<main id="main">\n{"".join(map(_section, parts))}</main>\n'
        "<footer>Made by evonnx. Nothing on this page is fetched from anywhere.</footer>\n"
        f'<script type="application/json" id="run">{safe_json(embedded(run))}</script>\n'
        f'<script type="module">{script()}</script>\n'
        "</body></html>\n"
    )


def _section(one: Panel) -> str:
    return (
        f'<section class="panel" id="{one.name}" aria-labelledby="{one.name}-title">\n'
        f'<h2 id="{one.name}-title">{html(one.title)}</h2>\n{one.content}</section>\n'
    )


def _header(run: Run) -> str:
    tiles = "".join(
        f"<li><b>{html(one.figure)}</b> <span>{html(one.what)}</span> <small>{html(one.detail)}</small></li>"
        for one in headlines(run)
    )
    return (
        f'<header>\n<p class="kicker">Evolved by evonnx</p>\n<h1>{html(run.model)}</h1>\n'
        f'<p class="task">{html(run.task)}</p>\n'
        f'<p class="headline">{html(_subject(run))}</p>\n'
        + (f'<ul class="tiles">{tiles}</ul>\n' if tiles else "")
        + "</header>\n"
    )


def _subject(run: Run) -> str:
    """What the figures are of."""
    if len(run.entries) < 2:
        return summary(run)
    last = run.entries[-1]
    if not run.has_best:
        return f"Offspring {last.label} beside its ancestor; the run is not finished:"
    recovered = ", after recovery training" if run.recovered else ""
    return f"best.onnx (offspring {last.generation}{recovered}) beside its ancestor:"


@dataclass(frozen=True)
class Headline:
    """A figure to remember."""

    figure: str
    what: str
    detail: str


def headlines(run: Run) -> list[Headline]:
    """The last model beside the ancestor: size, speed, score; none before there is an offspring."""
    ancestor, last = run.entries[0], run.entries[-1]
    if len(run.entries) < 2:
        return []
    found = [
        Headline(
            times(last.architectural_efficiency),
            "fewer synapses",
            f"{whole(ancestor.synapses)} to {whole(last.synapses)}",
        ),
        Headline(
            times(ancestor.bytes / last.bytes),
            "smaller file",
            f"{whole(ancestor.bytes / 1e3)} kB to {whole(last.bytes / 1e3)} kB",
        ),
    ]
    if ancestor.macs and last.macs:
        found.append(
            Headline(
                times(ancestor.macs / last.macs),
                "fewer multiply-accumulates",
                f"{whole(ancestor.macs)} to {whole(last.macs)}",
            )
        )
    for batch, one in last.latency.items():
        interval = f"95% interval {one.ratio_low:.2f} to {one.ratio_high:.2f}"
        found.append(Headline(times(one.ratio), f"the speed, batch {batch}", interval))
    if last.score is not None:
        before = run.score_with_unit(ancestor.score)
        found.append(Headline(run.score_with_unit(last.score), f"test {run.metric}", f"from {before}"))
    return found
