"""Sounds as a task's examples: read, cut and turned into features as they are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evonnx.errors import TaskError
from evonnx.network import Array
from evonnx.tasks.data.images import CACHE_BYTES
from evonnx.tasks.data.sound.clips import Wave, of_numbers
from evonnx.tasks.data.sound.plan import SoundPlan
from evonnx.tasks.data.sound.recordings import Recordings, read_clip, require_soundfile


class Waves(Protocol):
    """Waveforms by index."""

    def __len__(self) -> int: ...

    def wave(self, index: int, plan: SoundPlan) -> Wave:
        """What is kept of one, at the plan's sample rate; (at most `plan.clip.samples`,)."""
        ...


@dataclass(frozen=True)
class FileWaves:
    """Of sound files."""

    recordings: Recordings

    def __post_init__(self) -> None:
        require_soundfile()

    def __len__(self) -> int:
        return len(self.recordings)

    def wave(self, index: int, plan: SoundPlan) -> Wave:
        """See `Waves`."""
        source, name = self.recordings.stream(index), self.recordings.name(index)
        return read_clip(source, name, plan.clip, plan.sample_rate, plan.limit)


@dataclass(frozen=True)
class ArrayWaves:
    """Of an array (N, L) or (N, 1, L) at the wanted sample rate; whole numbers become -1 to 1."""

    array: Array

    def __len__(self) -> int:
        return len(self.array)

    def wave(self, index: int, plan: SoundPlan) -> Wave:
        """See `Waves`."""
        return plan.clip.cut(of_numbers(self.array[index].reshape(-1)))


def array_waves(array: Array, name: str) -> ArrayWaves:
    """Waveforms of an array.

    Raises:
        TaskError: it holds none.
    """
    shape = array.shape[1:]
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[0] != 1) or shape[-1] == 0:
        raise TaskError(
            f"{name} holds examples of shape {list(shape)}; [task.audio] takes waveforms, [L] or [1, L] "
            "each. Leave it out where arrays hold features already."
        )
    if array.dtype.kind not in "iuf":
        raise TaskError(f"{name} holds {array.dtype}; waveforms are floats or whole numbers.")
    return ArrayWaves(array)


@dataclass
class SoundExamples:
    """Examples of one input, float32; kept in memory where they are few."""

    waves: Waves
    plan: SoundPlan

    def __post_init__(self) -> None:
        size = 4 * len(self.waves) * int(np.prod(self.plan.shape))
        self._cache: Wave | None = None
        if size <= CACHE_BYTES:
            self._cache = np.zeros((len(self.waves), *self.plan.shape), np.float32)
        self._cached = np.zeros(len(self.waves), np.bool_)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """See `SoundPlan.shape`."""
        return self.plan.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always float32."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.waves)

    def take(self, indices: NDArray[np.int64]) -> Array:
        """Examples by index: (len(indices), *shape) float32.

        Raises:
            TaskError: a file cannot be read; the message names it.
        """
        found = np.empty((len(indices), *self.plan.shape), np.float32)
        for place, index in enumerate(indices):
            if self._cache is not None and self._cached[index]:
                found[place] = self._cache[index]
                continue
            found[place] = self.plan.of_wave(self.waves.wave(int(index), self.plan))
            if self._cache is not None:
                self._cache[index] = found[place]
                self._cached[index] = True
        return found
