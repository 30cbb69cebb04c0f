"""A run's figures as line charts and scatter plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evonnx.report.descent import Raised
from evonnx.report.pareto import front
from evonnx.report.plots import Series, line_chart
from evonnx.report.reading import Entry, Latency, Run
from evonnx.report.tables import milliseconds, times, whole

Pick = Callable[[Entry], float | None]

SIZES: tuple[tuple[str, Pick], ...] = (
    ("synapses", lambda one: one.synapses),
    ("parameters", lambda one: one.parameters),
    ("MACs", lambda one: one.macs),
    ("bytes", lambda one: one.bytes),
)


def score_chart(run: Run) -> str:
    """Score against architectural efficiency, or a sentence where nothing was scored."""
    measures: tuple[tuple[str, Pick], ...] = (
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


def _score_series(run: Run, name: str, entries: Sequence[Entry], pick: Pick) -> Series:
    factor = _factor(run)
    known = [(one, value) for one in entries if (value := pick(one)) is not None]
    return Series(
        name,
        tuple((one.architectural_efficiency, factor * value) for one, value in known),
        tuple(
            f"{one.label}: {times(one.architectural_efficiency)}, {name} {run.score_with_unit(value)}"
            for one, value in known
        ),
    )


def _factor(run: Run) -> int:
    return 100 if run.unit == "%" else 1


def size_chart(run: Run) -> str:
    """Each measure of size as a share of the ancestor's, generation by generation."""
    lines = []
    for name, pick in SIZES:
        base = pick(run.entries[0])
        if not base:
            continue
        # A logarithmic axis has no place for zero.
        known = [(one, value) for one in run.line if (value := pick(one))]
        lines.append(
            Series(
                name,
                tuple((one.generation, 100 * value / base) for one, value in known),
                tuple(f"{one.label}: {whole(value)} {name}, {value / base:.2%}" for one, value in known),
            )
        )
    return line_chart("Size", "generation", "% of the ancestor (log)", lines, log_y=True, whole_x=True)


def latency_chart(run: Run) -> str:
    """Median and spread per batch size, generation by generation."""
    lines = []
    for batch in run.batches:
        timed = [(one, one.latency[batch]) for one in run.line if batch in one.latency]
        lines.append(
            Series(
                f"batch {batch}",
                tuple((one.generation, latency.median_ms) for one, latency in timed),
                tuple(f"{one.label}: {spread(latency)}, {times(latency.ratio)}" for one, latency in timed),
                tuple((latency.p10_ms, latency.p90_ms) for _, latency in timed),
            )
        )
    return line_chart("Latency", "generation", "ms, bars p10 to p90 (log)", lines, log_y=True, whole_x=True)


def loss_chart(run: Run) -> str:
    """Loss after each epoch, generation after generation; empty where fewer than two are known."""
    lines: list[Series] = []
    epochs = 0
    for name, entries in (("retraining", run.line), ("recovery", run.entries[len(run.line) :])):
        points: list[tuple[float, float]] = []
        labels: list[str] = []
        for one in entries:
            for epoch, loss in enumerate(one.training, start=1):
                epochs += 1
                if math.isfinite(loss):
                    points.append((epochs, loss))
                    labels.append(f"{one.label}, epoch {epoch}: {loss:.4g}")
        if points:
            lines.append(Series(name, tuple(points), tuple(labels)))
    losses = [loss for one in lines for _, loss in one.points]
    if len(losses) < 2:
        return ""
    log = min(losses) > 0
    title = "loss (log)" if log else "loss"
    return line_chart("Loss", "epochs of all trainings", title, lines, log_y=log, whole_x=True)


def spread(latency: Latency) -> str:
    """`0.300 ms (0.285 to 0.330)`."""
    low, middle, high = (milliseconds(ms) for ms in (latency.p10_ms, latency.median_ms, latency.p90_ms))
    return f"{middle} ms ({low} to {high})"


