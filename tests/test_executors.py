"""Executors: the contract, the policy of retries, and runs whose workers die."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_support import CommandLine
from crash.crash_support import digests, timeless
from evolution_support import options, write_case
from rich.console import Console

from evonnx.adapter import Progress, TrainingBudget
from evonnx.cli._live import LiveObserver
from evonnx.errors import AdapterError, ExecutorError, PluginError
from evonnx.evolution import EvolveOptions, Observer, crew, evolve
from evonnx.evolution.configuration import versions_of
from evonnx.evolution.crew import Circumstances, Placing, placing_of
from evonnx.evolution.fostering import now_and_then
from evonnx.evolution.stopwatch import OTHER, RETRAIN, Stopwatch
from evonnx.executors import Call, Done, Event, Executor, Failed, Lost, News, gather, threads_of
from evonnx.executors.gathering import MOST_LOSSES
from evonnx.executors.local import LocalExecutor, Place
from evonnx.speed import arithmetic_of
from evonnx.testing import ExecutorContract, ToyAdapter, work


@pytest.fixture(scope="module")
def local() -> Iterator[Executor]:
    made = LocalExecutor(2)
    yield made
    made.close()
    made.close()
    with pytest.raises(ExecutorError, match="none is under way"):
        made.wait()


class TestLocal(ExecutorContract):
    @pytest.fixture
    def executor(self, local: Executor) -> Executor:
        return local


class Scripted:
    """An executor whose events are written down."""

    name, workers, same_disk = "scripted", 1, True

    def __init__(self, *events: Event) -> None:
        self.events, self.submitted = deque(events), list[int]()

    def submit(self, number: int, call: Call) -> None:
        self.submitted.append(number)

    def wait(self) -> Event:
        return self.events.popleft()

    def share(self, folder: Path, names: Sequence[str]) -> Any:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


def collected(*events: Event, calls: int = 2) -> tuple[list[Any], list[Any], list[int]]:
    """Results, what was told, and what was submitted."""
    told: list[Any] = []
    executor = Scripted(*events)
    results = gather(
        executor,
        [Call(work.echo, number) for number in range(calls)],
        lambda number, word: told.append((number, word)),
        lambda number, reason: told.append((number, f"lost: {reason}")),
        lambda number: told.append((number, "done")),
    )
    return results, told, executor.submitted


def test_results_come_in_the_order_of_the_calls_whoever_ends_first() -> None:
    results, told, submitted = collected(News(1, "a"), Done(1, "one"), News(0, "b"), Done(0, "nought"))
    assert results == ["nought", "one"]
    assert told == [(1, "a"), (1, "done"), (0, "b"), (0, "done")]
    assert submitted == [0, 1]


def test_a_lost_call_is_made_again() -> None:
    results, told, submitted = collected(Lost(0, "gone"), Done(1, 1), Lost(0, "gone"), Done(0, 0))
    assert results == [0, 1]
    assert [one for one in told if one[1] == "lost: gone"] == [(0, "lost: gone")] * 2
    assert submitted == [0, 1, 0, 0]


def test_a_call_that_kills_every_worker_ends_the_run() -> None:
    with pytest.raises(ExecutorError, match=f"{MOST_LOSSES} workers of the scripted executor.*: gone"):
        collected(*[Lost(0, "gone")] * MOST_LOSSES)


def test_losses_are_counted_call_by_call() -> None:
    events = [Lost(number, "gone") for number in (0, 1) for _ in range(MOST_LOSSES - 1)]
    assert collected(*events, Done(0, 0), Done(1, 1))[0] == [0, 1]


def test_what_a_call_raised_is_raised() -> None:
    with pytest.raises(PluginError, match="no such"):
        collected(Done(0, 0), Failed(1, PluginError("no such")))


def test_news_of_training_come_now_and_then_and_at_the_end_of_epochs() -> None:
    times, told = iter([0.0, 0.01, 0.02, 0.2, 0.21]), list[Progress]()
    tell = now_and_then(told.append, lambda: next(times))
    steps = [Progress(1, 2, step, 3, 0.0) for step in (1, 2, 3)] + [Progress(2, 2, s, 3, 0.0) for s in (1, 2)]
    for one in steps:
        tell(one)
    assert told == [steps[0], steps[2], steps[3]]


def test_seconds_of_others_count_and_waiting_for_them_does_not() -> None:
    now = 0.0
    watch = Stopwatch(lambda: now)
    with watch.timing("save"):
        now = 1.0
    with watch.waiting():
        now = 11.0
    now = 13.0
    watch.add({RETRAIN: 7.0, "save": 0.5, OTHER: 0.25})
    assert watch.seconds[RETRAIN] == 7.0
    assert watch.stages() == {"save": 1.5, OTHER: 2.25}
    assert watch.spent() == {RETRAIN: 7.0, "evaluate": 0.0, "save": 1.5, OTHER: 2.25}


def test_threads_are_shared_out_among_workers() -> None:
    cores = len(os.sched_getaffinity(0))
    assert [threads_of(one) for one in (None, 1, cores, 10 * cores)] == [1, cores, 1, 1]
    assert Placing("local", 1).threads == cores


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--executor", "lokal"), "There is no executor called 'lokal'. Did you mean 'local'?"),
        (("--executor", "local", "--workers", "0"), "0 workers were asked for"),
        (("--executor", "local", "--workers", "2000"), "between 1 and 1024"),
        (("--executor", "local", "--address", "10.0.0.1:6379"), "takes no address"),
        (("--workers", "2"), "--workers is for an executor"),
        (("--address", "auto"), "--address is for an executor"),
    ],
)
def test_wrong_executors_are_one_clear_error(
    words: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_case(tmp_path / "case")
    toy = ("--adapter", "evonnx.testing:ToyAdapter", "--out", tmp_path / "run")
    ended = CommandLine(capsys)("evolve", model, *toy, *words)
    assert ended.code == 1
    (line,) = [one for one in ended.err.splitlines() if one.startswith("evonnx: ")]
    assert says in line
    assert not (tmp_path / "run").exists()


def test_an_executor_whose_library_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] == "evonnx_ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PluginError, match=r"pip install 'evonnx\[ray\]'"):
        placing_of("ray", 2, None)


class Heard(Observer):
    def __init__(self) -> None:
        self.offspring: set[int | None] = set()
        self.stages: list[str] = []

    def training(self, generation: int, news: Progress) -> None:
        if generation:
            self.offspring.add(news.offspring)

    def stage(self, generation: int, text: str) -> None:
        self.stages.append(text)


def frail(**adapter_options: str) -> EvolveOptions:
    """One generation of two offspring, on little memory."""
    asked = options(
        generations=1, offspring=2, screen=3, recovery_epochs=0, adapter="executor_support:FrailToy"
    )
    return replace(asked, retraining=replace(asked.retraining, adapter_options=adapter_options))


def differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Keys of rows that differ, times apart."""
    one, other = timeless(one), timeless(other)
    return {key for key in {*one, *other} if one.get(key) != other.get(key)}


