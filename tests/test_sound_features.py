"""Features of waveforms, held against references that are computed otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from sound_support import noise, tone
from transformers import audio_utils

from evonnx.tasks.data.sound import features as module
from evonnx.tasks.data.sound.features import (
    Features,
    Logarithm,
    MelBands,
    Spectrum,
    cosines,
    hz_to_mel,
    mel_to_hz,
)

RATE = 16000
WAVE = noise(4000)


def spectrum(wave, **settings):
    usual = {"n_fft": 400, "win_length": 400, "hop_length": 160}
    return Spectrum(**(usual | settings))(wave, lambda block: block)


@pytest.mark.parametrize("n_fft", [400, 401])
@pytest.mark.parametrize("win_length", [400, 320])
@pytest.mark.parametrize("window", ["hann", "hamming", "rectangular"])
@pytest.mark.parametrize(("center", "pad_mode"), [(True, "reflect"), (True, "constant"), (False, "reflect")])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_spectra_are_the_reference_s(n_fft, win_length, window, center, pad_mode, power):
    name = "boxcar" if window == "rectangular" else window
    before = (n_fft - win_length) // 2
    padded = np.pad(scipy.signal.get_window(name, win_length), (before, n_fft - win_length - before))
    want = audio_utils.spectrogram(
        WAVE,
        padded,
        n_fft,
        160,
        power=power,
        center=center,
        pad_mode=pad_mode,
        mel_floor=0.0,
        dtype=np.float64,
    )
    made = Spectrum(n_fft, win_length, 160, window, center, pad_mode, power)
    found = made(WAVE, lambda block: block)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5 * want.max())
    assert found.shape == (made.bins, made.frames(len(WAVE)))


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("n_mels", "f_min", "f_max"), [(40, 0, 8000), (80, 20, 7600), (64, 300, 4000)])
def test_mel_bands_are_the_reference_s(scale, norm, n_mels, f_min, f_max):
    want = audio_utils.mel_filter_bank(
        257, n_mels, f_min, f_max, RATE, norm="slaney" if norm else None, mel_scale=scale
    )
    found = MelBands(n_mels, f_min, f_max, scale, norm).filters(RATE, 512)
    np.testing.assert_allclose(found, want.T, atol=1e-9)


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
@pytest.mark.parametrize(
    ("log", "reference"),
    [
        (None, {}),
        (Logarithm("db", 1e-10), {"log_mel": "dB"}),
        (Logarithm("db", 1e-10, top_db=30.0), {"log_mel": "dB", "db_range": 30.0}),
        (Logarithm("db", 1e-3, ref=0.5), {"log_mel": "dB", "reference": 0.5, "min_value": 1e-3}),
        (Logarithm("ln", 1e-5), {"log_mel": "log", "mel_floor": 1e-5}),
    ],
)
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_log_mel_is_the_reference_s(log, reference, power):
    if power == 1.0 and "min_value" not in reference and reference.get("log_mel") == "dB":
        reference = {**reference, "min_value": 1e-5}
        log = Logarithm(log.kind, 1e-5, top_db=log.top_db)
    bank = audio_utils.mel_filter_bank(201, 64, 0, 8000, RATE, norm="slaney", mel_scale="slaney")
    settings = {"mel_floor": 1e-10} | reference
    want = audio_utils.spectrogram(
        WAVE, scipy.signal.get_window("hann", 400), 400, 160, power=power, mel_filters=bank, **settings
    )
    mel = MelBands(64, 0, 8000, "slaney", area_norm=True)
    found = Features(RATE, Spectrum(400, 400, 160, power=power), mel, log)(WAVE)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


def test_whisper_s_features():
    """The settings of docs/tasks.md, against the arithmetic of Whisper's feature extractor."""
    wave = tone(700, 1.0, RATE) + noise(RATE) / 20
    bank = audio_utils.mel_filter_bank(201, 80, 0, 8000, RATE, norm="slaney", mel_scale="slaney")
    hann = scipy.signal.get_window("hann", 400)
    want = audio_utils.spectrogram(wave, hann, 400, 160, power=2.0, mel_filters=bank, log_mel="log10")[:, :-1]
    want = (np.maximum(want, want.max() - 8.0) + 4.0) / 4.0
    mel = MelBands(80, 0, 8000, "slaney", area_norm=True)
    made = Features(RATE, Spectrum(400, 400, 160), mel, Logarithm("db", 1e-10, top_db=80))
    np.testing.assert_allclose((made(wave)[:, :100] + 40) / 40, want, atol=1e-5)


