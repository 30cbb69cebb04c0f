"""What every executor must do; the built-in ones run this too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evonnx.durable import is_storage_failure
from evonnx.errors import AdapterMemoryError, ExecutorError, RunError
from evonnx.executors import Call, Done, Event, Executor, Failed, Lost, News, gather
from evonnx.testing import work


class ExecutorContract:
    """Override `executor`: one with two workers, closed at the end. One may serve all tests."""

    @pytest.fixture
    def executor(self) -> Executor:
        """The executor under test."""
        raise NotImplementedError("override the fixture `executor`")

    def test_follows_the_protocol(self, executor: Executor) -> None:
        """It has a name and two workers."""
        assert isinstance(executor, Executor)
        assert executor.name
        assert executor.workers == 2

    def test_more_calls_than_workers_all_end(self, executor: Executor) -> None:
        """Each with its own result, large or small."""
        arguments: list[Any] = ["one", {"two": (2, None)}, b"3" * 3_000_000, 4.0, None]
        assert gathered(executor, [Call(work.echo, one) for one in arguments]) == arguments

    def test_calls_run_in_other_processes_at_the_same_time(self, executor: Executor) -> None:
        """Two that take a while do not share one."""
        found = gathered(executor, [Call(work.who, 1.0), Call(work.who, 1.0)])
        assert len({*found, os.getpid()}) == 3

    def test_words_come_in_order_and_before_the_end(self, executor: Executor) -> None:
        """Of each call."""
        words = [("word", place) for place in range(20)]
        for number in (0, 1):
            executor.submit(number, Call(work.speak, words))
        events = ends(executor, 2)
        for number in (0, 1):
            of_one = [event for event in events if event.number == number]
            assert of_one == [*(News(number, word) for word in words), Done(number, len(words))]

    def test_an_error_arrives_as_it_was_raised(self, executor: Executor) -> None:
        """With its class, its message, and whether a disk was to blame."""
        for number, reason in enumerate(("no memory", "disk", "unpicklable")):
            executor.submit(number, Call(work.fail, reason))
        found = {event.number: event for event in ends(executor, 3)}
        errors = [event.error for event in found.values() if isinstance(event, Failed)]
        assert len(errors) == 3
        memory, disk, awkward = (
            event.error for _, event in sorted(found.items()) if isinstance(event, Failed)
        )
        assert type(memory) is AdapterMemoryError
        assert str(memory) == "no memory"
        assert not is_storage_failure(memory)
        assert "in fail" in str(memory.__cause__)  # where the worker was
        assert type(disk) is RunError
        assert is_storage_failure(disk)
        assert "Awkward: 1 and 2" in str(awkward)

    def test_a_result_that_cannot_be_sent_is_an_error(self, executor: Executor) -> None:
        """And not a lost worker."""
        executor.submit(0, Call(work.unpicklable, 1))
        (event,) = ends(executor, 1)
        assert isinstance(event, Failed)

    def test_a_dead_worker_costs_its_own_call_only(self, executor: Executor) -> None:
        """The other one goes on; the lost one can be submitted again; what is lost is said why."""
        executor.submit(0, Call(work.die, 7))
        executor.submit(1, Call(work.who, 1.0))
        found = {event.number: event for event in ends(executor, 2)}
        assert isinstance(found[1], Done)
        lost = found[0]
        assert isinstance(lost, Lost)
        assert lost.reason
        executor.submit(0, Call(work.echo, "again"))
        assert ends(executor, 1) == [Done(0, "again")]

    def test_shared_files_arrive_whole(self, executor: Executor, tmp_path: Path) -> None:
        """Under their names, also in folders, and also an empty one; again and again."""
        content = np.random.default_rng(0).bytes(1_000_000)
        (tmp_path / "below").mkdir()
        for name, data in (("model.onnx", content), ("below/weights.bin", b"w"), ("empty", b"")):
            (tmp_path / name).write_bytes(data)
        names = ["model.onnx", "below/weights.bin", "empty"]
        shared = executor.share(tmp_path, names)
        found = gathered(executor, [Call(work.read, (shared, names))] * 3)
        assert found == [[content, b"w", b""]] * 3

    @pytest.mark.parametrize("workers", [0, -1, 100_000])
    def test_a_number_of_workers_out_of_range_is_refused(self, executor: Executor, workers: int) -> None:
        """By the constructor, with the number."""
        made: Any = type(executor)
        with pytest.raises(ExecutorError, match=f"{workers} workers"):
            made(workers, 1, None)


def ends(executor: Executor, count: int) -> list[Event]:
    """All events until so many calls have ended."""
    events: list[Event] = []
    while sum(not isinstance(event, News) for event in events) < count:
        events.append(executor.wait())
    return events


def gathered(executor: Executor, calls: list[Call]) -> list[Any]:
    """Results in order; nothing may be lost."""

    def lost(number: int, reason: str) -> None:
        raise AssertionError(f"call {number} was lost: {reason}")

    return gather(executor, calls, lambda number, word: None, lost)
