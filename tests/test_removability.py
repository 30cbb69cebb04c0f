"""What `inspect` says can be removed: against real removal, and counted synapse by synapse; its tables."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graph_builder import Builder
from graphs import GRAPHS
from removal_support import compact, network
from rich.console import Console

from evonnx.cli.inspect import describe
from evonnx.dependency import Coupling, analyse
from evonnx.dependency.liveness import close
from evonnx.dependency.removability import Amount, Removability, removability
from evonnx.masks import Masks, live_masks
from evonnx.network import Network, network_of
from evonnx.report.inspection import inspection_tables, part_of
from evonnx.report.table import show

GOLDEN = Path(__file__).parent / "golden"


def attention() -> onnx.ModelProto:
    """A grouped stem, then three blocks of a vision transformer of width 12 with 3 heads; a learned table is
    looked up beside it."""
    b = Builder([1, 3, 8, 8])
    y = b.conv(b.node("Relu", b.conv("x", 3, 8, 2, strides=[2, 2], pads=[0] * 4)), 8, 12, 1, group=2)
    y = b.node("Transpose", b.node("Reshape", y, b.ints(1, 12, 16)), perm=[0, 2, 1])
    for _ in range(3):
        z = layer_norm(b, y)
        heads = [b.node("Reshape", b.matmul(z, 12, 12), b.ints(1, 16, 3, 4)) for _ in range(3)]
        q, v = (b.node("Transpose", heads[part], perm=[0, 2, 1, 3]) for part in (0, 2))
        k = b.node("Transpose", heads[1], perm=[0, 2, 3, 1])
        z = b.node("MatMul", b.node("Softmax", b.node("MatMul", q, k), axis=-1), v)
        z = b.node("Reshape", b.node("Transpose", z, perm=[0, 2, 1, 3]), b.ints(1, 16, 12))
        y = b.node("Add", y, b.matmul(z, 12, 12))
        y = b.node("Add", y, b.matmul(b.node("Relu", b.matmul(layer_norm(b, y), 12, 20)), 20, 12))
    y = b.gemm(b.node("ReduceMean", layer_norm(b, y), axes=[1], keepdims=0), 12, 5)
    best = b.node("ArgMax", y, axis=1, keepdims=0)
    table = b.node("Gather", b.constant(b.values(5, 5), "table"), best, axis=0)
    b.output(b.node("Add", y, table), [1, 5], "y")
    return b.model()


def layer_norm(b: Builder, y: str) -> str:
    vectors = [b.constant(b.values(12), b.fresh(name)) for name in ("scale", "shift")]
    return b.node("LayerNormalization", y, *vectors)


CASES = {**GRAPHS, "attention": attention}


def found_in(net: Network, coupling: Coupling, masks: Masks | None = None) -> Removability:
    stored = {name: np.ones(weight.shape, dtype=np.bool_) for name, weight in net.weights.items()}
    return removability(net, coupling, stored if masks is None else masks)


@pytest.mark.parametrize("name", sorted(CASES))
def test_what_is_said_to_go_goes(name: str) -> None:
    """Everything that can go is masked and removed: exactly the synapses that were said to stay are left."""
    net = network(CASES[name]())
    coupling = analyse(net)
    found = found_in(net, coupling)
    alive = found.held | found.floor
    masks = {}
    for weight_name, weight in net.weights.items():
        classes = coupling.weights[weight_name]
        columns = np.repeat(alive[classes.input], weight.outputs // weight.groups, axis=0)
        keep = np.repeat((alive[classes.output][:, None] & columns)[:, :, None], weight.taps, axis=2)
        masks[weight_name] = weight.from_canonical(keep)
    _, _, compacted = compact(net, coupling, masks)
    left = network_of(compacted.model, "compact.onnx", net.input_shapes)
    sizes = sum(int(np.prod(weight.shape)) for weight in left.weights.values())
    assert sizes == found.total.synapses - found.removable.synapses


def ends(net: Network, coupling: Coupling) -> Iterator[tuple[int, int, float]]:
    """(class produced, class read, multiply-accumulates) of every synapse."""
    for name, weight in net.weights.items():
        classes = coupling.weights[name]
        for output in range(weight.outputs):
            for read in classes.input[output // (weight.outputs // weight.groups)]:
                for _ in range(weight.taps):
                    yield int(classes.output[output]), int(read), weight.macs_per_tap or 0.0


@pytest.mark.parametrize("name", ["attention", "grouped", "depthwise", "layer_norm", "conv_transpose"])
def test_amounts_are_those_counted_one_by_one(name: str) -> None:
    net = network(CASES[name]())
    coupling = analyse(net)
    found = found_in(net, coupling)
    synapses = list(ends(net, coupling))
    gone = set(np.flatnonzero(~(found.held | found.floor)).tolist())
    pins = [set(pin.classes.tolist()) for pin in coupling.pins]

    def amount(chosen: list[tuple[int, int, float]]) -> Amount:
        return Amount(len(chosen), round(sum(price for _, _, price in chosen)))

    def touching(classes: set[int], among: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
        return [one for one in among if one[0] in classes or one[1] in classes]

    goes = touching(gone, synapses)
    stays = [one for one in synapses if one not in goes]
    assert found.total == amount(synapses)
    assert found.removable == amount(goes)
    for number, classes in enumerate(found.groups):
        assert found.of_groups([number]) == amount(touching(gone & set(classes.tolist()), synapses))
    for chosen in [*([number] for number in range(len(pins))), list(range(0, len(pins), 2))]:
        here: set[int] = set().union(*(pins[number] for number in chosen))
        elsewhere: set[int] = set().union(*(one for number, one in enumerate(pins) if number not in chosen))
        cost = found.of_pins(chosen)
        assert cost.alone == amount(touching(here - elsewhere, stays))
        assert cost.shared == amount(touching(here, stays))
        assert cost.touched == amount(touching(here, synapses))
    half = [
        1 - (1 - 0.5 * (one in gone)) * (1 if one == other else 1 - 0.5 * (other in gone))
        for one, other, _ in synapses
    ]
    assert found.halved.synapses == pytest.approx(sum(half), abs=0.51)


def test_only_living_synapses_count() -> None:
    net = network(CASES["depthwise"]())
    coupling = analyse(net)
    masks = live_masks(net)
    some = next(iter(masks))
    masks[some] = masks[some] & (np.arange(masks[some].size).reshape(masks[some].shape) % 2 == 0)
    whole, half = found_in(net, coupling), found_in(net, coupling, masks)
    assert half.total.synapses == whole.total.synapses - masks[some].size // 2
    assert half.total.macs == whole.total.macs
    assert half.removable.synapses < whole.removable.synapses


def test_a_network_of_nothing() -> None:
    b = Builder([1, 3])
    b.output(b.node("Relu", "x"), [1, 3], "y")
    net = network(b.model())
    found = found_in(net, analyse(net))
    assert found.total == found.removable == Amount(0, 0)


def test_heads_and_groups_keep_equally_many() -> None:
    net = network(attention())
    found = found_in(net, analyse(net))
    cost = {found.pins[number].reason: found.of_pins([number]) for number in range(len(found.pins))}
    norm = cost["LayerNormalization mixes channels"]
    assert norm.alone.synapses == 0  # the residual trunk is pinned by seven of them
    assert norm.shared.synapses > 0
    assert norm.touched.synapses > 0.3 * found.total.synapses


def document_of(model: onnx.ModelProto) -> dict[str, Any]:
    net = network(model, "model.onnx")
    return describe(net, analyse(net))


def shown(document: dict[str, Any], *, everything: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, width=150, markup=False, emoji=False, highlight=False)
    for table in inspection_tables(document, everything=everything):
        show(table, console)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize(("file", "everything"), [("inspect.txt", False), ("inspect_all.txt", True)])
def test_golden_tables(file: str, everything: bool) -> None:
    """`EVONNX_GOLDEN=write pytest tests/test_removability.py` writes them anew, from what --json once said of
    `attention`."""
    document = json.loads((GOLDEN / "inspect.json").read_text(encoding="utf-8"))
    content = shown(document, everything=everything)
    if os.environ.get("EVONNX_GOLDEN") == "write":
        (GOLDEN / file).write_text(content, encoding="utf-8")
    assert content == (GOLDEN / file).read_text(encoding="utf-8")


def test_the_document_says_all_and_merges_what_is_alike() -> None:
    document = document_of(attention())
    json.dumps(document, allow_nan=False)
    pins, alike = document["pins"], document["pins_alike"]
    assert sum(one["nodes"] for one in alike) == len(pins)
    norms = [one for one in alike if one["reason"].startswith("LayerNormalization")]
    assert [one["nodes"] for one in norms] == [7]
    assert sum(one["alike"] for one in document["groups_alike"]) == len(document["groups"])
    assert {name for one in document["groups"] for name in one["layers"]} == {
        layer["name"] for layer in document["layers"]
    }
    assert [one["parameters"] for one in document["unprunable"]] == [25]


def test_a_large_model_fits_on_two_screens() -> None:
    b = Builder([1, 6, 4, 4])
    y = "x"
    for number in range(60):
        y = b.node("LRN", b.conv(y, 6 + number % 30, 6 + (number + 1) % 30, 1 + 2 * (number % 2)), size=3)
    b.output(y, [1, 6, 4, 4], "y")
    document = document_of(b.model())
    few, all_of_it = (shown(document, everything=everything) for everything in (False, True))
    assert len(few.splitlines()) < 70
    assert few.count(".weight") < 15
    assert all(f"conv{number}.weight" in all_of_it for number in range(1, 61))


def test_closed_masks_are_what_inspect_counts() -> None:
    net = network(CASES["residual_bn"]())
    coupling = analyse(net)
    document = describe(net, coupling)
    closed = close(net, coupling, live_masks(net)).masks
    assert document["totals"]["synapses"] == sum(int(mask.sum()) for mask in closed.values())


@pytest.mark.parametrize(
    ("value", "total", "text"),
    [(0, 10, "0%"), (10, 10, "100.0%"), (9_999_999, 10_000_000, "99.9%"), (1, 10_000_000, "<0.1%")],
)
def test_percentages_never_round_to_all_or_nothing(value: int, total: int, text: str) -> None:
    assert part_of(value, total) == text
