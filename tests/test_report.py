"""The report: golden files for a fixed run, unfinished runs, hostile names, refusals."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_support import GOLDEN, HOSTILE, RUN, poison
from rich.console import Console

from evonnx.errors import RunError
from evonnx.report import render_terminal, write_report
from evonnx.report.embedding import script, style
from evonnx.report.plots import Axis, axis, heatmap
from evonnx.report.reading import read_run
from evonnx.report.tables import milliseconds, tables

Document = dict[str, Any]


def terminal(run: Document, width: int = 150) -> str:
    out = io.StringIO()
    render_terminal(run, Console(file=out, width=width, markup=False, emoji=False, highlight=False))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def report(run: Document, folder: Path) -> tuple[str, str]:
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    page, text = write_report(folder)
    return page.read_text(encoding="utf-8"), text.read_text(encoding="utf-8")


def check_golden(name: str, content: str) -> None:
    """Equal to the committed file, which `EVONNX_GOLDEN=write pytest tests/test_report.py` writes anew."""
    path = GOLDEN / name
    if os.environ.get("EVONNX_GOLDEN") == "write":
        path.write_text(content, encoding="utf-8")
    assert content == path.read_text(encoding="utf-8")


def without_assets(page: str) -> str:
    """The page without its style, script and their hashes, which files of their own have."""
    page = page.replace(style(), "(style)").replace(script(), "(script)")
    return re.sub(r"sha256-[\w+/=]+", "sha256-(hash)", page)


def test_golden_files(tmp_path: Path) -> None:
    page, text = report(RUN, tmp_path)
    check_golden("report.md", text)
    check_golden("report.html", without_assets(page))
    check_golden("terminal.txt", terminal(RUN))


class Tags(HTMLParser):
    """Collects tags and attributes, and sees to it that they nest."""

    void = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attributes)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)
    return tags


def hash_of(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_page_needs_no_network_and_runs_its_own_script_only(tmp_path: Path) -> None:
    page, _ = report(RUN, tmp_path)
    tags = parse(page)
    assert {tag for tag, _ in tags.seen}.isdisjoint({"link", "img", "iframe", "object", "image", "use"})
    names = {name for _, attributes in tags.seen for name in attributes}
    assert names.isdisjoint({"src", "xlink:href", "srcset", "style"})
    assert not [name for name in names if name.startswith("on")]
    ids = {attributes["id"] for _, attributes in tags.seen if "id" in attributes}
    links = [str(attributes["href"]) for _, attributes in tags.seen if "href" in attributes]
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert "url(" not in page
    assert "@import" not in page
    kinds = [attributes.get("type") for tag, attributes in tags.seen if tag == "script"]
    assert kinds == ["application/json", "module"]
    (own,) = re.findall(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    (looks,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    (rules,) = (str(attributes["content"]) for tag, attributes in tags.seen if "http-equiv" in attributes)
    assert set(rules.split("; ")) == {
        "default-src 'none'",
        f"script-src '{hash_of(own)}'",
        f"style-src '{hash_of(looks)}'",
        "base-uri 'none'",
        "form-action 'none'",
    }
    assert page.count("<svg") == 11
    assert "prefers-color-scheme: dark" in page


def data_of(page: str) -> Any:
    (text,) = re.findall(r'<script type="application/json" id="run">(.*?)</script>', page, re.DOTALL)
    assert not set("<>&") & set(text)
    return json.loads(text)


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    run = poison(RUN)
    page, text = report(run, tmp_path)
    assert {tag for tag, _ in parse(page).seen} == {tag for tag, _ in parse(report(RUN, tmp_path)[0]).seen}
    assert HOSTILE[:28] in data_of(page)["layers"][0]["name"]
    for output in (page, text, terminal(run)):
        assert "\x1b" not in output
        assert "\x07" not in output
    assert "[red]:smile:[/red]" in terminal(run, 2000)
    assert not re.search(r"(?<!\\)<img", text)
    assert not [line for line in text.splitlines() if line.startswith("# x")]


def without(*path: str) -> Callable[[Document], None]:
    def change(run: Document) -> None:
        place: Any = run
        for key in path[:-1]:
            place = place[int(key)] if key.isdigit() else place[key]
        del place[path[-1]]

    return change


def with_value(value: Any, *path: str) -> Callable[[Document], None]:
    def change(run: Document) -> None:
        place: Any = run
        for key in path[:-1]:
            place = place[int(key)] if key.isdigit() else place[key]
        place[path[-1]] = value

    return change


def changed(*changes: Callable[[Document], None]) -> Document:
    run = copy.deepcopy(RUN)
    for change in changes:
        change(run)
    return run


def only_ancestor(run: Document) -> None:
    run["generations"] = []
    unfinished(run)


def unfinished(run: Document) -> None:
    without("best")(run)
    without("bench")(run)


def a_dead_layer(run: Document) -> None:
    unfinished(run)
    with_value(0, "generations", "2", "layers", "0", "synapses")(run)


def loss_in_nats(run: Document) -> None:
    run["task"].update(unit="nats", metric="loss", higher_is_better=False)
    for row in (run["ancestor"], run["best"], *run["generations"]):
        row.update(score=0.123456, score_validation=None)


def no_convolution(run: Document) -> None:
    for row in (run["ancestor"], run["best"], *run["generations"]):
        row.update(kernels=0, kernels_ancestor=0, cluster_efficiency=None, macs=None)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (only_ancestor, "There is no offspring yet."),
        (unfinished, "Offspring 3: 9.19x fewer synapses"),
        (without("bench"), "3.76x fewer MACs; test accuracy 98.61% from 98.89%."),
        (loss_in_nats, "test loss 0.1235 nats from 0.1235 nats."),
        (no_convolution, "8.27x fewer bytes, 2.50x the speed at batch 1 (95% interval 2.42 to 2.58)"),
        (a_dead_layer, "0 of 500"),
    ],
)
def test_unusual_runs(change: Callable[[Document], None], expected: str, tmp_path: Path) -> None:
    page, text = report(changed(change), tmp_path)
    parse(page)
    assert expected in text
    assert expected in terminal(changed(change), 400)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("ancestor"), "'ancestor' is missing"),
        (without("task"), "'task' is missing"),
        (without("generations", "1", "synapses"), "'synapses' is missing"),
        (without("generations", "0", "layers", "0", "op_type"), "'op_type' is missing"),
        (with_value("many", "ancestor", "bytes"), "many"),
        (with_value(None, "generations"), "None"),
        (with_value(7, "bench", "latencies", "0", "index"), "out of range"),
    ],
)
def test_foreign_documents_are_refused(change: Callable[[Document], None], said: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(changed(change)), encoding="utf-8")
    with pytest.raises(RunError, match=re.escape(said)):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_reports_are_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    shutil.copy(GOLDEN / "run.json", tmp_path)
    with pytest.raises(RunError, match=r"report\.html"):
        write_report(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run.json"]


def test_every_table_is_rectangular() -> None:
    for table in tables(read_run(RUN)):
        assert {len(row) for row in table.rows} == {len(table.columns)}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123456, "0.0123"),
        (0.3, "0.300"),
        (1.0, "1.00"),
        (99.94, "99.9"),
        (99.96, "100"),
        (12345.6, "12,346"),
    ],
)
def test_milliseconds(value: float, text: str) -> None:
    assert milliseconds(value) == text


positive = st.floats(1e-6, 1e9)


@given(values=st.lists(positive, min_size=1, max_size=20), log=st.booleans(), whole=st.booleans())
def test_axis_holds_every_value_and_tick(values: list[float], log: bool, whole: bool) -> None:
    one = axis("x", values, 0.0, 100.0, log, whole)
    assert all(-1e-6 <= one.at(value) <= 100 + 1e-6 for value in values)
    ticks = one.ticks()
    assert len(ticks) <= 10
    assert ticks == sorted(set(ticks))
    assert all(-1e-3 <= one.at(tick) <= 100 + 1e-3 for tick in ticks)
    if whole and not log:
        assert all(math.isclose(tick, round(tick)) for tick in ticks)


def test_log_axis_is_even_per_decade() -> None:
    one = Axis("x", 1, 1000, 0, 300, log=True)
    assert [one.at(value) for value in (1, 10, 100, 1000)] == pytest.approx([0, 100, 200, 300])
    assert one.ticks() == pytest.approx([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000])


@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    names=st.lists(st.text(), min_size=1, max_size=4),
)
def test_heatmap_is_well_formed(shares: list[float], names: list[str]) -> None:
    drawing = heatmap("t", names, [str(index) for index in range(len(shares))], [shares] * len(names))
    root = ElementTree.fromstring(drawing)
    assert len([node for node in root.iter() if node.tag == "rect"]) == len(shares) * len(names)