def test_cepstra_are_an_orthonormal_cosine_transform():
    values = noise(40 * 7).reshape(40, 7)
    want = scipy.fft.dct(values, type=2, norm="ortho", axis=0)
    np.testing.assert_allclose(cosines(13, 40) @ values, want[:13], atol=1e-12)
    found = cosines(40, 40)
    np.testing.assert_allclose(found @ found.T, np.eye(40), atol=1e-12)
    mel = MelBands(40, 0, 8000)
    log = Logarithm("db", 1e-10, top_db=80)
    plain = Features(RATE, Spectrum(512, 512, 256), mel, log)(WAVE)
    np.testing.assert_allclose(
        Features(RATE, Spectrum(512, 512, 256), mel, log, 13)(WAVE),
        scipy.fft.dct(plain, type=2, norm="ortho", axis=0)[:13],
        atol=1e-9,
    )


# --- properties


@given(st.integers(0, 1000), st.sampled_from([64, 100, 255]))
def test_parseval(seed, n_fft):
    """Energy over all frequencies is the energy of the frame's samples times n_fft."""
    wave = noise(n_fft * 3, seed)
    found = spectrum(
        wave, n_fft=n_fft, win_length=n_fft, hop_length=n_fft, window="rectangular", center=False
    )
    twice = np.full(n_fft // 2 + 1, 2.0)
    twice[0] = 1
    if n_fft % 2 == 0:
        twice[-1] = 1
    np.testing.assert_allclose(
        twice @ found / n_fft, np.square(wave.reshape(3, n_fft)).sum(axis=1), rtol=1e-9
    )


@given(st.floats(200, 7000), st.sampled_from(["htk", "slaney"]))
def test_a_pure_tone_is_loudest_in_the_band_around_it(hertz, scale):
    mel = MelBands(40, 100, 7900, scale)
    found = Features(RATE, Spectrum(1024, 1024, 256), mel)(tone(hertz, 0.5, RATE))
    ends = hz_to_mel(np.array([100.0, 7900.0]), scale)
    corners = mel_to_hz(np.linspace(*ends, 42), scale)
    loudest = found.mean(axis=1).argmax()
    assert corners[loudest] - RATE / 1024 <= hertz <= corners[loudest + 2] + RATE / 1024


@given(st.floats(0, 20000), st.sampled_from(["htk", "slaney"]))
def test_mel_and_back(hertz, scale):
    there = hz_to_mel(np.array([hertz]), scale)
    np.testing.assert_allclose(mel_to_hz(there, scale), [hertz], rtol=1e-9, atol=1e-6)


def test_mel_scales_by_their_definitions():
    np.testing.assert_allclose(hz_to_mel(np.array([0.0, 1000.0]), "slaney"), [0, 15])
    np.testing.assert_allclose(hz_to_mel(np.array([6400.0]), "slaney"), [15 + 27])
    np.testing.assert_allclose(hz_to_mel(np.array([700.0]), "htk"), [2595 * np.log10(2)])


@given(st.integers(0, 50), st.integers(2, 40), st.integers(1, 30), st.booleans())
def test_frames_and_samples_agree(extra, n_fft, hop, center):
    made = Spectrum(n_fft, n_fft, hop, center=center, pad_mode="constant")
    samples = made.fewest + extra
    frames = made.frames(samples)
    assert made(noise(samples), lambda block: block).shape == (made.bins, frames)
    fewest = made.samples(frames)
    assert fewest <= samples
    assert made.frames(fewest) == frames
    assert made.frames(fewest - 1) == frames - 1


def test_long_waves_are_transformed_in_blocks(monkeypatch):
    mel = MelBands(20, 0, 8000)
    made = Features(RATE, Spectrum(400, 400, 160), mel, Logarithm("db", 1e-10, ref=None, top_db=60))
    whole = made(WAVE)
    assert whole.max() == 0
    monkeypatch.setattr(module, "_AT_A_TIME", 1200)
    np.testing.assert_array_equal(made(WAVE), whole)


def test_silence_is_finite():
    for log in (Logarithm("db", 1e-10, ref=None, top_db=80), Logarithm("ln", 1e-10, offset=1e-6)):
        found = Features(RATE, Spectrum(400, 400, 160), MelBands(40, 0, 8000), log)(np.zeros(4000))
        assert np.isfinite(found).all()
