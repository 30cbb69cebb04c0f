"""Calls made to the end on any executor: lost ones again, a bounded number of times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from evonnx.errors import ExecutorError
from evonnx.executors._base import Call, Done, Executor, Failed, Lost, News

MOST_LOSSES = 3
"""Of one call, before the run ends: what kills three workers is taken to be the call itself."""


def gather(
    executor: Executor,
    calls: Sequence[Call],
    heard: Callable[[int, Any], None],
    lost: Callable[[int, str], None],
    done: Callable[[int], None] = lambda number: None,
) -> list[Any]:
    """Make all calls, and give their results in order.

    Args:
        executor: makes them.
        calls: what to do.
        heard: is told of a call's place in `calls`, and of each of its words.
        lost: is told of a call that is made again, and why.
        done: is told of a call that has ended.

    Raises:
        Exception: as a call raised it; the others may still go on, so that the executor is of no more use.
        ExecutorError: too many workers died of one call.
    """
    losses: Counter[int] = Counter()
    results: dict[int, Any] = {}
    for number, call in enumerate(calls):
        executor.submit(number, call)
    while len(results) < len(calls):
        event = executor.wait()
        number = event.number
        if isinstance(event, News):
            heard(number, event.word)
        elif isinstance(event, Done):
            results[number] = event.value
            done(number)
        elif isinstance(event, Failed):
            raise event.error
        elif isinstance(event, Lost):
            losses[number] += 1
            if losses[number] >= MOST_LOSSES:
                raise ExecutorError(
                    f"{MOST_LOSSES} workers of the {executor.name} executor were lost over the same work; of "
                    f"the last one: {event.reason}. Where memory ran out, use fewer --workers; without "
                    "--executor the same is done in this process. --resume goes on."
                )
            lost(number, event.reason)
            executor.submit(number, calls[number])
    return [results[number] for number in range(len(calls))]
