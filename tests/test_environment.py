from __future__ import annotations

from importlib.metadata import entry_points

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evonnx.environment import EnvironmentFactor, MacBudget, SynapseBudget
from evonnx.environment.solve import Spectrum, expected, fill, solve_factor, solve_monotone

seeds = st.integers(0, 2**32 - 1)
selectivities = st.sampled_from([1e-3, 1e-2, 0.1, 1.0, 1e3, 1e6])


@given(seed=seeds, selectivity=selectivities, share=st.floats(1e-6, 1), n=st.integers(1, 60))
def test_the_solved_factor_meets_any_target(seed: int, selectivity: float, share: float, n: int) -> None:
    rng = np.random.default_rng(seed)
    log_p = (np.sort(rng.random(n)).round(rng.integers(1, 6)) - 1) / selectivity
    amounts = rng.random(n) * 10.0 ** rng.integers(-3, 4) + 1e-6
    factor = solve_factor(log_p, amounts, share * amounts.sum())
    assert np.isfinite(factor)
    assert expected(factor, log_p, amounts) == pytest.approx(share * amounts.sum(), rel=1e-6)


def test_targets_at_the_borders() -> None:
    log_p, amounts = np.array([-2.0, -1.0, 0.0]), np.ones(3)
    assert solve_factor(log_p, amounts, 3.0) == 2.0
    assert solve_factor(log_p, amounts, 99.0) == 2.0
    assert solve_factor(log_p, amounts, 0.0) == -np.inf
    assert expected(-np.inf, log_p, amounts) == 0
    assert np.isfinite(solve_factor(np.zeros(0), np.zeros(0), 1.0))


@given(seed=seeds, selectivity=selectivities, share=st.floats(1e-4, 0.999))
def test_the_iterated_solution_agrees_with_the_exact_one(seed: int, selectivity: float, share: float) -> None:
    rng = np.random.default_rng(seed)
    log_p, amounts = (np.sort(rng.random(20)) - 1) / selectivity, rng.random(20)
    target = share * float(amounts.sum())
    low = float(np.log(share) - log_p.max()) - 1e-9
    calls = []

    def expectation(log_factor: float) -> float:
        calls.append(log_factor)
        return expected(log_factor, log_p, amounts)

    factor = solve_monotone(expectation, low, float(-log_p.min()), target)
    assert expected(factor, log_p, amounts) == pytest.approx(target, rel=2e-4)
    assert len(calls) < 60


@pytest.mark.parametrize("selectivity", [1e-3, 0.1, 1.0, 1e6])
@pytest.mark.parametrize("atoms", [True, False])
def test_binning_changes_expectations_by_less_than_half_a_percent(selectivity: float, atoms: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.random(200_000).astype(np.float32)
    if atoms:
        x = x[:40][rng.integers(0, 40, len(x))]
    amounts = rng.random(len(x)).astype(np.float32)
    spectrum = Spectrum(len(x), selectivity)
    assert spectrum.bins is not None
    for start in range(0, len(x), 50_000):
        spectrum.add(spectrum.digest(x[start : start + 50_000], amounts[start : start + 50_000]))
    binned_x, binned = spectrum.table()
    assert np.all(np.diff(binned_x) > 0)
    assert np.all(binned > 0)
    factor = solve_factor((binned_x - 1) / selectivity, binned, 0.3 * float(binned.sum()))
    exact = expected(factor, (x.astype(np.float64) - 1) / selectivity, amounts.astype(np.float64))
    assert exact == pytest.approx(0.3 * amounts.sum(dtype=np.float64), rel=5e-3)


def test_few_entries_are_kept_exactly() -> None:
    spectrum = Spectrum(5, 1.0)
    spectrum.add(spectrum.digest(np.array([0.3, 0.1, 1.0]), np.array([1.0, 2.0, 0.0])))
    spectrum.add(spectrum.digest(np.array([0.2, 0.7]), np.array([4.0, 5.0])))
    x, amounts = spectrum.table()
    assert x.tolist() == [0.1, 0.2, 0.3, 0.7]
    assert amounts.tolist() == [2, 4, 1, 5]


@given(seed=seeds, share=st.floats(0.01, 0.99))
def test_layers_make_up_for_those_that_cannot_give_their_share(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.random(6) * 100
    sizes[rng.integers(6)] = 0
    caps = sizes * rng.random(6)
    target = share * float(caps.sum())
    common = fill(caps, sizes, target)
    assert np.minimum(caps, common * sizes).sum() == pytest.approx(target)


def test_built_in_factors_come_in_through_entry_points() -> None:
    found = {entry.name: entry.load() for entry in entry_points(group="evonnx.environment_factors")}
    assert found["synapses"] is SynapseBudget
    for factor in (SynapseBudget(), MacBudget()):
        assert isinstance(factor, EnvironmentFactor)
        assert factor.hard
