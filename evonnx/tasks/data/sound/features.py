"""Features of a waveform: power of short-time spectra, mel bands, logarithms, cepstra.

    wave (L,) -> |STFT|^power (n_fft // 2 + 1, T) -> mel bands (M, T) -> logarithm -> cepstra (C, T)

Definitions are those of torchaudio.transforms and librosa.feature, which differ in defaults only;
docs/tasks.md says which settings give which. Computed in float64.

Sources: mel scales of Young et al., The HTK Book (2006), section 5.4, and Slaney, Auditory Toolbox (1998),
as librosa.filters.mel has them; DCT-II with orthonormal scaling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
MelScale = Literal["htk", "slaney"]
LogKind = Literal["db", "ln"]

WINDOWS: dict[str, tuple[float, float]] = {
    "hann": (0.5, 0.5),
    "hamming": (0.54, 0.46),
    "rectangular": (1.0, 0.0),
}
"""a and b of the periodic window a - b cos(2 pi n / N)."""

_AT_A_TIME = 2**22
"""Values of frames that are transformed in one go."""

# Slaney's scale: linear up to 1 kHz at 3 mel per 200 Hz, then 27 mel per factor of 6.4.
_LINEAR_HZ_PER_MEL, _KNEE_HZ = 200 / 3, 1000.0
_KNEE_MEL = _KNEE_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


@dataclass(frozen=True)
class Spectrum:
    """|STFT|^power; lengths in samples."""

    n_fft: int
    win_length: int
    """Of the window, which stands in the middle of each frame; at most `n_fft`."""
    hop_length: int
    window: str = "hann"
    """A key of `WINDOWS`."""
    center: bool = True
    """Frame t is centred on sample t * hop_length: n_fft // 2 samples are added on both sides."""
    pad_mode: Literal["reflect", "constant"] = "reflect"
    """What is added: the wave mirrored, or zeros."""
    power: float = 2.0

    @property
    def bins(self) -> int:
        """Frequencies from 0 to half the sample rate."""
        return self.n_fft // 2 + 1

    @property
    def _border(self) -> int:
        return self.n_fft // 2 if self.center else 0

    def frames(self, samples: int) -> int:
        """How many frames so many samples give; 0 or less where they are too few."""
        return 1 + (samples + 2 * self._border - self.n_fft) // self.hop_length

    def samples(self, frames: int) -> int:
        """The fewest samples that give so many frames."""
        return (frames - 1) * self.hop_length + self.n_fft - 2 * self._border

    @property
    def fewest(self) -> int:
        """The fewest samples that can be transformed: one frame, or enough to mirror."""
        mirrored = self._border + 1 if self.center and self.pad_mode == "reflect" else 1
        return max(1, self.samples(1), mirrored)

    @cached_property
    def _window(self) -> Float:
        """(n_fft,)."""
        a, b = WINDOWS[self.window]
        inner = a - b * np.cos(2 * np.pi * np.arange(self.win_length) / self.win_length)
        before = (self.n_fft - self.win_length) // 2
        return np.pad(inner, (before, self.n_fft - self.win_length - before))

    def __call__(self, wave: NDArray[np.floating], then: Callable[[Float], Float]) -> Float:
        """(L,) -> (anything, T): `then` is applied to blocks of (bins, frames), so that no spectrum of a long
        wave is in memory whole."""
        samples = wave.astype(np.float64)
        if self._border:
            samples = np.pad(samples, self._border, self.pad_mode)
        every = np.lib.stride_tricks.sliding_window_view(samples, self.n_fft)[:: self.hop_length]
        step = max(1, _AT_A_TIME // self.n_fft)
        blocks = []
        for start in range(0, len(every), step):
            magnitude = np.abs(np.fft.rfft(every[start : start + step] * self._window))
            blocks.append(then(np.asarray(magnitude**self.power, np.float64).T))
        return np.concatenate(blocks, axis=1)


def hz_to_mel(hz: Float, scale: MelScale) -> Float:
    """Frequencies in mel."""
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hz / 700.0))
    above = _KNEE_MEL + np.log(np.maximum(hz, _KNEE_HZ) / _KNEE_HZ) / _LOG_STEP
    return np.where(hz < _KNEE_HZ, hz / _LINEAR_HZ_PER_MEL, above)


