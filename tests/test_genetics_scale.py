"""The benchmark of genetics on a small network: memory and bounds, not seconds."""

from __future__ import annotations

import importlib.util
import tracemalloc
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "benchmarks" / "genetics.py"
    spec = importlib.util.spec_from_file_location("genetics_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("preset", "density"), [("cluster-driven", 1.0), ("synaptic", 0.5), ("adaptive", 0.5)]
)
def test_working_memory_stays_under_twice_the_weights(benchmark, preset: str, density: float) -> None:
    network = benchmark.big_network(6_000_000, density)
    weight_bytes = sum(network.array(name).nbytes for name in network.weights)
    assert 23e6 < weight_bytes < 25e6
    benchmark.analyse(network)
    tracemalloc.start()
    one, _ = benchmark.breed(network, benchmark.PRESETS[preset])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * weight_bytes
    assert one.survivors <= 0.7 * one.parent_synapses
    assert one.expected_share == pytest.approx(0.7, rel=0.01)
