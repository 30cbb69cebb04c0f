"""Sound files: what is read of them, at which rate, and what is refused."""

from __future__ import annotations

import io
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from sound_support import noise, tone, write

from evonnx.errors import TaskError
from evonnx.tasks.data.sound import recordings
from evonnx.tasks.data.sound.clips import Clip, of_numbers
from evonnx.tasks.data.sound.recordings import read_clip

LIMIT = 2**30
EVERYTHING = Clip(10**6)


def read(path, clip=EVERYTHING, rate=16000, limit=LIMIT):
    return read_clip(path, str(path), clip, rate, limit)


# --- clips


@pytest.mark.parametrize(
    ("samples", "keep", "want"),
    [
        (4, "middle", [3, 4, 5, 6]),
        (4, "start", [0, 1, 2, 3]),
        (3, "middle", [3, 4, 5]),
        (10, "middle", list(range(10))),
        (12, "middle", [*range(10), 0, 0]),
        (12, "start", [*range(10), 0, 0]),
    ],
)
def test_clips_are_cut_from_the_middle_and_padded_at_the_end(samples, keep, want):
    clip = Clip(samples, keep)
    np.testing.assert_array_equal(clip.finish(clip.cut(np.arange(10, dtype=np.float32))), want)


def test_gains():
    wave = noise(1000).astype(np.float32) + np.float32(0.1)
    made = {gain: Clip(1200, "middle", gain).finish(wave) for gain in ("none", "peak", "rms", "standard")}
    np.testing.assert_array_equal(made["none"][:1000], wave)
    assert np.abs(made["peak"]).max() == 1
    np.testing.assert_allclose(np.mean(made["rms"][:1000].astype(float) ** 2), 1, rtol=1e-5)
    want = (wave - wave.mean(dtype=float)) / np.sqrt(wave.var(dtype=float) + 1e-7)
    np.testing.assert_allclose(made["standard"][:1000], want, atol=1e-5)
    for gain, found in made.items():
        assert not found[1000:].any(), gain
        assert np.isfinite(Clip(8, "middle", gain).finish(np.zeros(5, np.float32))).all()


def test_whole_numbers_become_shares():
    for dtype, numbers in (
        (np.int16, [-(2**15), 0, 2**14]),
        (np.uint8, [0, 128, 192]),
        (np.int8, [-128, 0, 64]),
    ):
        np.testing.assert_array_equal(of_numbers(np.array(numbers, dtype)), [-1, 0, 0.5])
    assert of_numbers(np.array([0.25, 3.0])).tolist() == [0.25, 3.0]


@given(
    st.integers(1, 10**7),
    st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 44099]),
    st.sampled_from([8000, 16000, 22050, 44100]),
    st.integers(1, 10**5),
    st.sampled_from(["middle", "start"]),
)
def test_a_region_is_inside_the_recording_and_no_longer_than_needed(frames, rate, wanted, samples, keep):
    region = Clip(samples, keep).region(frames, rate, wanted)
    assert 0 <= region.start <= region.start + region.count <= frames
    assert 0 <= region.kept <= samples
    assert region.skip >= 0
    ratio = rate / wanted
    assert region.count <= samples * ratio + 2 * 1024 * max(1, ratio) + rate + 3
    # The first sample that is kept is at the same time, counted from either end of the arithmetic.
    total = round(frames / ratio)
    first = max(0, (total - samples) // 2) if keep == "middle" else 0
    assert abs(region.start / ratio + region.skip - first) <= 1


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([8000, 11025, 44100, 48000, 22050]), st.integers(1, 9000), st.integers(0, 99))
def test_resampling_a_part_gives_what_resampling_the_whole_gives(rate, samples, seed):
    wave = noise(60000, seed).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype="FLOAT")
    file.seek(0)
    found = read_clip(file, "a sound", Clip(samples), 16000, LIMIT)
    whole = soxr.resample(wave, rate, 16000, quality="HQ")
    total = round(60000 * 16000 / rate)
    first = max(0, (total - samples) // 2)
    assert len(found) == samples
    np.testing.assert_allclose(found, whole[first : first + samples], atol=1e-5)


# --- files


@pytest.mark.parametrize(
    ("name", "subtype", "atol"),
    [
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-22),
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "FLOAT", 1e-7),
        ("a.wav", "DOUBLE", 1e-7),
        ("a.wav", "ULAW", 0.02),
        ("a.flac", "PCM_16", 2**-15),
        ("a.aiff", "PCM_16", 2**-15),
        ("a.au", "PCM_16", 2**-15),
        ("a.caf", "PCM_16", 2**-15),
        ("a.ogg", "VORBIS", 0.05),
        ("a.mp3", "MPEG_LAYER_III", 0.05),
    ],
)
def test_formats(tmp_path, name, subtype, atol):
    wave = tone(440, 0.5, 16000)
    path = write(tmp_path / name, wave, 16000, subtype)
    found = read(path)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[: len(wave)], wave, atol=atol)
    other = path.with_suffix(".dat")
    path.rename(other)  # by what it holds, whatever its name is
    np.testing.assert_array_equal(read(other), found)


