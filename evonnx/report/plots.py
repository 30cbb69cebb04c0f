"""Plots as inline SVG that needs no script; colours come from the page's CSS, light and dark.

What can be pointed at has the class "mark", a row and a column for the arrow keys (data-row, data-column),
and says its value in a <title>; the page's script makes more of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from evonnx.report.table import html

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 76, 16, 12, 52
"""Margins in user units, around the plotting area."""
SERIES_COLOURS = 5
"""How many the page's CSS defines (.s0 ... .s4); further series start over with another dash."""


@dataclass(frozen=True)
class Series:
    """One line: points in plotting order, and optionally a bar from low to high at each."""

    name: str
    points: tuple[tuple[float, float], ...]
    labels: tuple[str, ...]
    """What hovering over each point says."""
    bars: tuple[tuple[float, float], ...] = ()
    joined: bool = True
    """Whether a line goes through the points."""
    names: tuple[str, ...] = ()
    """Written beside the points, where there are any."""


@dataclass(frozen=True)
class Axis:
    """Maps values to user units; logarithmic where `log` (every value must then be positive)."""

    title: str
    low: float
    high: float
    start: float
    stop: float
    log: bool = False
    whole: bool = False
    """Ticks at whole numbers only."""

    def at(self, value: float) -> float:
        """Position of a value."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values within the axis, at most ten."""
        if not self.log:
            raw = (self.high - self.low) / 6
            magnitude = 10 ** math.floor(math.log10(raw))
            step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw)
            step = max(1, step) if self.whole else step
            first = math.ceil(self.low / step - 1e-9)
            return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]
        for mantissas in ((1, 2, 5), (1,)):
            inside = self._round(mantissas)
            if 3 <= len(inside) <= 10:
                return inside
        if len(inside) > 10:
            return inside[:: math.ceil(len(inside) / 10)]
        finer = self._round(range(1, 10))  # less than a decade
        return finer if 3 <= len(finer) <= 10 else replace(self, log=False).ticks()

    def _round(self, mantissas: Iterable[int]) -> list[float]:
        """A logarithmic axis' numbers with these first digits."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [m * 10.0**decade for decade in decades for m in mantissas]
        return [v for v in values if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]


def axis(
    title: str, values: Sequence[float], start: float, stop: float, log: bool = False, whole: bool = False
) -> Axis:
    """An axis that holds all values with a little room around them."""
    low, high = min(values), max(values)
    if log:
        room = (high / low) ** 0.04 if high > low else 1.5
        return Axis(title, low / room, high * room, start, stop, True)
    room = (high - low) * 0.04 if high > low else abs(high) * 0.1 or 1.0
    return Axis(title, low - room, high + room, start, stop, whole=whole)


def line_chart(
    title: str,
    x_title: str,
    y_title: str,
    series: Sequence[Series],
    *,
    log_x: bool = False,
    log_y: bool = False,
    whole_x: bool = False,
) -> str:
    """A line chart with a legend under it.

    Args:
        title: said to screen readers; the page shows its own heading.
        x_title: what x is, with its unit.
        y_title: what y is, with its unit.
        series: at least one point in all.
        log_x: logarithmic x axis; every x must be positive.
        log_y: logarithmic y axis; every y must be positive.
        whole_x: x counts something; ticks at whole numbers only.
    """
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points] + [y for one in series for bar in one.bars for y in bar]
    x_axis = axis(x_title, xs, LEFT, WIDTH - RIGHT, log_x, whole_x)
    y_axis = axis(y_title, ys, HEIGHT - BOTTOM, TOP, log_y)
    parts = [_opening(title, WIDTH, HEIGHT), *_grid(x_axis, y_axis)]
    for index, one in enumerate(series):
        parts += _line(one, index, x_axis, y_axis)
    return "\n".join([*parts, "</svg>", _legend(series)])


def _opening(title: str, width: float, height: float, size: str = "") -> str:
    return f'<svg viewBox="0 0 {width:g} {height:g}"{size} role="img" aria-label="{html(title)}">'


def _grid(x_axis: Axis, y_axis: Axis) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in x_axis.ticks():
        x = x_axis.at(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:.4g}</text>'
        )
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    middle_x, middle_y = (LEFT + right) / 2, (TOP + bottom) / 2
    parts.append(f'<line class="axis" x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    parts.append(
        f'<text class="label" x="{middle_x:g}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{html(x_axis.title)}</text>"
    )
    parts.append(
        f'<text class="label" transform="translate(14 {middle_y:g}) rotate(-90)" text-anchor="middle">'
        f"{html(y_axis.title)}</text>"
    )
    return parts


def _line(one: Series, index: int, x_axis: Axis, y_axis: Axis) -> list[str]:
    look = f"s{index % SERIES_COLOURS}" + (" dashed" if index // SERIES_COLOURS % 2 else "")
    placed = [(x_axis.at(x), y_axis.at(y)) for x, y in one.points]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    parts = [f'<g class="series" data-series="{index}">']
    if one.joined and len(placed) > 1:
        parts.append(f'<polyline class="line {look}" points="{corners}"/>')
    for (x, _), (low, high) in zip(placed, one.bars, strict=False):
        parts.append(
            f'<line class="bar {look}" x1="{x:.1f}" y1="{y_axis.at(low):.1f}" '
            f'x2="{x:.1f}" y2="{y_axis.at(high):.1f}"/>'
        )
    for column, ((x, y), label) in enumerate(zip(placed, one.labels, strict=True)):
        parts.append(
            f'<circle class="mark dot {look}" data-row="{index}" data-column="{column}" '
            f'cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{html(label)}</title></circle>'
        )
    for (x, y), name in zip(placed, one.names, strict=False):
        beside = 'text-anchor="end" ' if x > WIDTH - 90 else ""
        shift = -9 if beside else 9
        parts.append(f'<text class="name-of" {beside}x="{x + shift:.1f}" y="{y - 7:.1f}">{html(name)}</text>')
    return [*parts, "</g>"]


def _legend(series: Sequence[Series]) -> str:
    if len(series) < 2:
        return ""
    items = "".join(
        f'<li data-series="{index}"><span class="swatch s{index % SERIES_COLOURS}"></span>'
        f"{html(one.name)}</li>"
        for index, one in enumerate(series)
    )
    return f'<ul class="legend">{items}</ul>'


def heatmap(
    title: str, rows: Sequence[str], columns: Sequence[str], shares: Sequence[Sequence[float]]
) -> str:
    """Shares in [0, 1] as a grid of tinted cells, each with its percentage.

    Args:
        title: said to screen readers.
        rows: one name per row.
        columns: one name per column.
        shares: rows x columns.
    """
    cell, height, left, top = 46, 22, 12 + 7 * max((len(name) for name in rows), default=0), 24
    left = min(left, 320)
    wide, high = left + cell * len(columns) + 4, top + height * len(rows) + 4
    # As large as it is: what is wider than the screen scrolls in its box.
    parts = [_opening(title, wide, high, f' width="{wide}" height="{high}"')]
    for index, name in enumerate(columns):
        x = left + cell * (index + 0.5)
        parts.append(
            f'<text class="tick" data-column="{index}" x="{x:g}" y="{top - 8}" text-anchor="middle">'
            f"{html(name)}</text>"
        )
    for row, (name, values) in enumerate(zip(rows, shares, strict=True)):
        y = top + height * row
        shown = name if len(name) <= 44 else "…" + name[-43:]
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{y + 15}" text-anchor="end">{html(shown)}'
            f"<title>{html(name)}</title></text>"
        )
        for column, share in enumerate(values):
            x = left + cell * column
            parts.append(
                f'<rect class="mark cell" data-row="{row}" data-column="{column}" '
                f'x="{x}" y="{y}" width="{cell - 2}" height="{height - 2}" rx="2" '
                f'fill-opacity="{cell_opacity(share):.3f}"><title>{html(name)}, {html(columns[column])}: '
                f"{share:.2%}</title></rect>"
                f'<text class="share" x="{x + cell / 2 - 1:g}" '
                f'y="{y + 14}" text-anchor="middle">{html(_percent(share))}</text>'
            )
    return "\n".join([*parts, "</svg>"])


def cell_opacity(share: float) -> float:
    """How strong a cell's tint is: visible at nothing, and letters can be read on it at all."""
    return 0.06 + 0.54 * share


def _percent(share: float) -> str:
    """At most four letters that tell 0 from almost nothing and 100% from almost all."""
    if share in (0.0, 1.0) or 0.1 <= share < 0.995:
        return f"{100 * share:.0f}"
    return f"{100 * share:.1f}" if share >= 0.001 else "<.1"
