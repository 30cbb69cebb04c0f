"""The zoo: every family that is deployed, as both exporters write it, loses half of its channels, proven.

`python tests/test_zoo.py --record` takes the removable shares anew and writes them to tests/golden/zoo.json.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from zoo import ZOO
from zoo.shares import Shares, record, removable_shares

from evonnx.dependency import Coupling, analyse
from evonnx.network import Network, load_network

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
def test_is_analysed(name: str, exporter: str, exported: Exported) -> None:
    path = exported(name, exporter)
    onnx.checker.check_model(str(path), full_check=True)
    network = load(path, name, exporter)
    check_pins(network, analyse(network))


def check_pins(network: Network, coupling: Coupling) -> None:
    for pin in coupling.pins:
        assert pin.reason
        assert pin.node_label
    for one in network.unprunable:
        assert one.reason
        assert one.node_label


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
