"""A table as data, and its three shapes: terminal, Markdown, HTML. Cells are text, never markup."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from evonnx.text import plain

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Table:
    """A titled table of text. The first `left` columns are words, the others figures, set flush right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    """A sentence or two under the table."""
    left: int = 1
    marked: tuple[int, ...] = ()
    """Rows to set off from the others, by index."""


def show(table: Table, console: Console) -> None:
    """Print with rich."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for index, column in enumerate(table.columns):
        # Where the terminal is narrow, words fold and figures stay whole.
        words = index < table.left
        drawn.add_column(
            Text(plain(column)), justify="left" if words else "right", overflow="fold", no_wrap=not words
        )
    for index, row in enumerate(table.rows):
        style = "bold" if index in table.marked else None
        drawn.add_row(*(Text(plain(cell)) for cell in row), style=style)
    console.print(Text(plain(table.title), style="bold"))
    console.print(drawn)
    if table.note:
        console.print(Text(plain(table.note), style="dim"))
        console.print()


def to_markdown(table: Table) -> str:
    """A GitHub table under a heading of level 2."""
    rules = [":---" if index < table.left else "---:" for index in range(len(table.columns))]
    lines = [
        f"## {literal(table.title)}",
        "",
        _markdown_row(table.columns),
        _markdown_row(rules, escaped=False),
    ]
    for index, row in enumerate(table.rows):
        cells = [literal(cell) for cell in row]
        if index in table.marked:
            cells = [f"**{cell}**" for cell in cells]
        lines.append(_markdown_row(cells, escaped=False))
    if table.note:
        lines += ["", literal(table.note)]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: tuple[str, ...] | list[str], escaped: bool = True) -> str:
    return "| " + " | ".join(literal(cell) if escaped else cell for cell in cells) + " |"


def literal(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#!" else letter for letter in plain(text))


def to_html(table: Table) -> str:
    """A section with a heading of level 3; its box scrolls by keyboard too."""
    title = html(table.title)
    lines = [
        f'<section><h3>{title}</h3>\n<div class="scroll" tabindex="0" role="region" aria-label="{title}">'
    ]
    lines.append("<table>\n<thead><tr>")
    lines += [
        f'<th scope="col"{_side(table, index)}>{html(column)}</th>'
        for index, column in enumerate(table.columns)
    ]
    lines.append("</tr></thead><tbody>")
    for number, row in enumerate(table.rows):
        cells = "".join(
            f'<th scope="row"{_side(table, index)}>{html(cell)}</th>'
            if index == 0
            else f"<td{_side(table, index, cell)}>{html(cell)}</td>"
            for index, cell in enumerate(row)
        )
        lines.append(f'<tr class="marked">{cells}</tr>' if number in table.marked else f"<tr>{cells}</tr>")
    lines.append("</tbody></table></div>")
    if table.note:
        lines.append(f'<p class="note">{html(table.note)}</p>')
    return "\n".join(lines) + "</section>\n"


_LONG = 40
"""Letters above which words may wrap, but not to a pillar."""


def _side(table: Table, index: int, cell: str = "") -> str:
    if index >= table.left:
        return ""
    return ' class="words long"' if len(cell) > _LONG else ' class="words"'


def html(text: str) -> str:
    """Text that HTML and SVG show as it is, in content and in quoted attributes."""
    return escape(plain(text), quote=True)