def mel_to_hz(mel: Float, scale: MelScale) -> Float:
    """The inverse of `hz_to_mel`."""
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    above = _KNEE_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _KNEE_MEL) - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _LINEAR_HZ_PER_MEL, above)


@dataclass(frozen=True)
class MelBands:
    """Triangles that are evenly spaced in mel; frequencies in Hz."""

    n_mels: int
    f_min: float
    f_max: float
    scale: MelScale = "htk"
    area_norm: bool = False
    """Whether each triangle's area is 1 in Hz (Slaney's), not its height."""

    def filters(self, sample_rate: int, n_fft: int) -> Float:
        """(n_mels, n_fft // 2 + 1)."""
        bins = np.fft.rfftfreq(n_fft, 1 / sample_rate)
        ends = hz_to_mel(np.array([self.f_min, self.f_max], np.float64), self.scale)
        corners = mel_to_hz(np.linspace(ends[0], ends[1], self.n_mels + 2), self.scale)
        left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
        rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
        weights = np.maximum(0.0, np.minimum(rising, falling))
        return np.asarray(weights * (2 / (right - left)) if self.area_norm else weights)


@dataclass(frozen=True)
class Logarithm:
    """Of s = max(S + offset, floor), where S is a spectrum of `power`:

    db: 10 (2 / power) log10(s / ref), not less than the example's largest value minus `top_db`
    ln: the natural logarithm of s
    """

    kind: LogKind
    floor: float
    offset: float = 0.0
    ref: float | None = 1.0
    """None: the example's largest s."""
    top_db: float | None = None

    def __call__(self, values: Float, power: float) -> Float:
        """Of one example; its shape stays."""
        above = np.maximum(values + self.offset, self.floor)
        if self.kind == "ln":
            return np.asarray(np.log(above))
        ref = float(above.max()) if self.ref is None else max(self.ref, self.floor)
        decibels = 10 * (2 / power) * (np.log10(above) - np.log10(ref))
        if self.top_db is not None:
            decibels = np.maximum(decibels, decibels.max() - self.top_db)
        return np.asarray(decibels)


def cosines(kept: int, bands: int) -> Float:
    """The first rows of the orthonormal DCT-II: (kept, bands)."""
    angles = np.pi / bands * (np.arange(bands) + 0.5) * np.arange(kept)[:, None]
    rows = np.cos(angles) * np.sqrt(2 / bands)
    rows[0] /= np.sqrt(2)
    return np.asarray(rows)


@dataclass(frozen=True)
class Features:
    """See the head of this module."""

    sample_rate: int
    spectrum: Spectrum
    mel: MelBands | None = None
    log: Logarithm | None = None
    n_mfcc: int | None = None

    @property
    def bands(self) -> int:
        """Rows of what comes out."""
        if self.n_mfcc is not None:
            return self.n_mfcc
        return self.spectrum.bins if self.mel is None else self.mel.n_mels

    @cached_property
    def _filters(self) -> Float | None:
        return None if self.mel is None else self.mel.filters(self.sample_rate, self.spectrum.n_fft)

    @cached_property
    def _cosines(self) -> Float | None:
        if self.n_mfcc is None or self.mel is None:
            return None
        return cosines(self.n_mfcc, self.mel.n_mels)

    def __call__(self, wave: NDArray[np.floating]) -> Float:
        """(L,) -> (bands, T)."""
        filters, rows = self._filters, self._cosines
        found = self.spectrum(wave, lambda block: block if filters is None else filters @ block)
        if self.log is not None:
            found = self.log(found, self.spectrum.power)
        return found if rows is None else rows @ found