def test_channels_are_mixed(tmp_path):
    left, right = tone(300, 0.1, 16000), tone(500, 0.1, 16000)
    path = write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000, "FLOAT")
    np.testing.assert_allclose(read(path), (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_tone_is_the_same_tone_at_another_rate(tmp_path, rate):
    path = write(tmp_path / "a.wav", tone(440, 0.5, rate), rate, "FLOAT")
    found = read(path)
    assert abs(len(found) - 8000) <= 1
    inner = slice(1000, 7000)  # away from the ends, where a filter looks past them
    np.testing.assert_allclose(found[inner], tone(440, 0.5, 16000)[inner], atol=1e-3)


def test_what_the_lower_rate_cannot_hold_is_filtered_out(tmp_path):
    """Also what is 5% above it, where scipy's usual filter leaves a quarter."""
    path = write(tmp_path / "a.wav", tone(4200, 0.5, 16000), 16000, "FLOAT")
    assert np.abs(read(path, rate=8000)[500:-500]).max() < 1e-3 * 0.5
    other = scipy.signal.resample_poly(tone(4200, 0.5, 16000), 1, 2)
    assert np.abs(other[500:-500]).max() > 0.24 * 0.5


def test_only_the_part_that_is_needed_is_read(tmp_path, monkeypatch):
    """Of ten minutes, what the memory limit allows is enough for a second from the middle."""
    wave = np.zeros(600 * 8000, np.float32)
    wave[300 * 8000] = 1
    path = write(tmp_path / "long.flac", wave, 8000)
    found = read(path, Clip(8000), 8000, 8000 * 4)
    assert found.shape == (8000,)
    assert found.argmax() == 4000
    with pytest.raises(TaskError, match="The part that is needed of the sound"):
        read(path, Clip(8001), 8000, 8000 * 4)


# --- strangers' files


def riff(frames_claimed: int, data: bytes, *, channels=1, rate=16000, bits=16, code=1) -> bytes:
    width = channels * bits // 8
    form = struct.pack("<HHIIHH", code, channels, rate, (rate * width) % 2**32, width % 2**16, bits)
    size = min(frames_claimed * width, 2**32 - 1)
    return (
        b"RIFF" + struct.pack("<I", min(36 + size, 2**32 - 1)) + b"WAVEfmt " + struct.pack("<I", 16) + form
        + b"data" + struct.pack("<I", size) + data
    )  # fmt: skip


GOOD = np.zeros(1600, "<i2").tobytes()


def flac_claiming(frames: int) -> bytes:
    """A FLAC file whose header (36 bits in STREAMINFO) promises other numbers of frames."""
    file = io.BytesIO()
    soundfile.write(file, noise(1600), 16000, format="FLAC")
    data = bytearray(file.getvalue())
    data[21] = (data[21] & 0xF0) | (frames >> 32)
    data[22:26] = struct.pack(">I", frames & 0xFFFFFFFF)
    return bytes(data)


def half_an_mp3() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, noise(48000), 16000, format="MP3")
    return file.getvalue()[: len(file.getvalue()) // 2]


HOSTILE = {
    "nothing": (b"", "is empty"),
    "no frames": (riff(0, b""), "is empty"),
    "a program": (b"#!/bin/sh\nexit\n", "is no sound file that can be read"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is no sound file that can be read"),
    "only a beginning": (b"RIFF", "cannot be read"),
    "a header of zeros": (b"RIFF" + bytes(100), "cannot be read"),
    "no rate": (riff(800, GOOD, rate=0), "sample rate of 0|cannot be read"),
    "a rate beyond reason": (
        riff(800, GOOD, rate=2**31 - 1),
        "sample rate of 2,147,483,647 Hz|cannot be read",
    ),
    "a rate too low": (riff(800, GOOD, rate=3), "sample rate of 3 Hz"),
    "channels beyond reason": (riff(1, bytes(2000), channels=1000), "1,000 channels"),
    "no channels": (riff(800, GOOD, channels=0), "cannot be read|0 channels"),
    "an unknown coding": (riff(800, GOOD, code=0x7777), "cannot be read"),
    "promises of FLAC": (flac_claiming(2**36 - 1), "is damaged|cannot be read"),
    "half an MP3": (half_an_mp3(), "is damaged: its header promises 48,000 frames, of which"),
    "twice as long as it is": (flac_claiming(3200), "cannot be read"),
    "half a FLAC": (flac_claiming(1600)[:700], "is damaged|cannot be read"),
    "not a number": (riff(4, np.full(4, np.nan, "<f4").tobytes(), bits=32, code=3), "NaN or infinite"),
    "infinite": (riff(4, np.full(4, np.inf, "<f4").tobytes(), bits=32, code=3), "NaN or infinite"),
    "rubbish in MP3": (b"\xff\xfb" + bytes(range(256)) * 20, "cannot be read|is empty|too short|is damaged"),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("in_memory", [False, True])
def test_hostile_files_give_one_error_that_names_them(tmp_path, what, in_memory):
    data, says = HOSTILE[what]
    path = tmp_path / "strange.wav"
    path.write_bytes(data)
    source = io.BytesIO(data) if in_memory else path
    with pytest.raises(TaskError, match=says) as caught:
        read_clip(source, str(path), Clip(60000), 16000, 2**24)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_that_promises_too_much_allocates_nothing(tmp_path):
    """libsndfile believes the file, not the header: what is there is read."""
    path = tmp_path / "a.wav"
    path.write_bytes(riff(2**40, GOOD))
    assert len(read(path, Clip(16000), limit=2**18)) == 1600


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.binary(min_size=1, max_size=8), st.sampled_from(["WAV", "FLAC", "OGG", "AIFF"]))
def test_damaged_files_never_end_otherwise(place, damage, kind):
    file = io.BytesIO()
    soundfile.write(file, noise(800), 16000, format=kind)
    data = bytearray(file.getvalue())
    data[place : place + len(damage)] = damage
    try:
        found = read_clip(io.BytesIO(bytes(data)), "a sound", Clip(2000), 16000, 2**22)
    except TaskError as error:
        message = str(error)
    else:
        message = "a sound"
        assert 0 < len(found) <= 2000
        assert np.isfinite(found).all()
    assert "a sound" in message


def test_seeks_to_before_the_beginning_stay_where_they_are():
    file = recordings._Calm(io.BytesIO(b"sound"))
    assert file.seek(3) == 3
    assert file.seek(-9) == 3
    assert file.seek(2**70) == 3


def test_pipes_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(TaskError, match="is no regular file"):
        read(tmp_path / "a.wav")


@pytest.mark.parametrize(("package", "rate"), [("soundfile", 16000), ("soxr", 8000)])
def test_a_missing_library_is_named(tmp_path, monkeypatch, package, rate):
    path = write(tmp_path / "a.wav", tone(440, 0.1, rate), rate)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TaskError, match=rf"needs {package}, .*pip install 'evonnx\[audio\]'"):
        read(path)


def test_names_of_sounds():
    assert recordings.is_sound(Path("a/B.WAV"))
    assert not recordings.is_sound(Path(".hidden.wav"))
    assert not recordings.is_sound(Path("wav"))