def test_processes_that_are_killed_change_nothing_but_the_faults(tmp_path: Path) -> None:
    model, heard = write_case(tmp_path / "case"), Heard()
    alone = evolve(model, out=tmp_path / "alone", options=frail())
    run = evolve(
        model,
        out=tmp_path / "run",
        options=frail(marker=str(tmp_path / "marker")),
        executor="local",
        workers=2,
        observer=heard,
    )
    assert digests(tmp_path / "run" / "gen-01").keys() == digests(tmp_path / "alone" / "gen-01").keys()
    same = {name: found for name, found in digests(tmp_path / "alone").items() if not name.endswith("json")}
    assert len(same) == 5  # with best.onnx
    assert same.items() <= digests(tmp_path / "run").items()
    (row,), (before,) = run.record["generations"], alone.record["generations"]
    assert differences(row, before) <= {"faults", "training", "notes", "selection"}
    lost = [fault for fault in row["faults"] if fault["kind"] == "lost worker"]
    assert len(lost) == 1
    assert lost[0]["stage"] == "raising"
    assert "signal 9" in lost[0]["detail"]
    memory = [fault for fault in row["faults"] if fault["kind"] == "out of memory"]
    assert memory == before["faults"]
    assert len(memory) == 2
    assert run.record["choices"]["remedies"] == alone.record["choices"]["remedies"]
    assert run.record["executor"] == {"name": "local", "workers": 2, "threads": 1}
    assert any("local executor: 2 at a time, 1 thread each" in note for note in run.record["notes"])
    assert "executor" not in alone.record
    assert heard.offspring == {1, 2}
    assert "screening 3/3" in heard.stages
    assert sum("its worker was lost" in text for text in heard.stages) == 1
    assert {f"offspring {number}: retraining" for number in (1, 2)} <= set(heard.stages)


def test_a_killed_workers_successor_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    model = write_case(tmp_path / "case")
    asked = frail(marker=str(tmp_path / "marker"))
    asked = replace(asked, selection=replace(asked.selection, screen=1, offspring=1))
    run = evolve(model, out=tmp_path / "run", options=asked, executor="local", workers=1)
    assert run.record["generations"][0]["training"]["notes"] == ["a checkpoint was found"]


