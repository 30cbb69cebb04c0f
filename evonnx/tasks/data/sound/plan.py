"""What [task.audio] says, held against the shape that a graph input takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from evonnx.errors import TaskError
from evonnx.tasks._settings import Settings
from evonnx.tasks.data.arrays import check_size
from evonnx.tasks.data.sound.clips import Clip, Gain, Keep, Wave
from evonnx.tasks.data.sound.features import (
    WINDOWS,
    Features,
    Logarithm,
    LogKind,
    MelBands,
    MelScale,
    Spectrum,
)
from evonnx.tasks.data.sound.recordings import LARGEST_RATE

AUDIO = "audio"
"""Of [task], or of [task.inputs.NAME]."""

CLIP_KEYS = ("sample_rate", "seconds", "samples", "keep", "gain", "features")
SPECTRUM_KEYS = ("n_fft", "win_length", "hop_length", "window", "center", "pad_mode", "power")
MEL_KEYS = ("n_mels", "f_min", "f_max", "mel_scale", "mel_norm")
LOG_KEYS = ("log", "floor", "offset", "ref", "top_db")
SHAPE_KEYS = ("layout", "frames")
KINDS: Mapping[str, tuple[str, ...]] = {
    "waveform": CLIP_KEYS,
    "spectrogram": (*CLIP_KEYS, *SPECTRUM_KEYS, *LOG_KEYS, *SHAPE_KEYS),
    "mel": (*CLIP_KEYS, *SPECTRUM_KEYS, *MEL_KEYS, *LOG_KEYS, *SHAPE_KEYS),
    "mfcc": (*CLIP_KEYS, *SPECTRUM_KEYS, *MEL_KEYS, *LOG_KEYS, *SHAPE_KEYS, "n_mfcc"),
}
"""Keys of [task.audio] by what `features` says."""

IMAGE_KEYS = ("layout", "channel_order", "size", "resize", "crop", "interpolation")
"""Keys of [task] that are for pictures."""

LAYOUTS = ("bands-time", "time-bands")
LARGEST_FFT, MOST_MELS = 2**16, 2**10

Dims = tuple[int | None, ...]


@dataclass(frozen=True)
class SoundPlan:
    """How recordings become one input's examples."""

    sample_rate: int
    """Hz."""
    clip: Clip
    features: Features | None
    """None: the waveform itself."""
    frames: int
    """Of features: how many are kept, from the first on; of a waveform its samples."""
    time_first: bool
    limit: int
    """Bytes that one recording may take."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example: (samples,), (bands, frames) or (frames, bands)."""
        if self.features is None:
            return (self.frames,)
        bands = self.features.bands
        return (self.frames, bands) if self.time_first else (bands, self.frames)

    @property
    def time_axis(self) -> int:
        """Of an example."""
        return 0 if self.features is None or self.time_first else 1

    @property
    def band_axis(self) -> int | None:
        """Of an example; a waveform has none."""
        return None if self.features is None else 1 - self.time_axis

    def of_wave(self, wave: Wave) -> Wave:
        """What is kept of a recording, (at most `clip.samples`,) -> an example."""
        whole = self.clip.finish(wave)
        if self.features is None:
            return whole
        found = self.features(whole)[:, : self.frames].astype(np.float32)
        return found.T if self.time_first else found

    @property
    def about(self) -> str:
        """For a description."""
        length = f"{self.clip.samples / self.sample_rate:.4g} s at {self.sample_rate} Hz"
        if self.features is None:
            return f"waveforms of {length}"
        kind = "mfcc" if self.features.n_mfcc else "mel" if self.features.mel else "spectrogram"
        return f"{kind} features, {self.features.bands} x {self.frames} frames of {length}"


