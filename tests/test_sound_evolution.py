"""Keyword spotters on sound files: trained, evolved, pruned and proven."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graph_builder import Builder
from onnx import numpy_helper
from sound_support import RATE, wave_net, write_words
from task_support import evolved, scores, train

from evonnx.network import load_network
from evonnx.sessions import make_session, run_session
from evonnx.steps import compact_file
from evonnx.tasks import load_task
from evonnx.testing.models import save

WAVEFORM = f"[task.audio]\nsample_rate = {RATE}\n"
MEL = f'{WAVEFORM}features = "mel"\nn_fft = 256\nhop_length = 128\nn_mels = 20\nlog = "ln"\n'
RETRAIN = '[retrain]\naugment = "time-shift:0.1"\nbatch_size = 16\n'


def mel_net():
    """(1, bands, time): two convolutions."""
    b = Builder(["N", 1, 20, 16])
    x = b.node("Relu", b.conv("x", 1, 12, 3, strides=[2, 2]))
    x = b.node("Relu", b.conv(x, 12, 12, 3, strides=[2, 2]))
    b.output(b.gemm(b.node("Flatten", x), 12 * 5 * 4, 3), ["N", 3], "y")
    return b.model()


CASES = {
    # Files at twice the rate, so that they are resampled on the way.
    "waveform": (wave_net(), WAVEFORM, 2 * RATE),
    "mel": (mel_net(), f"mean = -6.0\nstd = 4.0\n{MEL}", RATE),
}


@pytest.mark.parametrize("case", CASES)
def test_a_keyword_spotter_evolves(tmp_path, case):
    model, table, rate = CASES[case]
    for seed, (split, count) in enumerate((("train", 96), ("test", 48))):
        write_words(tmp_path / split, count, seed, rate)
    text = f'[task]\nkind = "classification"\ntrain = "train"\ntest = "test"\n{table}{RETRAIN}'
    (tmp_path / "model.toml").write_text(text)
    path = save(model, tmp_path / "model.onnx")
    train(path, epochs=10, augment="time-shift:0.1")
    ancestor = scores(path).value
    assert ancestor > 0.95
    record = evolved(path, tmp_path / "run", keep=0.6, epochs=8)
    (row,) = record["generations"]
    assert row["proof"]["void"] is False
    assert row["synapses"] <= 0.6 * row["synapses_ancestor"]
    assert row["score"] > 0.85

    before, after = load_network(path), load_network(tmp_path / "run" / "gen-01" / "compact.onnx")
    convolutions = [name for name in before.weights if before.array(name).ndim > 2]
    shrunk = [name for name in convolutions if after.array(name).size < before.array(name).size]
    assert len(shrunk) >= (2 if case == "waveform" else 1)
    assert after.model.graph.inputs[0].shape == before.model.graph.inputs[0].shape


def test_masked_is_compact_on_real_sounds(tmp_path):
    """What is removed of 1-D convolutions changes nothing that the task's own inputs could show."""
    write_words(tmp_path / "test", 12)
    model = wave_net()
    dead = {"conv1.weight": [1, 5], "conv2.weight": [0, 2, 3], "conv3.weight": [7]}
    for tensor in model.graph.initializer:
        for layer, filters in dead.items():
            if tensor.name in (layer, layer.replace("weight", "bias")):
                array = numpy_helper.to_array(tensor).copy()
                array[filters] = 0
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    masked = save(model, tmp_path / "model.onnx")
    (tmp_path / "model.toml").write_text(f'[task]\nkind = "classification"\ntest = "test"\n{WAVEFORM}')
    compact = tmp_path / "compact.onnx"
    removal = compact_file(masked, compact, masked, threads=1)
    assert removal.proof.passed
    sizes = {name: list(load_network(compact).array(name).shape) for name in dead}
    assert sizes == {"conv1.weight": [14, 1, 33], "conv2.weight": [13, 14, 9], "conv3.weight": [15, 13, 5]}
    (batch,) = load_task(tmp_path / "model.toml", load_network(masked)).batches("test", 12)
    found = [run_session(make_session(path, threads=1), batch.inputs)["y"] for path in (masked, compact)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)
    onnx.checker.check_model(str(compact), full_check=True)
