"""The tables of `evonnx inspect`: short enough for a screen or two however many nodes a model has.

Rows that differ only in their node are merged, long tables end in "and so many more"; `everything` merges and
leaves out nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evonnx.report.table import Table
from evonnx.report.tables import whole

_LAYERS, _GROUPS, _PINS, _OTHERS = 12, 10, 8, 5
"""Rows of each table, unless everything is shown."""

Document = Mapping[str, Any]
Row = tuple[str, ...]


def inspection_tables(document: Document, *, everything: bool = False) -> list[Table]:
    """Layers, groups of coupled channels, pins, what stays equally long, what is left alone.

    Args:
        document: as `evonnx inspect --json` prints it.
        everything: one row for each of them.
    """
    tables = [_layers(document, everything), _groups(document, everything)]
    pins = _pins(document, everything)
    equal = [
        (one["node"], one["reason"], "1", f"{one['groups']} x {one['members']}")
        for one in document["equal_counts"]
    ]
    alone = [
        (one["name"] if everything else one["node"], one["reason"], "1", whole(one["parameters"]))
        for one in document["unprunable"]
    ]
    for table in (
        pins,
        _listed("Kept equally many", ("first node", "reason", "nodes", "rows"), equal, everything),
        _listed("Left alone", ("first node", "reason", "weights", "parameters"), alone, everything),
    ):
        if table.rows:
            tables.append(table)
    return tables


def part_of(value: int | None, total: int | None) -> str:
    """A percentage that never rounds up to all, nor down to nothing."""
    if value is None or total is None:
        return "-"
    if value == 0 or total == 0:
        return "0%"
    tenths = math.floor(1000 * value / total)
    return f"{tenths / 10:.1f}%" if tenths else "<0.1%"


def _layers(document: Document, everything: bool) -> Table:
    layers, totals = document["layers"], document["totals"]
    alike: dict[tuple[object, ...], list[Document]] = {}
    for number, one in enumerate(layers):
        key = (one["op_type"], one["groups"], *one["shape"], one["channels"], one["removable"])
        alike.setdefault((number,) if everything or len(layers) <= _LAYERS else key, []).append(one)
    found = list(alike.values())
    largest = sorted(found, key=lambda ones: -sum(one["synapses"] for one in ones))
    dropped = [] if everything or len(found) <= _LAYERS else largest[_LAYERS - 1 :]
    rest = [one for ones in dropped for one in ones]
    shown = [ones for ones in found if not any(ones is other for other in dropped)]
    merged_some = len(found) < len(layers)
    rows: list[Row] = [
        (
            ones[0]["name"],
            ones[0]["op_type"] + (f" / {ones[0]['groups']}" if ones[0]["groups"] > 1 else ""),
            "x".join(map(str, ones[0]["shape"])),
            *([whole(len(ones))] if merged_some else []),
            *_sums(ones),
            f"{whole(ones[0]['removable'])} of {whole(ones[0]['channels'])}",
        )
        for ones in shown
    ]
    for label, ones in ((f"{len(rest)} smaller ones (--all)", rest), ("total", [totals])):
        if ones:
            rows.append((label, "", "", *([""] if merged_some else []), *_sums(ones), ""))
    shapes = ", ".join(f"{name} {shape}" for name, shape in document["input_shapes"].items())
    return Table(
        f"{document['model']}, opset {document['opset']}, input {shapes}",
        (
            "weight",
            "operator",
            "shape",
            *(["alike"] if merged_some else []),
            "synapses",
            "kernels",
            "filters",
            "MACs",
            "removable" + (" each" if merged_some else ""),
        ),
        tuple(rows),
        f"{whole(totals['parameters'])} parameters, {whole(totals['bytes'])} bytes; "
        f"{whole(totals['removable'])} of {whole(totals['channels'])} channels are not pinned. "
        "Counts are of weights that are not zero.",
        left=3,
        marked=(len(rows) - 1,),
    )


def _sums(entries: Sequence[Document]) -> Row:
    """Synapses, kernels, filters and MACs, added up where all are known."""
    counts = [[one[name] for one in entries] for name in ("synapses", "kernels", "filters", "macs")]
    return tuple("-" if None in ones else whole(sum(ones)) for ones in counts)


def _groups(document: Document, everything: bool) -> Table:
    """Groups of coupled channels, those that would free most first."""
    totals, removable = document["totals"], document["removable"]
    found = document["groups"] if everything else document["groups_alike"]
    ordered = sorted(found, key=lambda one: -one["synapses"])
    rows = [
        (
            one["nodes"][0],
            whole(len(one["nodes"])),
            *([] if everything else [whole(one["alike"])]),
            whole(one["channels"]),
            whole(one["removable"]),
            part_of(one["synapses"], totals["synapses"]),
            part_of(one["macs"], totals["macs"]),
        )
        for one in ordered
    ]
    can, half = (
        f"{part_of(one['synapses'], totals['synapses'])} of this model's synapses and "
        f"{part_of(one['macs'], totals['macs'])} of its MACs"
        for one in (removable, removable["halved"])
    )
    return _short(
        "Groups of coupled channels, which come and go together",
        (
            "first node",
            "nodes",
            *([] if everything else ["groups alike"]),
            "channels",
            "removable",
            "synapses",
            "MACs",
        ),
        rows,
        _GROUPS,
        everything,
        f"{can} can be removed: all whose producing or consuming channel can go, with one channel of every "
        f"width left. Half of every width that can go: {half}. The shares in the table go with those groups "
        "alone; what lies between two groups counts in both.",
    )


def _pins(document: Document, everything: bool) -> Table:
    totals = document["totals"]
    found = document["pins"] if everything else document["pins_alike"]
    ordered = sorted(found, key=lambda one: -one["touched"]["synapses"])
    shown = [one for one in ordered if everything or one["touched"]["synapses"]]
    rows = [
        (
            one["node"],
            one["reason"],
            *([] if everything else [whole(one["nodes"])]),
            whole(one["channels"]),
            *(
                f"{part_of(one[level]['synapses'], totals['synapses'])} / "
                f"{part_of(one[level]['macs'], totals['macs'])}"
                for level in ("alone", "shared", "touched")
            ),
        )
        for one in shown
    ]
    other = len(ordered) - len(shown)
    return _short(
        "Pinned",
        (
            "first node",
            "reason",
            *([] if everything else ["nodes"]),
            "channels",
            "alone",
            "with others",
            "touched",
        ),
        rows,
        _PINS,
        everything,
        "Shares of synapses / MACs. Alone: could go if these were not pinned here; with others: and by "
        "nothing else either. Touched: has such a channel at one end, so it goes with its other end at most."
        + (f" Other reasons that pin channels which no synapse touches: {other} (--all)." if other else ""),
        left=2,
    )


def _listed(title: str, columns: Row, rows: Sequence[Row], everything: bool) -> Table:
    """Rows of (node, reason, "1", figure); unless everything is shown, those alike but for their node are
    merged and counted."""
    if not everything:
        alike: dict[Row, list[Row]] = {}
        for row in rows:
            alike.setdefault((row[1], row[3]), []).append(row)
        rows = [(ones[0][0], key[0], whole(len(ones)), key[1]) for key, ones in alike.items()]
    return _short(title, columns, rows, _OTHERS, everything, left=2)


def _short(
    title: str,
    columns: Row,
    rows: Iterable[Row],
    most: int,
    everything: bool,
    note: str = "",
    *,
    left: int = 1,
) -> Table:
    """A table that ends in "and so many more"."""
    rows = tuple(rows)
    if not everything and len(rows) > most:
        more = f"and {len(rows) - most + 1} more (--all)"
        rows = (*rows[: most - 1], (more, *[""] * (len(columns) - 1)))
    return Table(title, columns, rows, note, left=left)
