"""Choices by the clock: models timed against each other once, and remembered, so that a resumed run chooses
alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evonnx.durable import digest_of
from evonnx.errors import RunError
from evonnx.speed import bench


@dataclass(frozen=True)
class Timing:
    """One model against the first of those that it was timed with."""

    median_ms: float
    ratio: float
    """How many times as fast as the first: median over rounds."""
    ratio_low: float
    """95% bootstrap interval of the median ratio."""
    ratio_high: float


class Timings:
    """Times model files in onnxruntime, taking turns.

    Args:
        threads: of onnxruntime.
        provider: where it runs, as `bench` takes it.
        seed: of inputs and of the order within rounds.
        input_shapes: of inputs with dynamic dimensions beyond the batch.
        recorded: what was measured before, by key; what is measured is added.
        save: called after each addition, to keep `recorded` on disk.
    """

    def __init__(
        self,
        threads: int,
        provider: str,
        seed: int,
        input_shapes: Mapping[str, Sequence[int]],
        recorded: dict[str, Any],
        save: Callable[[], None],
    ) -> None:
        self._provider = provider
        self._threads, self._seed, self._input_shapes = threads, seed, input_shapes
        self._recorded, self._save = recorded, save

    def __call__(self, key: str, models: Sequence[Path]) -> tuple[Timing, ...]:
        """Time two or more models, or read what was measured of the same files under the same key.

        Raises:
            ModelError: a model does not load or run.
            RunError: what was recorded is no such measurement.
        """
        digests = [digest_of(model) for model in models]
        known = self._recorded.get(key)
        if known is not None and not isinstance(known, dict):
            raise _damaged(key)
        if known is None or known.get("models") != digests:
            result = bench(
                models,
                provider=self._provider,
                batches=None,
                threads=self._threads,
                seed=self._seed,
                input_shapes=self._input_shapes or None,
            )
            rows = [
                Timing(one.median_ms, one.ratio, one.ratio_low, one.ratio_high) for one in result.latencies
            ]
            known = {
                "models": digests,
                "timings": [asdict(row) for row in rows],
                "provider": result.provider,
                "threads": result.threads,
                "rounds": result.rounds,
                "notes": list(result.notes),
            }
            self._recorded[key] = known
            self._save()
        try:
            rows = [_timing(row) for row in known["timings"]]
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise _damaged(key) from error
        if len(rows) != len(models):
            raise _damaged(key)
        return tuple(rows)


_FIGURES = tuple(Timing.__dataclass_fields__)


def _timing(row: Mapping[str, Any]) -> Timing:
    """A row of run.json. Times and ratios are divided by."""
    figures = {name: float(row[name]) for name in _FIGURES}
    if min(figures.values()) <= 0:
        raise ValueError("a time is above 0")
    return Timing(**figures)


def _damaged(key: str) -> RunError:
    return RunError(
        f"run.json holds no timings under choices.timings.{key}, or damaged ones. Remove that "
        "entry to have them taken again."
    )
