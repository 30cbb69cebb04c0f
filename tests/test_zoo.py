"""The zoo: every family that is deployed, as both exporters write it, loses half of its channels, proven.

`python tests/test_zoo.py --record` takes the removable shares anew and writes them to tests/golden/zoo.json.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from packaging.version import Version
from removal_support import random_masks, reread
from zoo import ZOO
from zoo.shares import Shares, golden, record, removable_shares

from evonnx.clusters import find_clusters
from evonnx.dependency import Coupling, analyse
from evonnx.environment import Budget
from evonnx.evolution import EvolveOptions, Pressure, Retraining, Selection, evolve
from evonnx.genome import encode
from evonnx.masking import apply_masks
from evonnx.masks import Masks
from evonnx.network import Network, load_network
from evonnx.onnx_io import save_model
from evonnx.plugins import get
from evonnx.steps import compact
from evonnx.synthesis import synthesize

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxscript")

Exported = Callable[[str, str], Path]
QUICK_DYNAMO = ("convnext", "densenet", "mlp-mixer", "resnet-option-a", "shufflenet-v2", "vit")
"""The dynamo exporter takes seconds per architecture: these by default, all where slow tests run."""
CASES = [
    *((name, "torchscript") for name in ZOO),
    *(pytest.param(name, "dynamo", marks=() if name in QUICK_DYNAMO else pytest.mark.slow) for name in ZOO),
]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Path of an exported architecture; each is exported once."""
    import torch
    from zoo.exporting import export

    torch.set_num_threads(1)
    folder, done = tmp_path_factory.mktemp("zoo"), dict[tuple[str, str], Path]()

    def get_path(name: str, exporter: str) -> Path:
        if (name, exporter) not in done:
            done[name, exporter] = export(name, exporter, folder)
        return done[name, exporter]

    return get_path


def load(path: Path, name: str, exporter: str) -> Network:
    """As a user would: extents are named where the file leaves more than the batch open."""
    row = ZOO[name]
    free = exporter == "torchscript" and any(axes != (0,) for axes in (row.dynamic or {}).values())
    return load_network(path, row.inputs if free else None)


def test_there_are_architectures_of_every_family() -> None:
    assert len(ZOO) >= 36
    assert set(QUICK_DYNAMO) <= set(ZOO)


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_half_of_the_channels_go(name: str, exporter: str, exported: Exported, tmp_path: Path) -> None:
    if exporter == "dynamo" and Version(version("torch")) < Version("2.9"):
        pytest.skip("this exporter does not know all of the operators")
    path = exported(name, exporter)
    network = load(path, name, exporter)
    coupling = analyse(network)
    check_pins(network, coupling)
    found, wanted = removable_shares(network, coupling), golden()[f"{name}-{exporter}"]
    assert found["synapses"] >= wanted["synapses"]
    if wanted["macs"] is not None:
        assert found["macs"] is not None
        assert found["macs"] >= wanted["macs"]
    assert len(found["unprunable"]) <= len(wanted["unprunable"])
    rng = np.random.default_rng(0)
    for masks in (random_masks(network, coupling, "channel", rng, 0.5), synthesized(network, coupling, rng)):
        check_removal(network, coupling, masks, tmp_path / "compact.onnx")


def check_pins(network: Network, coupling: Coupling) -> None:
    for pin in coupling.pins:
        assert pin.reason
        assert pin.node_label
    for one in network.unprunable:
        assert one.reason
        assert one.node_label


def synthesized(network: Network, coupling: Coupling, rng: np.random.Generator) -> Masks:
    """An offspring of whole channels that keeps about half of the synapses, or as many as pins demand."""
    encoding = get("encodings", "adaptive")
    genome = encode(network, find_clusters(network, coupling, "channel"), encoding)
    budget = Budget(share=0.5)
    return synthesize(network, coupling, genome, budget, rng, levels="clusters", best_effort=True).masks


def check_removal(network: Network, coupling: Coupling, masks: Masks, target: Path) -> None:
    """`compact` itself demands the proof, and that it is not void."""
    masked = reread(apply_masks(network, coupling, masks), network)
    removal = compact(masked, threads=1)
    assert removal.proof.passed
    assert not removal.proof.void
    save_model(removal.compacted.model, target)
    onnx.checker.check_model(str(target), full_check=True)
    before, after = onnx.load(network.source), onnx.load(target)
    assert [*before.graph.input] == [*after.graph.input]
    assert [*before.graph.output] == [*after.graph.output]
    if not coupling.pinned().all():
        assert not removal.plan.is_empty()


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_one_generation_without_data(name: str, exported: Exported, tmp_path: Path) -> None:
    path = exported(name, "torchscript")
    task = tmp_path / "task.toml"
    task.write_text(
        '[task]\nkind = "distillation"\ntrain_size = 16\nvalidation_size = 16\ntest_size = 16\n'
        "[retrain]\nbatch_size = 8\nthreads = 1\n"
    )
    options = EvolveOptions(
        max_drop=10.0,
        threads=1,
        pressure=Pressure(keep=0.8, best_effort=True, align=1),
        selection=Selection(screen=2),
        retraining=Retraining(epochs=1, recovery_epochs=0),
        input_shapes=load(path, name, "torchscript").input_shapes,
    )
    run = evolve(path, task, tmp_path / "run", options, generations=1)
    row = run.record["generations"][0]
    assert row["proof"]["passed"]
    assert row["synapses"] < row["synapses_ancestor"]
    assert np.isfinite(row["score"])


def take_record(core: str) -> None:
    """Export everything and write what can be removed of it."""
    from zoo.exporting import EXPORTERS, export

    found: dict[str, Shares] = {}
    with tempfile.TemporaryDirectory() as folder:
        for exporter in EXPORTERS:
            for name in ZOO:
                network = load(export(name, exporter, Path(folder)), name, exporter)
                shares = removable_shares(network, analyse(network))
                found[f"{name}-{exporter}"] = shares
                print(f"{name:20} {exporter:12} synapses {shares['synapses']} macs {shares['macs']}")
    record(found, core)


if __name__ == "__main__":
    if "--record" not in sys.argv[1:2]:
        sys.exit("usage: python tests/test_zoo.py --record [STATE OF THE CORE, IN WORDS]")
    take_record(" ".join(sys.argv[2:]))
