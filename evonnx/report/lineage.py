"""Who descends from whom, as a tree: the ancestor on top, a generation per row, best.onnx beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from evonnx.report.reading import Run
from evonnx.report.table import html
from evonnx.report.tables import times

_WIDE, _HIGH, _ACROSS, _DOWN = 172, 46, 24, 26
"""Of a card and of the gaps between cards, in user units."""


@dataclass(frozen=True)
class Card:
    """A model: what is written on it, and where it stands."""

    key: str
    """By which its offspring name it."""
    title: str
    facts: str
    parents: tuple[str, ...]
    kind: str
    """"lives", "sibling", "dead" or "best"."""
    row: int
    column: int

    @property
    def x(self) -> int:
        """Left edge, in user units."""
        return 2 + self.column * (_WIDE + _ACROSS)

    @property
    def y(self) -> int:
        """Upper edge."""
        return 2 + self.row * (_HIGH + _DOWN)

    @property
    def said(self) -> str:
        """In words."""
        origin = f"; from {', '.join(self.parents)}" if self.parents else ""
        return f"{self.title}: {self.facts}{origin}"


def layout(run: Run) -> list[Card]:
    """A row per generation in order: who lives, its siblings, who was not kept; best.onnx right of all."""
    rows = {number: row for row, number in enumerate(sorted({one.generation for one in run.line}))}
    used = dict.fromkeys(rows.values(), 0)
    cards: list[Card] = []

    def put(key: str, title: str, facts: str, parents: tuple[str, ...], kind: str, row: int) -> None:
        cards.append(Card(key, title, facts, parents, kind, row, used[row]))
        used[row] += 1

    for one in run.line:
        score = one.score if one.score is not None else one.score_validation
        facts = f"{times(one.architectural_efficiency)}, {run.score_with_unit(score)}"
        title = f"generation {one.label}" if one.parents else "ancestor"
        row = rows[one.generation]
        put(one.label, title, facts, one.parents, "lives", row)
        for other in run.raised:
            if other.generation != one.generation or (other.kept and not other.is_sibling):
                continue
            efficiency = times(run.entries[0].synapses / max(other.synapses, 1))
            facts = f"{efficiency}, {run.score_with_unit(other.score_validation)}"
            kind = "sibling" if other.is_sibling else "dead"
            put(other.kept or other.name, other.name, facts, one.parents, kind, row)
    if run.has_best:
        best = run.entries[-1]
        row = rows.get(best.generation, len(rows) - 1)
        used[row] = max(used.values())
        facts = f"{times(best.architectural_efficiency)}, {run.score_with_unit(best.score)}"
        put(best.label, best.label, facts, best.parents, "best", row)
    return cards


def tree(run: Run) -> str:
    """The tree as SVG, as large as it is."""
    cards = layout(run)
    wide = max(card.x for card in cards) + _WIDE + 2
    high = max(card.y for card in cards) + _HIGH + 2
    parts = [
        f'<svg viewBox="0 0 {wide} {high}" width="{wide}" height="{high}" role="img" '
        'aria-label="Lineage: each model under its parents">'
    ]
    return "\n".join([*parts, *_edges(cards), *map(_drawn, cards), "</svg>"])


def _edges(cards: list[Card]) -> Iterator[str]:
    by_key = {card.key: card for card in cards}
    for card in cards:
        for parent in (by_key[name] for name in card.parents if name in by_key):
            if parent.row == card.row:  # best.onnx
                across, y = parent.x + _WIDE, parent.y + _HIGH // 2
                yield f'<path class="edge best" d="M{across} {y}H{card.x}"/>'
                continue
            x1, y1 = parent.x + _WIDE // 2, parent.y + _HIGH
            x2, y2 = card.x + _WIDE // 2, card.y
            middle = y2 - _DOWN // 2
            yield f'<path class="edge {card.kind}" d="M{x1} {y1}C{x1} {middle} {x2} {y2 - _DOWN} {x2} {y2}"/>'


def _drawn(card: Card) -> str:
    return (
        f'<g class="mark card {card.kind}" data-row="{card.row}" data-column="{card.column}">'
        f"<title>{html(card.said)}</title>"
        f'<rect x="{card.x}" y="{card.y}" width="{_WIDE}" height="{_HIGH}" rx="8"/>'
        f'<text class="name" x="{card.x + 12}" y="{card.y + 19}">{html(card.title)}</text>'
        f'<text class="facts" x="{card.x + 12}" y="{card.y + 36}">{html(card.facts)}</text></g>'
    )
