"""The generation loop, with the toy adapter."""

from __future__ import annotations

import filecmp
import hashlib
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from evolution_support import in_ancestor_coordinates, metadata, options, run, write_case

from evonnx.errors import AdapterError, BudgetError, EvonnxError, RunError
from evonnx.evolution import Observer, Pressure, evolve
from evonnx.evolution.budgeting import budgeting_of, factors_of
from evonnx.network import load_network
from evonnx.onnx_io import model_digest
from evonnx.run_store import load_tensors, read_json
from evonnx.sessions import load_warnings

FILES = {"masked.onnx", "compact.onnx", "masks.safetensors", "lineage.safetensors", "metrics.json"}
FIELDS = {
    *("generation", "parents", "seed", "synapses", "synapses_ancestor", "architectural_efficiency"),
    *("kernels", "kernels_ancestor", "cluster_efficiency", "filters", "filters_ancestor", "parameters"),
    *("macs", "bytes", "score", "score_ancestor", "score_validation", "layers", "proof", "budget"),
    *("achieved", "retrain_seconds", "evaluate_seconds", "overhead_seconds", "stage_seconds"),
}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    model = write_case(folder)
    return model, folder / "run", run(model, folder / "run", generations=4)


def test_a_run_directory_holds_what_the_surface_promises(case):
    _, folder, document = case
    assert {path.name for path in folder.iterdir()} == {
        *("run.json", "best.onnx", "gen-01", "gen-02", "gen-03", "gen-04")
    }
    for row in document["generations"]:
        generation = folder / f"gen-{row['generation']:02d}"
        assert {path.name for path in generation.iterdir()} == FILES
        assert set(row) >= FIELDS
        assert read_json(generation / "metrics.json") == json.loads(json.dumps(row))
        assert row["parents"] == [row["generation"] - 1]
    assert read_json(folder / "run.json")["generations"] == json.loads(json.dumps(document["generations"]))


def test_every_file_is_valid_onnx_that_keeps_the_users_surface(case):
    model, folder, _ = case
    ancestor = onnx.load(model)
    for path in [*folder.glob("gen-*/*.onnx"), folder / "best.onnx"]:
        offspring = onnx.load(path)
        onnx.checker.check_model(offspring, full_check=True)
        assert [value.name for value in offspring.graph.input] == ["images"]
        assert offspring.graph.input[0] == ancestor.graph.input[0]
        assert offspring.graph.output[0] == ancestor.graph.output[0]
        assert offspring.opset_import == ancestor.opset_import
        assert load_warnings(path) == []
        assert str(folder).encode() not in path.read_bytes()


def test_offspring_never_exceed_their_budget(case):
    _, _, document = case
    counts = [document["ancestor"]["synapses"], *(row["synapses"] for row in document["generations"])]
    assert all(child <= 0.7 * parent for parent, child in pairwise(counts))


def test_dead_stays_dead_in_the_ancestors_coordinates(case):
    model, folder, document = case
    alive = [
        in_ancestor_coordinates(folder / f"gen-{row['generation']:02d}" / "compact.onnx", model)
        for row in document["generations"]
    ]
    for parent, child in pairwise(alive):
        assert all(not np.any(child[name] & ~parent[name]) for name in child)
    for row, masks in zip(document["generations"], alive, strict=True):
        assert row["synapses"] == sum(int(mask.sum()) for mask in masks.values())


def test_lineage_travels_in_the_file(case):
    _, folder, _ = case
    assert any(key.startswith("evonnx.") for key in metadata(folder / "gen-04" / "compact.onnx"))


def test_masked_and_compact_count_the_same(case):
    _, folder, document = case
    for row in document["generations"]:
        masks = load_tensors(folder / f"gen-{row['generation']:02d}" / "masks.safetensors")
        assert row["synapses"] == sum(int(mask.sum()) for mask in masks.values())
        assert row["proof"]["passed"]
        assert not row["proof"]["void"]


def test_best_is_the_smallest_within_the_bound(case):
    _, folder, document = case
    assert document["best"]["generation"] == 4
    assert (folder / "best.onnx").stat().st_size == document["best"]["bytes"]
    assert document["best"]["macs"] < document["ancestor"]["macs"]


def files_of(folder):
    return [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".onnx", ".safetensors")
    ]


def assert_same_run(one, other):
    assert files_of(one) == files_of(other)
    for path in files_of(one):
        assert filecmp.cmp(one / path, other / path, shallow=False), path


def test_equal_seeds_give_equal_bytes_and_other_seeds_others(case, tmp_path):
    model, folder, _ = case
    run(model, tmp_path / "again", generations=4)
    assert_same_run(folder, tmp_path / "again")
    run(model, tmp_path / "other", generations=1, seed=1)
    masks = "gen-01/masks.safetensors"
    assert not filecmp.cmp(folder / masks, tmp_path / "other" / masks, shallow=False)