def read_plan(settings: Settings, name: str, declared: Dims, limit: int) -> SoundPlan | None:
    """The plan for a graph input; None where the task file says nothing of audio.

    Args:
        settings: what the task file says of the input.
        name: of the input.
        declared: its dimensions, the batch first; None is open.
        limit: bytes that one recording may take.

    Raises:
        TaskError: a key or a value is wrong, or the examples would not fit the input.
    """
    if AUDIO not in settings.table:
        return None
    table = settings.table[AUDIO]
    if not isinstance(table, dict):
        raise settings.wrong(AUDIO, "a table, [task.audio], with at least sample_rate")
    if pictures := [key for key in IMAGE_KEYS if key in settings.table]:
        raise TaskError(f"{settings.where}: {pictures[0]} is for pictures, and [task.audio] says sounds.")
    said = Settings(table, f"{settings.where}, {AUDIO}", settings.folder)
    kind = said.text("features", tuple(KINDS)) or "waveform"
    _check_keys(said, kind)
    rate = said.integer("sample_rate", 1)
    if rate is None or rate > LARGEST_RATE:
        raise TaskError(
            f"{said.where}: sample_rate must say the rate that the model takes, in Hz, such as 16000"
            f"{f', at most {LARGEST_RATE}' if rate else ''}."
        )
    samples = _samples(said, rate)
    keep: Keep = cast(Keep, said.text("keep", ("middle", "start")) or "middle")
    gain: Gain = cast(Gain, said.text("gain", ("none", "peak", "rms", "standard")) or "none")
    takes = f"input {name!r} takes {_shown(declared)}"
    if kind == "waveform":
        length = _length(said, declared[1:], takes)
        count = _agreed(said, samples, length, takes)
        return SoundPlan(rate, _clip(said, count, keep, gain, limit), None, count, False, limit)
    features = _features(said, kind, rate)
    time_first, room = _axes(said, declared[1:], features.bands, takes)
    frames = said.integer("frames", 1)
    spectrum = features.spectrum
    wanted = frames or room
    if samples is None:
        if wanted is None:
            raise _no_length(said, takes)
        samples = max(spectrum.samples(wanted), 1)
    if samples < spectrum.fewest:
        raise TaskError(
            f"{said.where}: {samples} samples are too few for n_fft = {spectrum.n_fft}; at least "
            f"{spectrum.fewest} are needed."
        )
    found = spectrum.frames(samples)
    check_size(4 * found * features.bands, limit, f"One example, {features.bands} x {found} frames,")
    if found < (frames or 1) or (room is not None and (frames or found) != room):
        raise TaskError(
            f"{said.where}: {samples} samples give {found} frames, {frames or found} of which are kept, and "
            f"{takes}. {f'With samples = {spectrum.samples(room)} they fit' if room else 'Set more seconds'}"
            f"{f', or with frames = {room}' if room is not None and found > room else ''}."
        )
    clip = _clip(said, samples, keep, gain, limit)
    return SoundPlan(rate, clip, features, frames or found, time_first, limit)


def _check_keys(said: Settings, kind: str) -> None:
    every = {key for keys in KINDS.values() for key in keys}
    said.only(every)
    for key in said.table:
        if key not in KINDS[kind]:
            fitting = [f'"{one}"' for one, keys in KINDS.items() if key in keys]
            raise TaskError(
                f'{said.where}: {key} is for features = {" or ".join(fitting)}; this is "{kind}".'
            )


def _samples(said: Settings, rate: int) -> int | None:
    samples = said.integer("samples", 1)
    seconds = said.number("seconds", "a number above 0", lambda value: value > 0)
    if samples is not None and seconds is not None:
        raise said.wrong("samples", "left out where seconds is given")
    if seconds is None:
        return samples
    if round(seconds * rate) < 1:
        raise said.wrong("seconds", f"at least one sample at {rate} Hz")
    return round(seconds * rate)


def _agreed(said: Settings, samples: int | None, length: int | None, takes: str) -> int:
    """The number of samples of a waveform."""
    if samples is None and length is None:
        raise _no_length(said, takes)
    if samples is not None and length is not None and samples != length:
        raise TaskError(f"{said.where}: {samples} samples are asked for, but {takes}; leave the length out.")
    return samples or length or 1


def _no_length(said: Settings, takes: str) -> TaskError:
    return TaskError(f"{said.where}: {takes}, which leaves the length open; add seconds = ... (or samples).")


def _clip(said: Settings, samples: int, keep: Keep, gain: Gain, limit: int) -> Clip:
    check_size(4 * samples, limit, f"{said.where}: one example of {samples:,} samples")
    return Clip(samples, keep, gain)


def _length(said: Settings, dims: Dims, takes: str) -> int | None:
    """The axis of samples among an example's; others must be of 1 channel."""
    if len(dims) == 1:
        return dims[0]
    if len(dims) == 2 and 1 in dims:
        return dims[1] if dims[0] == 1 else dims[0]
    if len(dims) == 2 and None in dims:
        return dims[1] if dims[0] is None else dims[0]
    raise TaskError(
        f'{said.where}: {takes}, which is no waveform of one channel, [N, L] or [N, 1, L]; features = "mel", '
        '"mfcc" or "spectrogram" make more of it.'
    )


