"""What `evonnx bench` prints, from a fixed record; `EVONNX_GOLDEN=write` writes the golden file anew."""

from __future__ import annotations

import copy
import io
import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from evonnx.report.benching import bench_tables
from evonnx.report.table import show
from evonnx.report.tables import timing

GOLDEN = Path(__file__).parent / "golden"
BENCH: dict[str, Any] = json.loads((GOLDEN / "bench.json").read_text(encoding="utf-8"))
OPTIONAL = ("agreement", "memory", "per_layer")
"""What only some options bring."""


def shown(document: dict[str, Any]) -> str:
    out = io.StringIO()
    for table in bench_tables(document):
        show(table, Console(file=out, width=150, markup=False, emoji=False, highlight=False))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def test_golden_tables() -> None:
    if os.environ.get("EVONNX_GOLDEN") == "write":
        (GOLDEN / "bench.txt").write_text(shown(BENCH), encoding="utf-8")
    assert shown(BENCH) == (GOLDEN / "bench.txt").read_text(encoding="utf-8")


def test_what_was_not_asked_for_is_not_shown() -> None:
    plain, older = copy.deepcopy(BENCH), copy.deepcopy(BENCH)
    for name in OPTIONAL:
        plain[name] = None
        del older[name]
    assert [table.title for table in bench_tables(plain)] == ["Latency in onnxruntime", "Nodes by provider"]
    assert shown(older) == shown(plain)


def test_a_device_is_named_with_the_way_it_was_timed() -> None:
    on_device = {
        **BENCH,
        "copies": "excluded",
        "cuda_graphs": True,
        "device": {"name": "X100", "mhz": 1755.0},
    }
    assert timing(on_device).endswith(", AMD EPYC, X100 at 1,755 MHz, copies excluded, CUDA graphs")
    assert timing({**on_device, "device": {"name": "X100", "mhz": None}, "cuda_graphs": False}).endswith(
        ", X100, copies excluded"
    )
    assert timing(BENCH).endswith(", AMD EPYC")
