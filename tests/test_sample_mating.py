"""The comparison of parents on MNIST: equal cost, and its table; the runs themselves are hours."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import CommandLine
from evolution_support import write_case

from evonnx.run_store import read_json

SAMPLE = Path(__file__).resolve().parent.parent / "samples" / "lenet5_mnist"


@pytest.fixture
def mating(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SAMPLE))
    yield importlib.import_module("mating")
    for name in ("mating", "comparison"):
        sys.modules.pop(name, None)


def write_run(folder: Path, variant: Any, score: float, overlap: float | None) -> None:
    rows = [{"generation": 1}, {"generation": 2, **({"overlap": overlap} if overlap else {})}]
    best = {"architectural_efficiency": 150.0, "cluster_efficiency": None, "parameters": 2000}
    options = {"selection": {"offspring": variant.offspring}, "retraining": {"epochs": variant.epochs}}
    document = {
        "configuration": {"options": options},
        "ancestor": {"parameters": 430_500},
        "generations": rows,
        "best": {**best, "score": score, "score_validation": score},
        "bench": {},
    }
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(document))


def test_all_variants_cost_the_same(mating: Any) -> None:
    assert {one.offspring * one.epochs for one in mating.VARIANTS} == {mating.POPULATION * mating.EPOCHS}
    assert [one.parents for one in mating.VARIANTS] == [1, 1, 2, 3, 5]
    assert len({one.name for one in mating.VARIANTS}) == len(mating.VARIANTS)


def test_the_table_has_mean_and_spread_of_what_is_there(mating: Any, tmp_path: Path) -> None:
    comparison = mating.comparison
    _, one, two, *_ = mating.VARIANTS
    for seed, score in ((0, 0.97), (1, 0.98)):
        write_run(comparison.folder(tmp_path, two, seed), two, score, 0.9 - 0.2 * seed)
    write_run(comparison.folder(tmp_path, one, 0), one, 0.99, None)
    unfinished = comparison.folder(tmp_path, one, 1)
    unfinished.mkdir()
    (unfinished / "run.json").write_text("{}")
    table = comparison.table(tmp_path, [0, 1], mating.VARIANTS, mating.CELLS)
    assert table.splitlines()[2:] == [
        "| 1 parent | 5 | 10 | - | 150.0 | 0.0 | 215.2 | 99.00 | 99.00 | 1 |",
        "| 2 parents | 5 | 10 ± 0 | 80.0 ± 14.1 | 150.0 ± 0.0 | 0.0 ± 0.0 | 215.2 ± 0.0 | 97.50 ± 0.71 "
        "| 97.50 ± 0.71 | 2 |",
    ]


def test_its_commands_are_ones_that_evonnx_takes(
    mating: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_case(tmp_path / "case")
    variant = mating.Variant("2 parents", 2, offspring=2, epochs=0)
    words = [*variant.command(model, tmp_path / "run", 3), "--adapter", "evonnx.testing:ToyAdapter"]
    words += ["--gens", "1", "--recovery-epochs", "0", "--screen", "2"]
    assert CommandLine(capsys)(*words).code == 0
    options = read_json(tmp_path / "run" / "run.json")["configuration"]["options"]
    assert options["selection"] == {"screen": 2, "offspring": 2, "parents": 2}
    assert options["pressure"]["budget"] == {"synapses": mating.TARGET}
    assert options["seed"] == 3
    rows = read_json(tmp_path / "run" / "run.json")["generations"]
    assert rows[0]["raised"]
