"""Cost tables: fitted from times, measured on probes, corrected by pilots, kept by runs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from cli_support import CommandLine
from evolution_support import options, write_case
from genetics_support import convolutions, named
from hypothesis import given
from hypothesis import strategies as st

from evonnx.clusters import find_clusters
from evonnx.encodings import adaptive
from evonnx.environment import Budget, LatencyBudget
from evonnx.environment.widths import Costs, LayerCost, Widths, stored_widths, width_total
from evonnx.errors import BudgetError
from evonnx.evolution import evolve
from evonnx.genome import encode
from evonnx.latency import (
    Setting,
    corrected,
    find_correction,
    latency_budget,
    measure_latency,
    piloting,
)
from evonnx.latency.fitting import Timing, fit_layers, fit_rest, nonnegative
from evonnx.latency.measuring import divide
from evonnx.latency.probes import probe_of, probes
from evonnx.onnx_io import save_model
from evonnx.report import markdown, read_run
from evonnx.run_store import read_json
from evonnx.sessions import CPU, input_specs, make_session, resolve_providers
from evonnx.speed import NodeTime, feeds_for, profile_nodes
from evonnx.synthesis import sample, solve

CHANNELS = replace(adaptive, levels="clusters")


def wide():
    rng = np.random.default_rng(0)
    shapes = ((48, 3), (64, 48), (64, 64), (10, 64))
    return convolutions(*(rng.standard_normal((*shape, 3, 3)).astype(np.float32) for shape in shapes))


def drawn_widths(network, rng):
    """Widths of all layers, each drawn apart."""
    drawn = {}
    for name, weight in network.weights.items():
        whole = stored_widths(weight)
        inputs, outputs = rng.integers(1, whole.inputs + 1), rng.integers(1, whole.outputs + 1)
        drawn[name] = Widths(float(inputs), float(outputs), float(inputs * outputs))
    return drawn


@given(seed=st.integers(0, 2**32 - 1))
def test_least_squares_find_what_made_the_times(seed):
    rng = np.random.default_rng(seed)
    features = np.concatenate([np.ones((30, 1)), rng.uniform(1, 100, (30, 3))], axis=1)
    truth = rng.uniform(0, 1, 4) * (rng.random(4) < 0.7)
    truth[rng.integers(4)] += 0.1
    found = nonnegative(features, features @ truth)
    assert (found >= 0).all()
    assert found == pytest.approx(truth, abs=1e-6)


@given(seed=st.integers(0, 2**32 - 1))
def test_no_cost_is_negative_however_odd_the_times(seed):
    rng = np.random.default_rng(seed)
    features = np.concatenate([np.ones((8, 1)), rng.uniform(1, 100, (8, 3))], axis=1)
    times = rng.uniform(0.01, 1, 8)
    found = nonnegative(features, times)
    assert (found >= 0).all()
    constant = 1 / np.sum(times**-2) * np.sum(1 / times)
    assert np.sum((features @ found / times - 1) ** 2) <= np.sum((constant / times - 1) ** 2) + 1e-9


def test_layers_that_compute_alike_are_fitted_together():
    network, _ = wide()
    names = list(network.weights)
    cost = LayerCost(0.01, 1e-4, 2e-4, 3e-6)
    rng = np.random.default_rng(0)
    timings = [
        Timing(names[1], left[names[1]], cost.of(left[names[1]]))
        for left in (drawn_widths(network, rng) for _ in range(8))
    ]
    fitted = fit_layers(timings, network.weights)
    left = drawn_widths(network, rng)[names[2]]
    assert fitted[names[2]].of(left) == pytest.approx(cost.of(left), rel=1e-3)
    lenet = named("lenet")[0]
    first, *_, last = lenet.weights
    never_timed = fit_layers([Timing(first, stored_widths(lenet.weights[first]), 1.0)], lenet.weights)
    assert never_timed[last] == LayerCost()


def test_the_rest_is_a_constant_and_a_part_of_every_output():
    network, _ = wide()
    rng = np.random.default_rng(1)
    widths = [drawn_widths(network, rng) for _ in range(6)]
    each = {name: 1e-6 * (weight.macs_per_tap or 1) for name, weight in network.weights.items()}
    rests = [0.05 + sum(each[name] * left.outputs for name, left in one.items()) for one in widths]
    plain = dict.fromkeys(network.weights, LayerCost(per_slice=1e-5))
    constant, layers = fit_rest(plain, rests, widths, network.weights)
    assert constant == pytest.approx(0.05)
    assert {name: cost.per_output for name, cost in layers.items()} == pytest.approx(each)
    assert fit_rest(plain, [0.0] * 6, widths, network.weights) == (0.0, plain)


@pytest.mark.parametrize(
    "name", ["lenet", "residual_bn", "depthwise", "unnamed_nodes", "matmul_mlp", "concat_fire"]
)
def test_every_layer_is_found_in_onnxruntimes_profile(name):
    network, _ = named(name)
    probe = probe_of(network)
    session = make_session(probe.model, threads=1)
    feeds = feeds_for(input_specs(session), 1, np.random.default_rng(0), network.input_shapes)
    _, profile = profile_nodes(probe.model, feeds, threads=1, providers=[CPU])
    layers, rest = divide(probe, profile)
    assert set(layers) == set(network.weights)
    assert sum(layers.values()) + rest == pytest.approx(sum(node.microseconds for node in profile))


def test_names_that_onnxruntime_made_up_are_traced_to_layers():
    network, _ = wide()
    probe = probe_of(network)
    first, *_, last = network.weights
    token = next(token for token, name in probe.owners.items() if name == first)
    assert token.startswith("evonnx_")
    profile = [
        NodeTime(f"fused {token}/MatMulAddFusion", "FusedConv", CPU, 5.0, 0.3),
        NodeTime(f"{token}0_nchwc", "Conv", CPU, 2.0, 0.1),
        NodeTime("y_nchwc_token_7", "Conv", CPU, 7.0, 0.5),
        NodeTime("ReorderInput", "ReorderInput", CPU, 2.0, 0.1),
        NodeTime("somebody_elses", "Conv", CPU, 1.0, 0.1),
    ]
    assert divide(probe, profile) == ({first: 7.0, last: 7.0}, 3.0)


def test_probes_vary_each_width_by_itself():
    network, coupling = wide()
    drawn = list(
        probes(network, coupling, adaptive, 4, [0.8, 0.6, 0.5, 0.4, 0.3, 0.2], np.random.default_rng(0))
    )
    names = list(network.weights)[:3]
    outputs = np.array([[one.widths[name].outputs for name in names] for one in drawn])
    assert (outputs % 4 == 0).all()
    assert len({tuple(row) for row in outputs.tolist()}) == len(drawn)
    assert np.abs(np.corrcoef(outputs.T)[np.triu_indices(3, 1)]).min() < 0.9
    assert outputs[-1].sum() < outputs[0].sum()


@pytest.fixture(scope="module")
def measured():
    network, coupling = wide()
    return measure_latency(network, coupling, CHANNELS, 4, 1)


def test_a_table_is_measured_and_recorded(measured):
    network, _ = wide()
    record = json.loads(json.dumps(measured))
    assert set(record["layers"]) == set(network.weights)
    assert record["provider"] == CPU
    assert record["ancestor_ms"] > 0
    assert len(record["probes"]) == 8
    assert all(one["predicted_ms"] > 0 and one["measured_ms"] > 0 for one in record["probes"])
    # A busy machine scatters times of a fraction of a millisecond; the table must still be of the right size.
    assert record["median_error"] < 0.5
    factor = latency_budget(record)
    masks = {name: network.live(name) for name in network.weights}
    assert factor.measure(network, masks) == pytest.approx(record["ancestor_ms"], rel=0.6)


def test_a_budget_that_a_table_cannot_be_measured_for_says_so(monkeypatch):
    network, coupling = wide()
    monkeypatch.setattr("evonnx.latency.measuring.divide", lambda probe, profile: ({}, 1.0))
    with pytest.raises(BudgetError, match="names none of its layers"):
        measure_latency(network, coupling, CHANNELS, 4, 1)


def latency_solution(network, coupling, share=0.5):
    """Under a table by which slices cost time, and nothing else."""
    factor = LatencyBudget(table=Costs(0.0, dict.fromkeys(network.weights, LayerCost(per_slice=1e-3))))
    genome = encode(network, find_clusters(network, coupling, "channel"), CHANNELS)
    return solve(network, coupling, genome, Budget(share, factor), levels="clusters")


@pytest.mark.parametrize("truth", [0.7, 1.0, 1.3])
def test_pilots_correct_a_table_that_is_off(monkeypatch, truth):
    network, coupling = wide()
    solution = latency_solution(network, coupling)
    whole = solution.bounds[0].parent_amount
    costs = solution.bounds[0].costs
    timed = []

    def time_in_turns(tried, setting, rng):
        timed.append(tried)
        return [10.0, 10.0 * truth * width_total(costs, tried[1].widths) / whole]

    monkeypatch.setattr(piloting, "time_in_turns", time_in_turns)

    def drawn(one):
        return sample(one, np.random.default_rng(3))

    found = find_correction(solution, drawn, Setting(network, 1), whole)
    assert found == pytest.approx(truth, rel=0.021)
    assert len(timed) == (1 if truth == 1 else 2)
    better = corrected(solution, found)
    one = drawn(better)
    real = truth * one.achieved_share * better.bounds[0].parent_amount / found
    # Whole channels go, and what the sample's own widths cost is known to the pilots' tolerance.
    assert real / whole == pytest.approx(0.5, rel=0.1)


def test_without_a_budget_on_latency_no_pilot_is_flown(monkeypatch):
    network, coupling = wide()
    genome = encode(network, find_clusters(network, coupling, "channel"), CHANNELS)
    solution = solve(network, coupling, genome, Budget(0.5), levels="clusters")
    monkeypatch.setattr(piloting, "time_in_turns", None)
    assert find_correction(solution, lambda one: None, Setting(network, 1), 1.0) == 1.0


def table_of(network, coupling, encoding, align, threads, *, providers):
    """A record as `measure_latency` gives it: a toy's real time is overhead, which nothing saves."""
    layers = {name: {"cost_ms": [0.0, 0.0, 0.0, 1e-3], "measured": []} for name in network.weights}
    whole = sum(1e-3 * stored_widths(weight).slices for weight in network.weights.values())
    return {
        "ancestor_ms": whole,
        "constant_ms": 0.0,
        "layers": layers,
        "calibration": 1.0,
        "threads": threads,
        "provider": providers[0],
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latency")
    model = write_case(folder)
    asked = options(generations=2)
    asked = replace(asked, pressure=replace(asked.pressure, budget={"latency": 0.5, "synapses": 0.4}))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("evonnx.evolution.beginning.measure_latency", table_of)
        patched.setattr("evonnx.evolution.pacing.find_correction", lambda *_, **__: 1.1)
        record = evolve(model, out=folder / "run", options=asked).record
    return model, folder / "run", asked, record


def test_a_run_keeps_a_budget_on_latency_and_reports_prediction_and_measurement(run):
    _, folder, _, record = run
    table = record["choices"]["latency"]
    assert table["corrections"] == {"1": 1.1, "2": 1.1}
    for row in record["generations"]:
        assert [one["factor"] for one in row["budgets"]] == ["latency", "synapses"]
        assert all(one["achieved"] <= one["share"] * (1 + 1e-9) for one in row["budgets"])
        assert row["budget_factor"] == "latency"
        latency = row["latency"]
        assert latency["predicted_ms"] > 0
        assert latency["measured_share_low"] <= latency["measured_share"] <= latency["measured_share_high"]
    assert record["generations"][-1]["latency"]["predicted_share"] <= 0.5 + 1e-9
    assert record["generations"][-1]["synapses"] <= 0.4 * record["ancestor"]["synapses"]
    assert read_json(folder / "run.json")["choices"] == json.loads(json.dumps(record["choices"]))


def test_the_report_shows_prediction_beside_measurement(run):
    _, _, _, record = run
    text = markdown(read_run(record))
    _, table = text.split("## Latency as the environment")
    rows = [line for line in table.split("##")[0].splitlines() if line.startswith("|")][2:]
    assert len(rows) == 2
    for row, line in zip(record["generations"], rows, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:3] == [
            str(row["generation"]),
            f"{row['latency']['predicted_share']:.1%}",
            f"{row['latency']['measured_share']:.1%}",
        ]
    assert "per_slice" not in text
    assert "cost_ms" not in text


def test_a_resumed_run_measures_nothing_twice(run, monkeypatch):
    model, folder, asked, record = run
    for place in ("evonnx.evolution.beginning.measure_latency", "evonnx.evolution.pacing.find_correction"):
        monkeypatch.setattr(place, None)
    assert evolve(model, out=folder, options=asked, resume=True).record["choices"] == record["choices"]


def test_a_run_of_synapses_alone_can_keep_no_budget_on_latency(tmp_path):
    model = write_case(tmp_path)
    asked = options()
    asked = replace(asked, pressure=replace(asked.pressure, budget={"latency": 0.5}, levels="synapses"))
    with pytest.raises(BudgetError, match="whole channels"):
        evolve(model, out=tmp_path / "run", options=asked)
    assert not (tmp_path / "run").exists()


def test_synthesize_aims_at_a_measured_share(tmp_path, capsys):
    network, _ = wide()
    model, masked = tmp_path / "wide.onnx", tmp_path / "masked.onnx"
    save_model(network.model, model)
    arguments = ["--budget", "latency=0.7,bytes=0.8", "--levels", "clusters", "--align", "8", "--json"]
    outcome = CommandLine(capsys)("synthesize", model, "-o", masked, *arguments)
    assert outcome.code == 0, outcome.err
    document = outcome.document
    assert [one["factor"] for one in document["budgets"]] == ["latency", "bytes"]
    assert all(one["achieved"] <= one["share"] for one in document["budgets"])
    assert 0.3 < document["choices"]["latency"]["measured_share"] < 1.1
    assert masked.exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [("macs=0.5,macs=0.4", "twice"), ("macs", "NAME=SHARE"), ("macs=0.5,", "NAME=SHARE")],
)
def test_budgets_that_cannot_be_read_are_wrong_usage(tmp_path, capsys, given, said):
    model = write_case(tmp_path)
    outcome = CommandLine(capsys)("synthesize", model, "-o", tmp_path / "masked.onnx", "--budget", given)
    assert outcome.code == 2
    assert said in outcome.err