def test_test_data_decides_nothing(case, tmp_path):
    _, folder, document = case
    model = write_case(tmp_path / "wrong", test_labels_shift=1)
    wrong = run(model, tmp_path / "run", generations=4)
    assert_same_run(folder, tmp_path / "run")
    assert [row["score"] for row in wrong["generations"]] != [row["score"] for row in document["generations"]]


def test_several_offspring_are_retrained_and_the_best_on_validation_lives(case, tmp_path):
    model, _, document = case
    several = run(model, tmp_path / "run", generations=1, offspring=3, max_drop=0.0)
    row = several["generations"][0]
    scores = {one["name"]: one["score_validation"] for one in row["selection"]["candidates"]}
    # What the accuracy bound leaves of a standard error is nothing: only equals are equal.
    assert row["score_validation"] == scores[row["selection"]["chosen"]] == max(scores.values())
    assert scores["offspring 1"] == document["generations"][0]["score_validation"]
    assert document["generations"][0]["selection"] is None
    assert {path.name for path in (tmp_path / "run" / "gen-01").iterdir()} == FILES


def test_a_run_that_loses_too_much_stops_and_says_so(case, tmp_path):
    model, _, _ = case
    document = run(model, tmp_path / "run", generations=8, keep=0.2, epochs=0, max_drop=0.05)
    assert len(document["generations"]) < 8
    assert any("max-drop" in note for note in document["notes"])
    assert (tmp_path / "run" / "best.onnx").exists()


def test_a_budget_out_of_reach_is_an_error_at_first_and_an_end_later(case, tmp_path):
    model, _, _ = case
    with pytest.raises(BudgetError, match="share"):
        run(model, tmp_path / "first", keep=0.001)
    assert not (tmp_path / "first").exists()
    document = run(model, tmp_path / "later", keep=0.04, generations=6)
    assert 1 <= len(document["generations"]) < 6
    assert any("Stopped before generation" in note for note in document["notes"])
    best_effort = run(model, tmp_path / "effort", keep=0.001, generations=1, best_effort=True)
    assert best_effort["generations"][0]["notes"]


def test_target_sets_each_generations_bound():
    assert Pressure(keep=0.8, target=0.01).bound(2) == pytest.approx(0.1)
    assert Pressure(keep=0.8, target=0.9).bound(2) == 0.8
    assert Pressure(keep=0.8).bound(7) == 0.8


def test_a_budget_is_reached_in_even_steps_of_what_is_left(case, tmp_path):
    model, _, _ = case
    document = run(model, tmp_path / "run", generations=3, budget={"macs": 0.3}, levels="clusters", epochs=0)
    whole = document["ancestor"]["macs"]
    left = [row["macs"] / whole for row in document["generations"]]
    assert left[-1] <= 0.3
    shares = [1.0, *left]
    for number, row in enumerate(document["generations"]):
        assert row["budget_factor"] == "macs"
        assert row["budget"] == pytest.approx((0.3 / shares[number]) ** (1 / (3 - number)))
        assert row["achieved"] <= row["budget"]
    assert document["best"]["generation"] == 3


def test_a_pace_makes_the_first_steps_large_and_the_last_ones_small(case):
    model, _, _ = case
    parent = load_network(model)

    def steps(pace):
        pressure = Pressure(budget={"synapses": 0.1}, pace=pace)
        bounds = budgeting_of(pressure, 4, parent, factors_of(pressure), None)
        shares, left = [], 1.0
        for generation in range(1, 5):
            # The parent's measure stays, so what a later generation is asked for is rescaled by hand.
            bound = bounds.bounds(parent, generation)[0].share
            shares.append(bound ** (np.log(0.1 / left) / np.log(0.1)))
            left *= shares[-1]
        assert left == pytest.approx(0.1)
        return shares

    assert steps(1) == pytest.approx([0.1**0.25] * 4)
    assert steps(2) == pytest.approx([0.1 ** (part / 16) for part in (7, 5, 3, 1)])
    assert steps(1.5) == sorted(steps(1.5))
    assert steps(0.5) == sorted(steps(0.5), reverse=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"pace": 2.0}, "towards a budget"), ({"pace": 0.0, "budget": {"macs": 0.5}}, "between")],
)
def test_a_pace_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(BudgetError, match=said):
        factors_of(Pressure(**changes))


def test_a_run_begun_before_an_option_existed_is_continued(case, tmp_path):
    model, _, _ = case
    folder = tmp_path / "run"
    run(model, folder)
    record = read_json(folder / "run.json")
    del record["configuration"]["options"]["pressure"]["pace"]
    (folder / "run.json").write_text(json.dumps(record))
    evolve(model, out=folder, options=options(), resume=True)
    pressed = options()
    pressed = replace(pressed, pressure=replace(pressed.pressure, pace=2.0, budget={"synapses": 0.1}))
    with pytest.raises(RunError, match=r"pace was 1\.0 and is 2\.0"):
        evolve(model, out=folder, options=pressed, resume=True)


