"""Generations from several parents: the population on disk, the joint network, resuming, refusals."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from cli_support import CommandLine
from evolution_support import MeasuringToy, certain, in_ancestor_coordinates, options, run, write_case
from test_evolution import assert_same_run

from evonnx.dependency import analyse
from evonnx.environment import Budget, ByteBudget, MacBudget, SynapseBudget
from evonnx.errors import RunError
from evonnx.evolution import EvolveOptions, Selection, breeding, evolve, loop, timings
from evonnx.evolution.begetting import of_joint
from evonnx.evolution.timings import Timing
from evonnx.masks import live_masks
from evonnx.mating import Refusal, join, lift
from evonnx.network import load_network
from evonnx.run_store import read_json

FILES = {"masked.onnx", "compact.onnx", "masks.safetensors", "lineage.safetensors"}
Evolved = tuple[Path, Path, dict[str, Any]]
ASKED = {"generations": 3, "screen": 6, "keep": 0.75}


def alike(models: Sequence[Path], **given: Any) -> Any:
    """`bench` that finds all models equally fast, so that nothing depends on a clock."""
    rows = [Timing(1.0, 1.0, 1.0, 1.0) for _ in models]
    return SimpleNamespace(latencies=rows, provider="cpu", threads=1, rounds=10, notes=())


def without_clock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(timings, "bench", alike)
    patch.setattr(loop, "bench", partial(loop.bench, rounds=2))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    without_clock(monkeypatch)


def asked(offspring: int, parents: int, **changes: Any) -> EvolveOptions:
    made = options(**{**ASKED, **changes})
    return replace(made, selection=Selection(made.selection.screen, offspring, parents))


@pytest.fixture(scope="module")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> Evolved:
    """(model, run directory, record) of three generations from up to three parents."""
    folder = tmp_path_factory.mktemp("bred")
    model = write_case(folder / "case")
    with pytest.MonkeyPatch.context() as patch:
        without_clock(patch)
        record = evolve(model, out=folder / "run", options=asked(3, 3)).record
    return model, folder / "run", record


def test_a_generation_leaves_its_fittest_and_their_siblings(
    evolved: Evolved,
) -> None:
    _, folder, record = evolved
    for row in record["generations"]:
        home = folder / f"gen-{row['generation']:02d}"
        siblings = sorted(path.name for path in home.iterdir() if path.is_dir())
        assert siblings == [f"sibling-{number}" for number in range(1, len(row["siblings"]) + 1)]
        for one in (home, *(home / name for name in siblings)):
            assert {path.name for path in one.iterdir() if path.is_file()} - {"metrics.json"} == FILES
            onnx.checker.check_model(onnx.load(one / "compact.onnx"), full_check=True)
        kept = {one["kept"]: one for one in row["raised"] if one["kept"]}
        assert set(kept) == {home.name, *(f"{home.name}/{name}" for name in siblings)}
        assert kept[home.name]["synapses"] == row["synapses"]
        assert kept[home.name]["score_validation"] == row["score_validation"]
        for place, one in kept.items():
            network = load_network(folder / place / "compact.onnx")
            assert sum(int(network.live(name).sum()) for name in network.weights) == one["synapses"]
        assert len(row["raised"]) == 3
    assert any(row["siblings"] for row in record["generations"])


def test_offspring_are_bred_from_the_union_of_their_parents(
    evolved: Evolved,
) -> None:
    model, folder, record = evolved
    first, *rest = record["generations"]
    assert first["parents"] == [0]
    assert not {"overlap", "mating"} & set(first)
    mated = [row for row in rest if "mating" in row]
    assert mated
    for row in mated:
        before, mating = row["generation"] - 1, row["mating"]
        assert row["parents"] == [before] * len(mating["parents"])
        assert mating["parents"][0] == f"gen-{before:02d}"
        assert row["overlap"] == mating["overlap"]
        assert 0 < row["overlap"] <= 1
        parents = [
            in_ancestor_coordinates(folder / name / "compact.onnx", model) for name in mating["parents"]
        ]
        child = in_ancestor_coordinates(folder / f"gen-{row['generation']:02d}" / "compact.onnx", model)
        for name, mask in child.items():
            assert not np.any(mask & ~np.logical_or.reduce([one[name] for one in parents]))
        union = {name: np.logical_or.reduce([one[name] for one in parents]) for name in parents[0]}
        assert sum(int(mask.sum()) for mask in union.values()) == mating["synapses"]
        assert row["synapses"] <= 0.75 * mating["synapses_of_parents"][0], "as small as of the fittest alone"
        assert not (folder / f"gen-{row['generation']:02d}" / "joint").exists()
    inherited = [
        row for row in mated if row["mating"]["synapses"] > max(row["mating"]["synapses_of_parents"])
    ]
    assert inherited, "parents that differ"


def test_the_front_of_all_that_were_raised_is_in_the_record(
    evolved: Evolved,
) -> None:
    _, folder, record = evolved
    front = record["pareto"]["front"]
    raised = [one for row in record["generations"] for one in row["raised"]]
    assert record["pareto"]["of"] == len(raised) + record["best"]["recovered"]
    assert front
    best = max(one["score_validation"] for one in raised)
    assert any(one["score_validation"] >= best for one in front)
    assert min(one["synapses"] for one in raised) == front[0]["synapses"]
    assert all(one["kept"] is None or (folder / one["kept"]).exists() for one in front)


def test_one_parent_leaves_runs_as_they_were(tmp_path: Path) -> None:
    model = write_case(tmp_path / "case")
    document = run(model, tmp_path / "run", generations=2, offspring=2)
    assert "pareto" not in document
    for row in document["generations"]:
        assert row["parents"] == [row["generation"] - 1]
        assert not {"siblings", "raised", "overlap", "mating"} & set(row)
        home = tmp_path / "run" / f"gen-{row['generation']:02d}"
        assert {path.name for path in home.iterdir()} == FILES | {"metrics.json"}


# --- resuming


@pytest.mark.parametrize("gone", [["gen-02", "gen-03"], ["gen-03"]], ids=["after 1", "after 2"])
def test_a_resumed_run_breeds_the_same_offspring(gone: list[str], evolved: Evolved, tmp_path: Path) -> None:
    model, folder, _ = evolved
    shutil.copytree(folder, tmp_path / "run")
    for name in gone:
        shutil.rmtree(tmp_path / "run" / name)
    (tmp_path / "run" / "best.onnx").unlink()
    evolve(model, out=tmp_path / "run", options=asked(3, 3), resume=True)
    assert_same_run(folder, tmp_path / "run")
    rows = [read_json(one / "gen-03" / "metrics.json") for one in (folder, tmp_path / "run")]
    assert rows[0]["mating"] == rows[1]["mating"]


def test_a_run_with_other_parents_is_not_continued(evolved: Evolved) -> None:
    model, folder, _ = evolved
    with pytest.raises(RunError, match=r"options.selection.parents was 3 and is 2"):
        evolve(model, out=folder, options=asked(3, 2), resume=True)


def test_siblings_are_named_by_number_whatever_a_row_says(tmp_path: Path) -> None:
    homes = [tmp_path / "run", tmp_path / "run" / "sibling-1", tmp_path / "run" / "sibling-2"]
    models = [home / "compact.onnx" for home in homes]
    for model in models:
        model.parent.mkdir()
        model.touch()
    row = {"siblings": ["../../elsewhere", "/tmp"]}
    assert breeding.parents_of(row, homes[0]) == models
    assert breeding.parents_of({}, homes[0]) == models[:1]
    models[2].unlink()
    with pytest.raises(RunError, match=r"sibling-2.*compact.onnx is missing"):
        breeding.parents_of(row, homes[0])


# --- fewer parents than asked for


def test_parents_that_cannot_be_lifted_are_left_out_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One when it is chosen; all but the fittest when they are to be mated."""
    model, lifted = write_case(tmp_path / "case"), breeding.Cradle.lifted

    def refused(self: breeding.Cradle, compact: Path) -> Any:
        early = "candidate-1" in compact.parts[-2] and ".partial-gen-01" in compact.parts
        late = compact.parent.name.startswith("sibling-") and "gen-02" in compact.parts
        return Refusal("it is shy") if early or late else lifted(self, compact)

    monkeypatch.setattr(breeding.Cradle, "lifted", refused)
    rows = evolve(model, out=tmp_path / "run", options=asked(3, 3)).record["generations"]
    assert any("cannot be mated: it is shy." in note for note in rows[0]["notes"])
    assert any("was not mated: it is shy." in note for note in rows[2]["notes"])
    assert "The fittest is the only parent." in rows[2]["notes"]
    assert rows[2]["parents"] == [2]
    assert "mating" not in rows[2]


