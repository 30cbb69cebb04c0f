"""The results that are shipped: every model has the counts its record states, and still loads.

Accuracy needs the data: `evonnx evaluate samples/results/.../best.onnx --task samples/NAME/....toml`, after
the sample's train.py has written it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import onnx
import pytest

from evonnx.network import load_network
from evonnx.report import markdown, read_run
from evonnx.resources import count
from evonnx.sessions import load_warnings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "samples"))

import summary

RESULTS = Path(__file__).resolve().parent.parent / "samples" / "results"
RUNS = sorted(RESULTS.rglob("run.json"))


def name_of(path):
    return str(path.parent.relative_to(RESULTS))


def test_there_are_results():
    assert RUNS


@pytest.mark.parametrize("record", RUNS, ids=name_of)
def test_a_record_is_whole_and_holds_no_path(record):
    text = record.read_text(encoding="utf-8")
    run = json.loads(text)
    assert {"configuration", "seed", "machine", "ancestor", "generations", "best", "bench"} <= set(run)
    assert run["best"]["generation"] in [row["generation"] for row in run["generations"]]
    assert all(row["proof"]["passed"] and not row["proof"]["void"] for row in run["generations"])
    assert re.search(r"[\" '](/\w+/|[A-Z]:\\)", text) is None, "an absolute path"


@pytest.mark.parametrize("model", sorted(RESULTS.rglob("*.onnx")), ids=name_of)
def test_a_model_is_what_its_record_says(model):
    best = json.loads((model.parent / "run.json").read_text(encoding="utf-8"))["best"]
    onnx.checker.check_model(str(model), full_check=True)
    assert load_warnings(model) == []
    found = count(load_network(model))
    counted = {
        name: getattr(found, name) for name in ("synapses", "kernels", "filters", "parameters", "macs")
    }
    assert counted == {name: best[name] for name in counted}
    assert model.stat().st_size == best["bytes"]


@pytest.mark.parametrize("record", RUNS, ids=name_of)
def test_a_report_shows_its_record(record):
    """`evonnx report` on the folder writes both files again."""
    run = json.loads(record.read_text(encoding="utf-8"))
    assert (record.parent / "report.md").read_text(encoding="utf-8") == markdown(read_run(run))
    page = (record.parent / "report.html").read_text(encoding="utf-8")
    assert f"{run['best']['synapses']:,}" in page, "of another record"


def test_the_readme_shows_the_record():
    text = (RESULTS.parent.parent / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"^\| gen\. .*?\n\n", text, re.MULTILINE | re.DOTALL)[0].strip()
    chosen = [int(number) for number in re.findall(r"^\| (\d+) \|", shown, re.MULTILINE)]
    run = json.loads((RESULTS / "lenet5_mnist" / "run.json").read_text(encoding="utf-8"))
    assert shown == summary.generations(run, chosen)
