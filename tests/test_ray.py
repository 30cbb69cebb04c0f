"""The Ray executor: refusals, which need no cluster, and a cluster of several nodes on this machine, one of
which is killed in the middle of a generation."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crash.crash_support import digests
from evolution_support import options, write_case

from evonnx.errors import ExecutorError
from evonnx.evolution import EvolveOptions, evolve
from evonnx.executors import Call, Done, Executor, Failed
from evonnx.plugins import executors
from evonnx.testing import ExecutorContract, work
from evonnx.testing.executor_contract import ends

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'evonnx[ray]'")
from evonnx_ray import RayExecutor  # noqa: E402

STORE_BYTES = 80 << 20


def slow(test: Any) -> Any:
    """Mark what needs a cluster. Its processes and sockets are Ray's to close."""
    unclosed = ("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    for mark in (pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings(*unclosed)):
        test = mark(test)
    return test


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nonsense", "'nonsense' is no address of a Ray cluster"),
        ("127.0.0.1:0", "is no address"),
        ("127.0.0.1:99999", "is no address"),
        ("ray://127.0.0.1:10001", "an address of Ray Client"),
        (None, "There is no Ray cluster at '127.0.0.1:"),
    ],
)
def test_a_wrong_address_is_one_clear_error(address: str | None, says: str) -> None:
    with pytest.raises(ExecutorError, match=says.replace("(", r"\(")):
        RayExecutor(2, 1, address or f"127.0.0.1:{free_port()}")
    assert not ray.is_initialized()


def test_it_comes_in_by_the_same_door() -> None:
    assert executors()["ray"].load() is RayExecutor


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for work, and two nodes for one worker each."""
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False},
    )
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def on_cluster(cluster: Any) -> Iterator[Executor]:
    made = RayExecutor(2, 1, cluster.address)
    yield made
    made.close()
    made.close()


@slow
class TestRay(ExecutorContract):
    @pytest.fixture
    def executor(self, on_cluster: Executor) -> Executor:
        return on_cluster

    def test_room_for_no_call_is_one_clear_error(self, executor: Executor) -> None:
        with pytest.raises(ExecutorError, match="No node of the Ray cluster has 3 CPUs"):
            RayExecutor(2, 3, None)

    def test_another_address_than_that_of_this_process_is_refused(self, executor: Executor) -> None:
        with pytest.raises(ExecutorError, match="is connected to the Ray cluster at"):
            RayExecutor(2, 1, "127.0.0.1:1")

    def test_shared_files_of_long_ago_are_fetched_again(self, executor: Executor, tmp_path: Path) -> None:
        shared = []
        for number in range(6):
            (tmp_path / f"{number}").write_bytes(bytes([number]))
            shared.append(executor.share(tmp_path, [f"{number}"]))
        for number in (0, 1, 2, 3, 4, 5, 0, 1):
            executor.submit(0, Call(work.read, (shared[number], [f"{number}"])))
            assert ends(executor, 1) == [Done(0, [bytes([number])])]

    def test_code_that_a_node_does_not_have_is_an_error(self, executor: Executor) -> None:
        executor.submit(0, Call(work.echo, Unreadable()))
        (event,) = ends(executor, 1)
        assert isinstance(event, Failed)
        assert "no such code here" in str(event.error)


class Unreadable:
    """Can be sent, and not be read."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ModuleNotFoundError("no such code here")


def asked(**adapter_options: str) -> EvolveOptions:
    found = options(generations=2, offspring=2, screen=3, adapter="executor_support:SlowToy")
    return replace(found, retraining=replace(found.retraining, adapter_options=adapter_options))


@slow
def test_a_node_that_is_killed_in_the_middle_costs_a_retry(cluster: Any, tmp_path: Path) -> None:
    """And in this process, in a pool and on a cluster equal seeds give equal files."""
    model = write_case(tmp_path / "case")
    marker = tmp_path / "marker"
    runs = {}
    for name, more in {"alone": {}, "local": {"executor": "local", "workers": 2}}.items():
        runs[name] = evolve(model, out=tmp_path / name, options=asked(), **more)  # type: ignore[arg-type]

    def kill() -> None:
        deadline = time.monotonic() + 600
        while not (marker.exists() and marker.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        place = marker.read_text()
        for node in cluster.list_all_nodes():
            if node.node_id == place:
                cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        runs["ray"] = evolve(
            model,
            out=tmp_path / "ray",
            options=asked(marker=str(marker), seconds="5"),
            executor="ray",
            workers=2,
            address=cluster.address,
        )
    finally:
        killer.join()
    faults = [fault for row in runs["ray"].record["generations"] for fault in row["faults"]]
    assert [(fault["stage"], fault["kind"]) for fault in faults] == [("raising", "lost worker")] * len(faults)
    assert faults
    assert "NodeDied" in faults[0]["detail"]
    assert runs["ray"].record["executor"] == {"name": "ray", "workers": 2, "threads": 1}
    files = {
        name: {file: found for file, found in digests(tmp_path / name).items() if not file.endswith("json")}
        for name in runs
    }
    assert len(files["alone"]) == 9
    assert files["alone"] == files["local"] == files["ray"]
