"""Tones and chirps as recordings, and small networks that listen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from graph_builder import Builder

RATE = 8000


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE, phase: float = 0.0) -> np.ndarray:
    """A sine of amplitude 1/2."""
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate + phase)


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.2, count)


def word(kind: int, rng: np.random.Generator, seconds: float = 0.25, rate: int = RATE) -> np.ndarray:
    """Something like a word, in noise: a rising chirp, a falling one, or a syllable of two harmonics."""
    time = np.arange(round(seconds * rate)) / rate
    start, share = rng.uniform(0.02, 0.06), rng.uniform(0.9, 1.1)
    low, high = 400 * share, 1600 * share
    sweep = {0: (low, high), 1: (high, low), 2: (900 * share, 900 * share)}[kind]
    slope = (sweep[1] - sweep[0]) / 0.15
    inside = (time > start) & (time < start + 0.15)
    moved = time - start
    wave = np.sin(2 * np.pi * (sweep[0] * moved + slope / 2 * moved**2) + rng.uniform(0, 6))
    if kind == 2:
        wave = (wave + np.sin(4 * np.pi * sweep[0] * moved)) / 2
    return 0.4 * wave * inside + rng.normal(0, 0.02, len(time))


def write(path: Path, wave: np.ndarray, rate: int = RATE, subtype: str | None = None) -> Path:
    """A sound file, its format by its suffix; (L,) or (L, channels)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype=subtype)
    return path


NAMES = ("down", "hold", "up")
"""Class folders in order."""
KINDS = {"up": 0, "down": 1, "hold": 2}


def write_words(folder: Path, count: int, seed: int = 0, rate: int = RATE) -> list[str]:
    """`count` words in class folders; their paths in the folder, class by class in turn."""
    rng, found = np.random.default_rng(seed), []
    for index in range(count):
        name = NAMES[index % 3]
        found.append(f"{name}/{index:03}.wav")
        write(folder / found[-1], word(KINDS[name], rng, rate=rate), rate)
    return found


def wave_net(samples: int | str = 2000, rank: int = 3, width: int = 16):
    """Keyword spotting on the waveform: 1-D convolutions with strides, means over time, three classes."""
    shape = ["N", 1, samples] if rank == 3 else ["N", samples]
    b = Builder(shape)
    x = "x" if rank == 3 else b.node("Unsqueeze", "x", b.ints(1))
    x = b.node("Relu", b.conv(x, 1, width, 33, dims=1, strides=[4]))
    x = b.node("Relu", b.conv(x, width, width, 9, dims=1, strides=[4]))
    x = b.node("Relu", b.conv(x, width, width, 5, dims=1, strides=[2]))
    if isinstance(samples, str):
        x = b.node("GlobalAveragePool", x)
    else:  # a mean over each fifth of the time: words differ in what comes first
        x = b.node("AveragePool", x, kernel_shape=[12], strides=[12])
    parts = 1 if isinstance(samples, str) else 5
    b.output(b.gemm(b.node("Flatten", x), width * parts, 3), ["N", 3], "y")
    return b.model()


def band_net(shape, width: int = 8):
    """On features (1, bands, time) or (bands, time), which it flattens."""
    b = Builder(["N", *shape])
    size = int(np.prod(shape))
    x = b.node("Relu", b.gemm(b.node("Flatten", "x"), size, width))
    b.output(b.gemm(x, width, 3), ["N", 3], "y")
    return b.model()