@dataclass(frozen=True)
class TradeOff:
    """Score against one measure of cost."""

    name: str
    """Of the cost, such as "bytes" or "ms at batch 1"."""
    entries: tuple[Entry, ...]
    """Those whose score and cost are known."""
    costs: tuple[float, ...]
    scores: tuple[float, ...]
    on_front: tuple[int, ...]
    """Positions in `entries`, the cheapest first."""
    tested: bool
    """Scores are those on test data, else on validation data."""

    @property
    def labels(self) -> frozenset[str]:
        """Of the entries on the front."""
        return frozenset(self.entries[one].label for one in self.on_front)


def trade_offs(run: Run) -> list[TradeOff]:
    """One per measure of cost of which at least two models' are known."""

    def latency_of(batch: int) -> Pick:
        return lambda one: one.latency[batch].median_ms if batch in one.latency else None

    timed = [(f"ms at batch {batch}", latency_of(batch)) for batch in run.batches]
    tested = all(one.score is not None for one in run.entries)
    found = []
    for name, cost_of in (*SIZES, *timed):
        known = [
            (one, cost, score)
            for one in run.entries
            if (cost := cost_of(one)) and (score := one.score if tested else one.score_validation) is not None
        ]
        if len(known) < 2:
            continue
        entries, costs, scores = zip(*known, strict=True)
        on_front = front(costs, scores, run.higher_is_better)
        found.append(TradeOff(name, entries, costs, scores, on_front, tested))
    return found


def _named(label: str, on_front: bool) -> str:
    """What is written beside a point: too many names would hide the points."""
    return label if on_front or label.startswith("best") else ""


def trade_off_chart(run: Run, one: TradeOff) -> str:
    """Every model as a point; a line through those on the front."""
    factor = _factor(run)
    points = [(cost, factor * score) for cost, score in zip(one.costs, one.scores, strict=True)]

    def cost_of(position: int) -> str:
        cost = one.costs[position]
        return f"{milliseconds(cost) if one.name.startswith('ms') else whole(cost)} {one.name}"

    labels = [
        f"{entry.label}: {cost_of(position)}, {run.score_with_unit(one.scores[position])}"
        for position, entry in enumerate(one.entries)
    ]
    behind = [position for position in range(len(points)) if position not in one.on_front]
    parts = [
        Series(
            name,
            tuple(points[at] for at in chosen),
            tuple(labels[at] for at in chosen),
            joined=joined,
            names=tuple(_named(one.entries[at].label, at in one.on_front) for at in chosen),
        )
        for name, chosen, joined in (
            ("Pareto front", one.on_front, True),
            ("not on it", behind, False),
        )
        if chosen
    ]
    return line_chart(
        f"{run.metric} against {one.name}",
        f"{one.name} (logarithmic)",
        f"{run.metric_column} ({'test' if one.tested else 'validation'})",
        parts,
        log_x=True,
    )


RAISED: tuple[tuple[str, Callable[[Raised], float]], ...] = (
    ("synapses", lambda one: one.synapses),
    ("bytes", lambda one: one.bytes),
    ("time, % of the ancestor's", lambda one: 100 * one.latency_share),
)


def raised_chart(run: Run, name: str, cost_of: Callable[[Raised], float]) -> str:
    """Every offspring that was retrained: those on the recorded front, those that live, and the others."""
    factor = _factor(run)

    def shown(one: Raised) -> str:
        return f"{cost_of(one):.1f}" if name.startswith("time") else whole(cost_of(one))

    def series(title: str, chosen: list[Raised]) -> Series:
        return Series(
            title,
            tuple((cost_of(one), factor * one.score_validation) for one in chosen),
            tuple(
                f"{one.name}: {shown(one)} {name}, {run.score_with_unit(one.score_validation)}"
                for one in chosen
            ),
            joined=False,
            names=tuple(one.name.replace(" offspring ", "") if one.on_front else "" for one in chosen),
        )

    groups = (
        series("on the front", [one for one in run.raised if one.on_front]),
        series("lives", [one for one in run.raised if one.kept and not one.on_front]),
        series("not kept", [one for one in run.raised if not one.kept and not one.on_front]),
    )
    return line_chart(
        f"All offspring: {run.metric} against {name}",
        f"{name} (logarithmic)",
        f"{run.metric_column} (validation)",
        [one for one in groups if one.points],
        log_x=True,
    )
