"""Executors: where offspring are screened and raised, other than one after another in this process."""

from evonnx.executors._base import (
    Call,
    Done,
    Event,
    Executor,
    Failed,
    Lost,
    News,
    Shared,
    Tell,
    checked_workers,
    cores,
    threads_of,
)
from evonnx.executors.gathering import gather

__all__ = [
    "Call",
    "Done",
    "Event",
    "Executor",
    "Failed",
    "Lost",
    "News",
    "Shared",
    "Tell",
    "checked_workers",
    "cores",
    "gather",
    "threads_of",
]