def test_a_model_whose_outputs_change_is_not_lifted(
    evolved: Evolved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outputs of every parent are held against its own."""
    model, folder, _ = evolved
    ancestor = load_network(model)
    cradle = breeding.Cradle(ancestor, analyse(ancestor))
    compact = folder / "gen-02" / "compact.onnx"
    assert not isinstance(cradle.lifted(compact), Refusal)

    def faulty(*given: Any) -> Any:
        found = lift(*given)
        name = next(reversed(ancestor.weights))
        found.network.array(name)[:] *= 1.1
        return found

    monkeypatch.setattr(breeding, "lift", faulty)
    found = cradle.lifted(compact)
    assert isinstance(found, Refusal)
    assert "is another in the ancestor's shapes" in found.reason


def test_a_run_with_gradients_measures_each_parents_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[str] = []

    class Counting(MeasuringToy):
        def sensitivities(self, request: Any) -> dict[str, np.ndarray]:
            asked_for.append(request.model.name)
            return super().sensitivities(request)

    monkeypatch.setattr("evolution_support.MeasuringToy", Counting)
    model = write_case(tmp_path / "case")
    changes = {"encoding": "evolution_support:certain", "adapter": "evolution_support:MeasuringToy"}
    made = evolve(model, out=tmp_path / "run", options=asked(2, 2, generations=2, **changes))
    assert certain.strength.name in str(made.record["configuration"]["encoding"])
    assert asked_for[0] == "model.onnx"
    assert set(asked_for[1:]) <= {"parent-1.onnx", "parent-2.onnx", "compact.onnx"}
    assert ("parent-2.onnx" in asked_for) == ("mating" in made.record["generations"][1])


@pytest.mark.parametrize("factor", [SynapseBudget(), MacBudget(), ByteBudget()], ids=lambda one: one.name)
def test_a_bound_of_the_fittest_is_the_same_amount_of_the_joint_network(
    factor: Any, evolved: Evolved
) -> None:
    model, folder, record = evolved
    names = next(row["mating"]["parents"] for row in record["generations"] if "mating" in row)
    ancestor = load_network(model)
    coupling = analyse(ancestor)
    lifted = [lift(ancestor, coupling, load_network(folder / name / "compact.onnx")) for name in names]
    joint = join(ancestor, lifted)
    fittest = joint.parents[0]
    amounts = [factor.measure(one, live_masks(one)) for one in (fittest, joint.network)]
    alone = load_network(folder / names[0] / "compact.onnx")
    # Of a file this small, what its lineage takes is part of the bytes.
    exact = 0.06 if factor.name == "bytes" else 1e-6
    assert amounts[0] == pytest.approx(factor.measure(alone, live_masks(alone)), rel=exact)
    bound = of_joint(Budget(0.5, factor), fittest, joint.network)
    assert bound.share * amounts[1] == pytest.approx(0.5 * amounts[0])


# --- the command line


@pytest.fixture
def evonnx_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("COLUMNS", "160")
    return CommandLine(capsys)


def test_more_parents_than_offspring_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = write_case(tmp_path / "case")
    with pytest.raises(RunError, match="--offspring 3") as error:
        evolve(model, out=tmp_path / "run", options=asked(2, 3))
    assert "cannot be bred from 3 parents where 2 offspring are raised" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_command_line_takes_parents(tmp_path: Path, evonnx_cli: CommandLine) -> None:
    model = write_case(tmp_path / "case")
    out = tmp_path / "run"
    document = evonnx_cli(
        *("evolve", model, "--out", out, "--gens", 2, "--offspring", 2, "--parents", 2, "--screen", 4),
        *("--keep", 0.75, "--align", 1, "--epochs", 1, "--recovery-epochs", 0, "--max-drop", 1),
        *("--threads", 1, "--adapter", "evonnx.testing:ToyAdapter", "--json"),
    ).document
    assert document["configuration"]["options"]["selection"]["parents"] == 2
    assert document["generations"][1]["parents"] in ([1, 1], [1])
    text = (out / "report.md").read_text()
    assert "## Pareto front" in text
    assert ("## Mating" in text) == ("mating" in document["generations"][1])
    assert filecmp.cmp(out / "best.onnx", out / f"gen-{document['best']['generation']:02d}/compact.onnx")
