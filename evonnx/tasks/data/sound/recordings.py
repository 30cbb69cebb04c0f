"""Sound files, read no further than needed. Needs soundfile and, for other sample rates, soxr.

What a header says is held against limits before anything is allocated, and against the file when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from evonnx.errors import TaskError
from evonnx.tasks.data.arrays import check_size
from evonnx.tasks.data.sound.clips import Clip, Wave
from evonnx.untrusted import fault_of_file

SUFFIXES = frozenset(
    (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wave", ".w64")
)
_BEGINNINGS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"fLaC", b"OggS", b"ID3", b".snd", b"caff", b"riff")
"""By what a file holds, whatever its name is. libsndfile knows others, hardly tested ones among them."""

MOST_CHANNELS = 64
MOST_FRAMES = 2**40
LARGEST_RATE = 2**22
"""Hz; ultrasound is recorded at a tenth of it."""
LARGEST_RATIO = 1024
"""Between a file's sample rate and the wanted one."""
LARGEST_FILE = 2**40
"""Bytes."""


class Recordings(Protocol):
    """Sound files, wherever they are stored."""

    def __len__(self) -> int: ...

    def stream(self, index: int) -> Path | BinaryIO:
        """A file, or its bytes.

        Raises:
            TaskError: it is not there; the message names it.
        """
        ...

    def name(self, index: int) -> str:
        """For messages."""
        ...


def is_sound(path: Path) -> bool:
    """Whether a file's name says that it is a sound."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_clip(source: Path | BinaryIO, name: str, clip: Clip, sample_rate: int, limit: int) -> Wave:
    """What is kept of a recording: mixed to one channel, resampled and cut; (at most `clip.samples`,).

    Args:
        source: a file or its bytes.
        name: for messages.
        clip: what is kept.
        sample_rate: Hz.
        limit: bytes in memory.

    Raises:
        TaskError: soundfile is missing, or the file is no sound, damaged, empty, or beyond a limit.
    """
    with _opened(source, name) as file:
        frames, rate, channels = int(file.frames), int(file.samplerate), int(file.channels)
        _check_header(name, frames, rate, channels, sample_rate)
        region = clip.region(frames, rate, sample_rate)
        if region.kept < 1:
            raise TaskError(f"The sound {name} is too short: {frames} frames at {rate} Hz. Remove it.")
        check_size(4 * region.count * channels, limit, f"The part that is needed of the sound {name}")
        if region.start:
            file.seek(region.start)
        data = file.read(region.count, dtype="float32", always_2d=True)
    if len(data) != region.count:
        raise TaskError(
            f"The sound {name} is damaged: its header promises {frames:,} frames, of which "
            f"{region.start + len(data):,} are there. Remove or replace it."
        )
    wave = np.asarray(data.mean(axis=1, dtype=np.float32))
    if not np.isfinite(wave).all():
        raise TaskError(f"The sound {name} has NaN or infinite samples. Remove or replace it.")
    return resampled(wave, rate, sample_rate, name)[region.skip : region.skip + region.kept]


def _check_header(name: str, frames: int, rate: int, channels: int, sample_rate: int) -> None:
    if frames == 0:
        raise TaskError(f"The sound {name} is empty. Remove it.")
    ratio = max(rate, sample_rate) / max(1, min(rate, sample_rate))
    checks = (
        (0 < frames <= MOST_FRAMES, f"{frames:,} frames"),
        (0 < rate <= LARGEST_RATE and ratio <= LARGEST_RATIO, f"a sample rate of {rate:,} Hz"),
        (0 < channels <= MOST_CHANNELS, f"{channels:,} channels"),
    )
    for good, what in checks:
        if not good:
            raise TaskError(
                f"The sound {name} says that it has {what}, which cannot be. Remove or replace it."
            )


def resampled(wave: Wave, rate: int, sample_rate: int, name: str) -> Wave:
    """(L,) at another rate, by soxr's "HQ" filter (which librosa uses too); both in Hz.

    Raises:
        TaskError: soxr is missing, or cannot.
    """
    if rate == sample_rate:
        return wave
    try:
        found: Wave = _soxr().resample(wave, rate, sample_rate, quality="HQ")
    except (ValueError, RuntimeError, TypeError) as error:
        raise TaskError(
            f"The sound {name} cannot be brought from {rate} to {sample_rate} Hz: {error}."
        ) from error
    return found


@contextmanager
def _opened(source: Path | BinaryIO, name: str) -> Iterator[Any]:
    """The file in soundfile; its errors become the file's, also in the block."""
    soundfile = _soundfile()
    if isinstance(source, Path) and (reason := fault_of_file(source, LARGEST_FILE)):
        raise TaskError(f"The sound {name} {reason}.")
    try:
        _check_beginning(source, name)
        with soundfile.SoundFile(str(source) if isinstance(source, Path) else _Calm(source)) as file:
            yield file
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, RuntimeError, EOFError) as error:
        raise TaskError(f"The sound {name} cannot be read: {error}. Remove or replace it.") from error


class _Calm:
    """A file in memory that stays where it is when libsndfile, led by a damaged header, seeks to before its
    beginning: an exception could not reach us through C."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.tell, self._seek = file.read, file.tell, file.seek

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._seek(offset, whence)
        except (ValueError, OverflowError, OSError):
            return self.tell()


def _check_beginning(source: Path | BinaryIO, name: str) -> None:
    if isinstance(source, Path):
        with source.open("rb") as file:
            head = file.read(4)
    else:
        head = source.read(4)
        source.seek(0)
    mpeg = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0
    if not head:
        raise TaskError(f"The sound {name} is empty. Remove it.")
    if not mpeg and not head.startswith(_BEGINNINGS):
        raise TaskError(
            f"{name} is no sound file that can be read (WAV, FLAC, Ogg, MP3, AIFF, AU, CAF): it begins with "
            f"{head.hex()}. Remove or replace it."
        )


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package without its library
        raise _missing("Reading sound files", "soundfile") from error
    return soundfile


def _soxr() -> Any:
    try:
        import soxr
    except ImportError as error:
        raise _missing("Bringing sounds to another sample rate", "soxr") from error
    return soxr


def require_soundfile() -> None:
    """Say at once what is missing.

    Raises:
        TaskError: soundfile is not installed.
    """
    _soundfile()


def _missing(what: str, package: str) -> TaskError:
    return TaskError(
        f"{what} needs {package}, which is not installed: `pip install 'evonnx[audio]'`, or give the data as "
        "an .npz file of waveforms at the rate that the model takes."
    )
