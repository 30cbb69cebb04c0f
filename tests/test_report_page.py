"""The parts of report.html: Pareto front, tree of descent, what stays, colours, what is embedded."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from evolution_support import run as evolve_quickly
from evolution_support import write_case
from hypothesis import given
from hypothesis import strategies as st
from report_support import RUN

from evonnx.dependency import analyse
from evonnx.errors import RunError
from evonnx.evolution.pinning import pinned
from evonnx.network import load_network
from evonnx.report import embedding, write_report
from evonnx.report.charts import loss_chart, trade_offs
from evonnx.report.embedded import embedded
from evonnx.report.embedding import SCRIPTS, STYLES, safe_json
from evonnx.report.lineage import layout
from evonnx.report.panels import panels, pinned_tables
from evonnx.report.pareto import front
from evonnx.report.plots import cell_opacity
from evonnx.report.reading import read_run
from evonnx.report.table import html

ASSETS = Path(embedding.__file__).parent / "assets"
few = st.integers(0, 4)
"""Few different values, so that ties are common."""


@given(models=st.lists(st.tuples(few, few), min_size=1, max_size=12), higher=st.booleans())
def test_the_front_is_what_nothing_else_dominates(models: list[tuple[int, int]], higher: bool) -> None:
    sign = 1 if higher else -1

    def dominated(one: tuple[int, int]) -> bool:
        return any(
            other[0] <= one[0] and sign * other[1] >= sign * one[1] and other != one for other in models
        )

    found = front([cost for cost, _ in models], [score for _, score in models], higher)
    assert sorted(found) == [at for at, one in enumerate(models) if not dominated(one)]
    assert [models[at][0] for at in found] == sorted(models[at][0] for at in found)


def population() -> dict[str, Any]:
    """The golden run as one that breeds from two parents: of two offspring, both live in generation 1."""
    run = copy.deepcopy(RUN)
    for row in run["generations"]:
        home = f"gen-{row['generation']:02d}"
        sibling = f"{home}/sibling-1" if row["generation"] == 1 else None
        row["raised"] = [
            {
                "name": f"offspring {number}",
                "kept": kept,
                "score_validation": row["score_validation"] - number / 1000,
                "synapses": row["synapses"] + number,
                "macs": None,
                "bytes": row["bytes"] + number,
                "latency_share": 0.5 + number / 10,
            }
            for number, kept in ((1, home), (2, sibling))
        ]
    run["generations"][1]["mating"] = {
        "parents": ["gen-01", "gen-01/sibling-1"],
        "overlap": 0.8,
        "synapses_of_parents": [281_950, 281_952],
        "synapses": 300_000,
    }
    best = {"name": "best", "kept": "best.onnx", "score_validation": 0.99, "synapses": 46_850, "bytes": 1}
    first = {**run["generations"][0]["raised"][0], "name": "1, offspring 1"}
    run["pareto"] = {"of": 7, "front": [{**best, "latency_share": 0.4}, first]}
    return run


def test_whoever_was_raised_is_in_the_tree_and_among_the_choices() -> None:
    run = read_run(population())
    assert [one.name for one in run.raised if one.on_front] == ["1, offspring 1"]
    cards = {card.key: card for card in layout(run)}
    assert [card.kind for card in cards.values()] == [
        "lives",
        "lives",
        "sibling",
        "lives",
        "dead",
        "lives",
        "dead",
        "best",
    ]
    assert cards["gen-01/sibling-1"].parents == ("0",)
    assert cards["2"].parents == ("1", "gen-01/sibling-1")
    places = {(card.row, card.column) for card in cards.values()}
    assert len(places) == len(cards)
    choices = next(one.content for one in panels(run) if one.name == "choice")
    assert choices.count("All offspring: accuracy against") == 6  # headings and names of drawings
    synapses = RUN["generations"][1]["synapses"] + 2
    assert f"2, offspring 2: {synapses:,} synapses" in choices


def test_every_cost_that_is_known_is_traded_against_the_score() -> None:
    names = ["synapses", "parameters", "MACs", "bytes", "ms at batch 1", "ms at batch 32"]
    assert [one.name for one in trade_offs(read_run(RUN))] == names
    untimed = {key: value for key, value in RUN.items() if key != "bench"}
    assert [one.name for one in trade_offs(read_run(untimed))] == names[:4]


def test_losses_of_all_trainings_are_one_line_after_the_other() -> None:
    run = copy.deepcopy(RUN)
    for number, row in enumerate(run["generations"]):
        row["training"] = {"history": [{"epoch": 1, "loss": 0.5 - number / 10}, {"epoch": 2, "loss": 0.1}]}
    run["best"]["training"] = {"history": [{"epoch": 1, "loss": float("nan")}, {"epoch": 2, "loss": 0.05}]}
    drawn = loss_chart(read_run(run))
    for label in ("1, epoch 1: 0.5", "3, epoch 2: 0.1", "best (3), epoch 2: 0.05"):
        assert f"<title>{label}</title>" in drawn
    assert drawn.count("<circle") == 7
    assert loss_chart(read_run(RUN)) == ""


def family(*parents: list[int]) -> dict[str, Any]:
    """The golden run, with these parents of generations 1, 2 and 3."""
    run = copy.deepcopy(RUN)
    for row, of in zip(run["generations"], parents, strict=True):
        row["parents"] = of
    return run


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        (([0], [1], [2]), [("0",), ("1",), ("2",)]),
        (([0], [0], [1, 2]), [("0",), ("0",), ("1", "2")]),
        (([0], [], [2, 2]), [("0",), ("1",), ("2",)]),
        (([7], [2], [9, 1]), [("0",), ("1",), ("1",)]),
    ],
)
def test_parents_are_earlier_models(parents: tuple[list[int], ...], expected: list[tuple[str, ...]]) -> None:
    run = read_run(family(*parents))
    assert [one.parents for one in run.entries] == [(), *expected, ("3",)]


def test_the_tree_has_a_row_per_generation_and_siblings_side_by_side() -> None:
    document = copy.deepcopy(RUN)
    document["generations"][2]["generation"] = 2
    document["best"]["generation"] = 2
    places = [(card.row, card.column) for card in layout(read_run(document))]
    assert places == [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2)]
    assert len(set(places)) == len(places)


def test_what_is_pinned_is_recorded_as_the_coupling_has_it(graph_file: Any) -> None:
    for name in ("lenet", "lrn", "attention_integers", "quantized_weight"):
        network = load_network(graph_file(name))
        coupling = analyse(network)
        record = json.loads(json.dumps(pinned(network)))
        assert record["channels"] == coupling.n_classes
        assert record["removable"] == int((~coupling.pinned()).sum())
        assert {one["node"] for one in record["pins"]} <= {pin.node_label for pin in coupling.pins}
        assert sum(one["nodes"] for one in record["pins"]) == len(coupling.pins)
        assert 0 <= record["synapses_removable"] <= record["synapses"]
        (pins, *_) = pinned_tables(record)
        assert len(pins.rows) == len(record["pins"])


def test_a_run_records_what_its_report_shows(tmp_path: Path) -> None:
    model = write_case(tmp_path / "case")
    document = evolve_quickly(model, tmp_path / "run", generations=1)
    compact = load_network(tmp_path / "run" / "gen-01" / "compact.onnx")
    for layer in document["generations"][0]["layers"]:
        name = layer["name"]
        assert layer["channels"] == (compact.weights[name].outputs if name in compact.weights else 0)
        assert layer["filters"] <= layer["channels"] <= layer["channels_ancestor"]
    assert document["ancestor"]["pinned"] == json.loads(json.dumps(pinned(load_network(model))))
    page = write_report(tmp_path / "run")[0].read_text(encoding="utf-8")
    for pin in analyse(load_network(model)).pins:
        assert html(pin.reason) in page
    assert '"measures":["synapses","kernels","filters","channels"]' in page


def test_what_stays_is_shown_with_its_reason() -> None:
    run = copy.deepcopy(RUN)
    run["ancestor"]["pinned"] = {
        "channels": 10,
        "removable": 7,
        "synapses": 100,
        "synapses_removable": 90,
        "pins": [
            {"node": "soft", "nodes": 1, "reason": "Softmax mixes <channels>", "channels": 3, "synapses": 5}
        ],
        "equal_counts": [{"node": "heads", "nodes": 2, "reason": "heads", "groups": 4, "members": 8}],
        "left_alone": [],
    }
    content = next(one.content for one in panels(read_run(run)) if one.name == "pinned")
    for words in ("Softmax mixes &lt;channels&gt;", "90.0% of the ancestor", "7 of 10", "4 x 8"):
        assert words in content
    assert "Weights left alone" not in content
    assert "inspect" in next(one.content for one in panels(read_run(RUN)) if one.name == "pinned")


def test_a_broken_record_of_pins_is_a_clear_error(tmp_path: Path) -> None:
    run = copy.deepcopy(RUN)
    run["ancestor"]["pinned"] = {"channels": 1}
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    with pytest.raises(RunError, match="'synapses_removable' is missing"):
        write_report(tmp_path)


def test_embedded_counts_are_the_records() -> None:
    run = read_run(RUN)
    document = embedded(run)
    assert document["measures"] == ["synapses", "kernels", "filters"]
    for entry, shown in zip(run.entries, document["entries"], strict=True):
        assert sum(layer["synapses"] for layer in shown["live"]) == sum(one.synapses for one in entry.layers)
    assert sum(one["whole"]["synapses"] for one in document["layers"]) == run.entries[0].synapses


@given(text=st.text())
def test_json_in_the_page_reads_as_it_was_and_ends_nothing(text: str) -> None:
    written = safe_json({"a": text + "</script><!--]]>"})
    assert json.loads(written) == {"a": text + "</script><!--]]>"}
    assert not set("<>&\u2028\u2029") & set(written)


def test_every_asset_is_embedded_once() -> None:
    assert sorted(path.name for path in ASSETS.iterdir()) == sorted((*SCRIPTS, *STYLES))


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_make_no_markup_and_fetch_nothing(name: str) -> None:
    text = (ASSETS / name).read_text(encoding="utf-8")
    risky = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|createContextualFragment"
    )
    fetching = r"fetch\(|XMLHttpRequest|WebSocket|sendBeacon|EventSource|\bimport\b|importScripts|\.src\b"
    assert not re.findall(f"{risky}|{fetching}", text)
    assert "</script" not in text
    assert len(text.splitlines()) <= 400


@pytest.mark.parametrize("name", STYLES)
def test_styles_fetch_nothing(name: str) -> None:
    assert not re.findall(r"url\(|@import|</style", (ASSETS / name).read_text(encoding="utf-8"))


Colour = tuple[float, float, float]


def colours(dark: bool) -> dict[str, Colour]:
    """The page's variables as red, green and blue in [0, 1]."""
    text = (ASSETS / "page.css").read_text(encoding="utf-8")
    light, _, rest = text.partition("@media (prefers-color-scheme: dark)")
    found = re.findall(r"--([\w-]+): #([0-9a-f]{6})", light)
    if dark:
        found += re.findall(r"--([\w-]+): #([0-9a-f]{6})", rest)
    return {
        name: (int(code[:2], 16) / 255, int(code[2:4], 16) / 255, int(code[4:], 16) / 255)
        for name, code in found
    }