def _axes(said: Settings, dims: Dims, bands: int, takes: str) -> tuple[bool, int | None]:
    """(whether time comes before bands, how many frames there is room for)."""
    layout = said.text("layout", LAYOUTS)
    if len(dims) == 1:
        if dims[0] is not None and dims[0] % bands:
            raise TaskError(f"{said.where}: {takes} in all, which is no multiple of {bands} bands.")
        return layout == "time-bands", None if dims[0] is None else dims[0] // bands
    pairs = [dims] if len(dims) == 2 else []
    if len(dims) == 3:
        pairs = [pair for one, pair in ((dims[0], dims[1:]), (dims[2], dims[:2])) if one in (1, None)]
    for time_first in (False, True):
        for pair in pairs:
            band, time = (pair[1], pair[0]) if time_first else (pair[0], pair[1])
            if layout in (None, LAYOUTS[time_first]) and band in (bands, None):
                # An open axis is taken for bands only if the other is not clearly them.
                if layout is None and band is None and time == bands:
                    continue
                return time_first, time
    raise TaskError(
        f"{said.where}: {takes}, which has no place for {bands} bands"
        f"{f' in the layout {layout}' if layout else ''}; [N, bands, time] or [N, 1, bands, time] has, and "
        "with time before bands."
    )


def _features(said: Settings, kind: str, rate: int) -> Features:
    spectrum = _spectrum(said)
    mel = _mel(said, rate) if kind in ("mel", "mfcc") else None
    log = _logarithm(said, "db" if kind == "mfcc" else None)
    n_mfcc = None
    if kind == "mfcc" and mel is not None:
        n_mfcc = said.integer("n_mfcc", 1) or min(40, mel.n_mels)
        if n_mfcc > mel.n_mels:
            raise said.wrong("n_mfcc", f"at most n_mels, {mel.n_mels}")
    return Features(rate, spectrum, mel, log, n_mfcc)


def _spectrum(said: Settings) -> Spectrum:
    n_fft = said.integer("n_fft", 2) or 400
    if n_fft > LARGEST_FFT:
        raise said.wrong("n_fft", f"at most {LARGEST_FFT}")
    window = said.integer("win_length", 1) or n_fft
    if window > n_fft:
        raise said.wrong("win_length", f"at most n_fft, {n_fft}")
    power = said.number("power", "1 (magnitude) or 2 (power)", lambda value: value in (1, 2))
    pad_mode = said.text("pad_mode", ("reflect", "constant")) or "reflect"
    return Spectrum(
        n_fft,
        window,
        said.integer("hop_length", 1) or max(1, window // 2),
        said.text("window", tuple(WINDOWS)) or "hann",
        said.flag("center", True),
        cast(Literal["reflect", "constant"], pad_mode),
        float(power or 2),
    )


def _mel(said: Settings, rate: int) -> MelBands:
    n_mels = said.integer("n_mels", 1) or 128
    if n_mels > MOST_MELS:
        raise said.wrong("n_mels", f"at most {MOST_MELS}")
    low = said.number("f_min", "a frequency of at least 0, in Hz", lambda value: value >= 0) or 0.0
    high = said.number("f_max", "a frequency above 0, in Hz", lambda value: value > 0) or rate / 2
    if low >= high:
        raise TaskError(f"{said.where}: f_min is {low:g} Hz, f_max {high:g} Hz; it must be higher.")
    scale = said.text("mel_scale", ("htk", "slaney")) or "htk"
    norm = said.text("mel_norm", ("none", "slaney"))
    return MelBands(n_mels, low, high, cast(MelScale, scale), norm == "slaney")


def _logarithm(said: Settings, usual: str | None) -> Logarithm | None:
    kind = said.text("log", ("none", "db", "ln")) or usual or "none"
    others = [key for key in LOG_KEYS[1:] if key in said.table]
    if kind == "none":
        if others:
            raise TaskError(f'{said.where}: {others[0]} is for log = "db" or "ln".')
        return None
    if kind == "ln" and (only := [key for key in ("ref", "top_db") if key in said.table]):
        raise TaskError(f'{said.where}: {only[0]} is for log = "db".')
    floor = said.number("floor", "a number above 0", lambda value: value > 0)
    offset = said.number("offset", "a number of at least 0", lambda value: value >= 0)
    top = said.number("top_db", "a number above 0", lambda value: value > 0)
    if kind == "ln" and floor is None and offset is None:
        offset = 1e-6
    return Logarithm(
        cast(LogKind, kind),
        1e-10 if floor is None else floor,
        offset or 0.0,
        _reference(said),
        top,
    )


def _reference(said: Settings) -> float | None:
    if said.table.get("ref") == "max":
        return None
    given = said.number("ref", 'a number above 0, or "max"', lambda value: value > 0)
    return 1.0 if given is None else float(given)


def _shown(dims: Sequence[Any]) -> str:
    return f"[{', '.join('N' if i == 0 else 'any' if d is None else str(d) for i, d in enumerate(dims))}]"