@pytest.mark.parametrize("command", ["evolve", "synthesize"])
def test_a_provider_that_cannot_run_is_refused_before_anything_is_written(tmp_path, capsys, command):
    if resolve_providers("auto") != (CPU,):
        pytest.skip("CUDA works here")
    model = write_case(tmp_path)
    out = tmp_path / "out"
    asked = ["--out" if command == "evolve" else "-o", out, "--provider", "cuda", "--keep", "0.5"]
    outcome = CommandLine(capsys)(command, model, *asked)
    assert outcome.code == 1
    assert "CUDAExecutionProvider" in outcome.err
    assert not out.exists()


def test_what_is_timed_is_timed_on_the_provider_asked_for(tmp_path, monkeypatch):
    asked_for = []

    def alignment(*_, providers, **__):
        asked_for.append(("alignment", tuple(providers)))
        return {"align": 1}

    def table(*arguments, providers):
        asked_for.append(("table", tuple(providers)))
        return table_of(*arguments, providers=providers)

    def correction(solution, drawn, setting, ancestor_ms):
        asked_for.append(("pilots", tuple(setting.providers)))
        return 1.0

    monkeypatch.setattr("evonnx.evolution.beginning.measure_alignment", alignment)
    monkeypatch.setattr("evonnx.evolution.beginning.measure_latency", table)
    monkeypatch.setattr("evonnx.evolution.pacing.find_correction", correction)
    asked = options(generations=1)
    pressure = replace(asked.pressure, budget={"latency": 0.7}, align=None)
    asked = replace(asked, pressure=pressure, provider="CPUExecutionProvider")
    record = evolve(write_case(tmp_path), out=tmp_path / "run", options=asked).record
    assert asked_for == [(what, (CPU,)) for what in ("alignment", "table", "pilots")]
    assert record["choices"]["timings"]["latency 1"]["provider"] == CPU
    assert record["bench"]["provider"] == CPU