def luminance(colour: Colour) -> float:
    """Relative luminance (WCAG 2.2)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    """Contrast ratio (WCAG 2.2), from 1 to 21."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_the_standards() -> None:
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    assert contrast((0.4666, 0.4666, 0.4666), (1, 1, 1)) == pytest.approx(4.48, abs=0.01)


TEXT = [(text, ground) for text in ("fore", "soft") for ground in ("back", "raised", "mark")] + [
    ("accent", "back"),
    ("back", "fore"),
]
MARKS = [
    (mark, ground)
    for mark in ("c0", "c1", "c2", "c3", "c4", "accent", "focus", "edge", "lives", "died")
    for ground in ("back", "raised")
]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_and_marks_stand_out(dark: bool) -> None:
    of = colours(dark)
    weak = {pair: contrast(of[pair[0]], of[pair[1]]) for pair in TEXT}
    assert not {pair: ratio for pair, ratio in weak.items() if ratio < 4.5}
    weak = {pair: contrast(of[pair[0]], of[pair[1]]) for pair in MARKS}
    assert not {pair: ratio for pair, ratio in weak.items() if ratio < 3}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_shares_can_be_read_on_their_cells(dark: bool) -> None:
    of = colours(dark)
    for percent in range(101):
        opacity = cell_opacity(percent / 100)
        mixed = [
            opacity * heat + (1 - opacity) * back for heat, back in zip(of["heat"], of["back"], strict=True)
        ]
        ground: Colour = (mixed[0], mixed[1], mixed[2])
        assert contrast(of["fore"], ground) >= 4.5, percent
