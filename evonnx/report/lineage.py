"""Who descends from whom, as a tree: the ancestor on top, a generation per row, best.onnx beside it."""

from __future__ import annotations

from dataclasses import dataclass

from evonnx.report.reading import Entry, Run
from evonnx.report.table import html
from evonnx.report.tables import times

_WIDE, _HIGH, _ACROSS, _DOWN = 172, 46, 24, 26
"""Of a card and of the gaps between cards, in user units."""


@dataclass(frozen=True)
class Card:
    """Where an entry stands: column and row of the tree."""

    entry: Entry
    column: int
    row: int

    @property
    def x(self) -> int:
        """Left edge, in user units."""
        return 2 + self.column * (_WIDE + _ACROSS)

    @property
    def y(self) -> int:
        """Upper edge."""
        return 2 + self.row * (_HIGH + _DOWN)


def layout(run: Run) -> list[Card]:
    """A row per generation in order, siblings side by side; best.onnx to the right of everything."""
    rows = {number: row for row, number in enumerate(sorted({one.generation for one in run.line}))}
    used = dict.fromkeys(rows.values(), 0)
    cards = []
    for one in run.line:
        row = rows[one.generation]
        cards.append(Card(one, used[row], row))
        used[row] += 1
    if run.has_best:
        best = run.entries[-1]
        cards.append(Card(best, max(used.values()), rows.get(best.generation, len(rows) - 1)))
    return cards


def tree(run: Run) -> str:
    """The tree as SVG, as large as it is."""
    cards = layout(run)
    by_label = {card.entry.label: card for card in cards}
    wide = max(card.x for card in cards) + _WIDE + 2
    high = max(card.y for card in cards) + _HIGH + 2
    parts = [
        f'<svg viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" role="img" '
        'aria-label="Lineage: each model under its parents">'
    ]
    for card in cards:
        parts += [_edge(by_label[name], card) for name in card.entry.parents if name in by_label]
    parts += [_drawn(run, card) for card in cards]
    return "\n".join([*parts, "</svg>"])


def _edge(parent: Card, child: Card) -> str:
    if parent.row == child.row:  # best.onnx
        x1, y = parent.x + _WIDE, parent.y + _HIGH // 2
        return f'<path class="edge best" d="M{x1} {y}H{child.x}"/>'
    x1, y1 = parent.x + _WIDE // 2, parent.y + _HIGH
    x2, y2 = child.x + _WIDE // 2, child.y
    middle = y2 - _DOWN // 2
    return f'<path class="edge" d="M{x1} {y1}C{x1} {middle} {x2} {y2 - _DOWN} {x2} {y2}"/>'


def _drawn(run: Run, card: Card) -> str:
    one = card.entry
    name = "ancestor" if one.generation == 0 and not one.parents else one.label
    score = one.score if one.score is not None else one.score_validation
    facts = f"{times(one.architectural_efficiency)}, {run.score_with_unit(score)}"
    said = f"{name}: {facts}" + (f"; from {', '.join(one.parents)}" if one.parents else "")
    title = name if one.label.startswith("best") or not one.parents else f"generation {name}"
    classes = "mark card" + (" best" if one.label.startswith("best") else "")
    return (
        f'<g class="{classes}" data-row="{card.row}" data-column="{card.column}">'
        f"<title>{html(said)}</title>"
        f'<rect x="{card.x}" y="{card.y}" width="{_WIDE}" height="{_HIGH}" rx="8"/>'
        f'<text class="name" x="{card.x + 12}" y="{card.y + 19}">{html(title)}</text>'
        f'<text class="facts" x="{card.x + 12}" y="{card.y + 36}">{html(facts)}</text></g>'
    )