def test_a_budget_far_behind_is_no_pressure(case):
    _, folder, _ = case
    parent = load_network(folder / "gen-01" / "compact.onnx")
    pressure = Pressure(budget={"synapses": 1.0})
    asked = budgeting_of(pressure, 4, parent, factors_of(pressure), None)
    assert asked.bounds(load_network(folder / "gen-04" / "compact.onnx"), 2)[0].share == 1


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"macs": 1.5}, "share in"),
        ({"mac": 0.5}, "macs"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_before_anything_is_written(case, tmp_path, budget, said):
    model, _, _ = case
    with pytest.raises(EvonnxError, match=said):
        run(model, tmp_path / "run", budget=budget)
    assert not (tmp_path / "run").exists()


def test_resuming_a_finished_run_changes_nothing(case, tmp_path):
    model, _, _ = case
    run(model, tmp_path / "run")
    before = {path: (tmp_path / "run" / path).read_bytes() for path in files_of(tmp_path / "run")}
    evolve(model, out=tmp_path / "run", options=options(), resume=True)
    assert {path: (tmp_path / "run" / path).read_bytes() for path in files_of(tmp_path / "run")} == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"keep": 0.6}, "keep was 0.7"), ({"seed": 3}, "seed was 0"), ({"encoding": "synaptic"}, "encoding")],
)
def test_resuming_with_other_options_is_refused_by_name(case, changes, said):
    model, folder, _ = case
    with pytest.raises(RunError, match=said):
        evolve(model, out=folder, options=options(**{"generations": 4, **changes}), resume=True)


def test_resuming_with_another_model_is_refused(case, tmp_path):
    _, folder, _ = case
    other = write_case(tmp_path / "other")
    changed = onnx.load(other)
    changed.doc_string = "another"
    onnx.save(changed, other)
    with pytest.raises(RunError, match="model_sha256"):
        evolve(other, out=folder, options=options(generations=4), resume=True)


def test_weights_beside_the_file_are_part_of_the_model(tmp_path):
    plain = write_case(tmp_path / "case")
    model = tmp_path / "model.onnx"
    onnx.save(onnx.load(plain), model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert model_digest(plain) == hashlib.sha256(plain.read_bytes()).hexdigest()
    first, weights = model_digest(model), bytearray((tmp_path / "weights.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    assert model_digest(model) != first


class Cheat:
    """An adapter that brings dead synapses back."""

    name = "cheat"

    def retrain(self, request):
        from evonnx.adapter import RetrainResult
        from evonnx.onnx_io import initializer_arrays, load_model

        arrays = initializer_arrays(load_model(request.model))
        return RetrainResult({name: np.ones_like(arrays[name]) for name in request.masks})


def test_an_adapter_that_breaks_its_contract_writes_nothing(case, tmp_path):
    model, _, _ = case
    with pytest.raises(AdapterError, match="masked weights"):
        run(model, tmp_path / "run", adapter="test_evolution:Cheat")
    assert not (tmp_path / "run").exists()


def test_strengths_come_from_the_adapters_gradients(case, tmp_path):
    model, _, _ = case
    asked = {"encoding": "evolution_support:certain", "levels": "synapses", "generations": 1, "epochs": 0}
    document = run(model, tmp_path / "run", adapter="evolution_support:MeasuringToy", screen=1, **asked)
    # Squared weights, ranked over the network with nothing left to chance: magnitude pruning.
    live = in_ancestor_coordinates(tmp_path / "run" / "gen-01" / "masked.onnx", model)
    arrays = {name: np.abs(load_network(model).array(name)) for name in live}
    kept = np.concatenate([arrays[name][mask] for name, mask in live.items()])
    dropped = np.concatenate([arrays[name][~mask] for name, mask in live.items()])
    assert document["generations"][0]["achieved"] <= 0.7
    assert np.quantile(dropped, 0.9) < kept.min() * 1.01
    with pytest.raises(AdapterError, match="measures no gradients"):
        run(model, tmp_path / "other", **asked)
    assert not (tmp_path / "other").exists()


def test_the_observer_hears_every_generation(case, tmp_path):
    model, _, _ = case
    heard: list[str] = []

    class Ear(Observer):
        def generation_done(self, row):
            heard.append(f"done {row['generation']}")

        def training(self, generation, news):
            heard.append(f"training {generation}")

    evolve(model, out=tmp_path / "run", options=options(), observer=Ear())
    assert [line for line in heard if line.startswith("done")] == ["done 1", "done 2"]
    assert {"training 1", "training 2", "training 0"} <= set(heard)