def test_an_adapters_error_in_a_worker_is_that_of_the_run(tmp_path: Path) -> None:
    model = write_case(tmp_path / "case")
    asked = replace(frail(), retraining=replace(frail().retraining, adapter="executor_support:BrokenToy"))
    with pytest.raises(AdapterError, match=r"failed while retraining compact\.onnx: KeyError: 'a layer'"):
        evolve(model, out=tmp_path / "run", options=asked, executor="local", workers=1)
    assert not (tmp_path / "run").exists()


LEFT_ALONE = """
import sys
from evonnx.executors import Call
from evonnx.executors.local import LocalExecutor
from evonnx.testing import work
if __name__ == "__main__":
    executor = LocalExecutor(1)
    executor.submit(0, Call(work.who, 0.0))
    print(executor.wait().value, flush=True)
    executor.submit(0, Call(work.who, 600.0))
    executor.wait()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(LEFT_ALONE)
    process = subprocess.Popen([sys.executable, tmp_path / "program.py"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    os.kill(worker, 0)
    process.kill()
    process.communicate()
    assert gone(worker)


def gone(process: int, seconds: float = 30) -> bool:
    """Whether a process ends in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True  # only its entry is left, for a parent that is not there
        time.sleep(0.05)
    return False


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_stopped_with_workers_at_work_a_run_leaves_nothing_behind(tmp_path: Path) -> None:
    model = write_case(tmp_path / "case")
    words = [
        *("evolve", str(model), "--out", "run", "--gens", "1", "--offspring", "2", "--screen", "2"),
        *("--align", "1", "--threads", "1", "--epochs", "1", "--recovery-epochs", "0", "--max-drop", "1"),
        *("--adapter", "executor_support:SlowToy", "--adapter-option", f"marker={tmp_path / 'marker'}"),
    ]
    slow = ["--adapter-option", "seconds=600", "--executor", "local", "--workers", "2"]
    start = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from evonnx.cli import main; main()"
    )
    places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    process = subprocess.Popen(
        [sys.executable, "-c", start, *words, *slow],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not (tmp_path / "marker").exists() or not (tmp_path / "marker").read_text():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert "Interrupted. Continue with:" in err.splitlines()[-1]
    assert gone(int((tmp_path / "marker").read_text()))
    assert {path.name for path in (tmp_path / "run").iterdir()} - {"checkpoints"} == {"run.json"}


def test_all_workers_are_on_one_screen() -> None:
    console = Console(file=io.StringIO(), width=120)
    with LiveObserver(console) as observer:
        for number in (1, 2):
            observer.stage(1, f"offspring {number}: retraining")
        for number in (1, 2):
            observer.training(1, Progress(1, 2, 3, 4, 0.25 * number, number))
        assert set(observer.board.trainings) == {1, 2}
        observer.stage(1, "offspring 1: raised")
        assert set(observer.board.trainings) == {2}
    assert isinstance(console.file, io.StringIO)
    told = ["offspring 1: retraining", "offspring 2: retraining", "offspring 1: raised"]
    assert console.file.getvalue().splitlines() == [f"gen 01: {text}" for text in told]


def told(**changes: Any) -> Circumstances:
    """What a worker that is given no work yet could be told."""
    here = Circumstances(
        run="one",
        ancestor=Place("."),
        ancestor_name="model.onnx",
        task_file=None,
        folder=".",
        adapter="evonnx.testing:ToyAdapter",
        adapter_options={},
        training=TrainingBudget(),
        threads=1,
        input_shapes={},
        align=1,
        factor="synapses",
        warnings_ancestor=frozenset(),
        timeout=None,
        versions=versions_of(ToyAdapter),
        machine=arithmetic_of(),
    )
    return replace(here, **changes)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """This process as a worker, and the ancestor's folder."""
    write_case(tmp_path / "case")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(crew, "_known", {})
    return Place(str(tmp_path / "case"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"versions": {**versions_of(ToyAdapter), "onnx": "0.1"}}, "onnx is .* and should be 0.1"),
        ({"versions": {"a-package": "3"}}, "a-package is missing and should be 3"),
        ({"task_file": "/nowhere/task.toml"}, "finds no task file /nowhere/task.toml"),
    ],
)
def test_a_worker_that_would_come_to_another_result_refuses(
    changes: dict[str, Any], says: str, worker: Place
) -> None:
    with pytest.raises(ExecutorError, match=says):
        crew.upbringing(told(ancestor=worker, **changes))


def test_a_worker_on_another_processor_says_so(worker: Place) -> None:
    machine = {**arithmetic_of(), "processor": "Abacus 9"}
    assert crew.upbringing(told(ancestor=worker)).notes == ()
    assert crew.upbringing(told(ancestor=worker, machine=machine)).notes == ()  # the same run, already known
    (note,) = crew.upbringing(told(ancestor=worker, run="another", machine=machine)).notes
    assert "the run's own machine is a Abacus 9" in note
