"""Bench: fair turns on a fake clock, paired ratios, batches that fit, and one real comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from evonnx import speed
from evonnx.errors import ModelError, ProviderError
from evonnx.sessions import InputSpec


class FakeMachine:
    """A clock that only moves when a model runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[int] = []

    def clock(self) -> float:
        return self.now

    def model(self, index: int, seconds: Callable[[int], float]) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(index)
            self.now += seconds(self.calls.count(index))

        return run


def conv(path: Path, channels: int, batch: str = "N") -> Path:
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 13]>
    net (float[{batch}, 8, 16, 16] x) => (float[{batch}, 4, 16, 16] y) {{
      a = Conv <pads = [1, 1, 1, 1]> (x, w)
      r = Relu(a)
      y = Conv <pads = [1, 1, 1, 1]> (r, v) }}""")
    rng = np.random.default_rng(0)
    for name, shape in (("w", (channels, 8, 3, 3)), ("v", (4, channels, 3, 3))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype("f"), name))
    path.write_bytes(model.SerializeToString())
    return path


def test_turns_are_taken_in_every_round_and_in_changing_order() -> None:
    machine = FakeMachine()
    runs = [
        machine.model(0, lambda n: 0.004),
        machine.model(1, lambda n: 0.002),
        machine.model(2, lambda n: 0.0001),
    ]
    times, repeats = speed.take_turns(runs, 20, np.random.default_rng(0), machine.clock)
    assert repeats == [1, 1, 10]
    np.testing.assert_allclose(times, np.tile([0.004, 0.002, 0.0001], (20, 1)))
    taken = np.array([index for index in machine.calls if index != 2][-80:]).reshape(20, 4)
    assert (taken[:, ::2] == taken[:, 1::2]).all(), "a run to settle, then one that counts"
    rounds = taken[:, ::2]
    assert set(rounds[:, 0]) == {0, 1}
    assert (rounds.sum(axis=1) == 1).all()


def test_what_another_model_leaves_behind_is_not_timed() -> None:
    machine = FakeMachine()

    def model(index: int) -> Callable[[], None]:
        def run() -> None:
            settled = bool(machine.calls) and machine.calls[-1] == index
            machine.calls.append(index)
            machine.now += 0.002 if settled else 0.003

        return run

    times, _ = speed.take_turns([model(0), model(1)], 20, np.random.default_rng(0), machine.clock)
    np.testing.assert_allclose(times, 0.002)


def test_rounds_are_as_many_as_time_allows() -> None:
    for seconds, expected in ((1.0, 10), (0.1, 15), (0.001, 100)):
        machine = FakeMachine()
        times, _ = speed.take_turns(
            [machine.model(0, lambda n, s=seconds: s)], None, np.random.default_rng(0), machine.clock
        )
        assert len(times) == pytest.approx(expected, abs=1)


def test_warm_up_lasts_until_times_are_steady() -> None:
    machine = FakeMachine()
    settled = speed.warm_up(machine.model(0, lambda n: 0.010 / min(n, 20)), machine.clock)
    assert settled == pytest.approx(0.0005)
    assert 20 <= len(machine.calls) < 40


def test_warm_up_is_bounded() -> None:
    machine = FakeMachine()
    speed.warm_up(machine.model(0, lambda n: 0.03 if n // 5 % 2 else 0.01), machine.clock)
    assert machine.now <= speed.WARM_UP_SECONDS + 0.1
    machine = FakeMachine()
    speed.warm_up(machine.model(0, lambda n: 30.0), machine.clock)
    assert len(machine.calls) == 2


def test_ratios_are_paired_within_rounds() -> None:
    drift = np.linspace(1, 3, 51)
    times = np.stack([drift * 0.004, drift * 0.002], axis=1)
    first, second = speed.summarise(["a", "b"], 8, times, [1, 1], seed=0)
    assert (first.ratio, first.ratio_p10, first.ratio_high) == (1.0, 1.0, 1.0)
    assert (
        second.ratio == second.ratio_p10 == second.ratio_p90 == second.ratio_low == second.ratio_high == 2.0
    )
    assert second.median_ms == pytest.approx(4.0)
    assert (second.p10_ms, second.p90_ms) == pytest.approx((2.4, 5.6))
    assert second.throughput == pytest.approx(2000.0)


def test_the_interval_holds_the_median_and_is_reproducible() -> None:
    times = np.random.default_rng(1).uniform(0.9, 1.1, size=(40, 2))
    one = speed.summarise(["a", "b"], 1, times, [1, 1], seed=3)[1]
    assert one.ratio_p10 < one.ratio_low < one.ratio < one.ratio_high < one.ratio_p90
    assert one == speed.summarise(["a", "b"], 1, times, [1, 1], seed=3)[1]


def test_a_smaller_model_is_measured_faster(tmp_path: Path) -> None:
    paths = [conv(tmp_path / "big.onnx", 128), conv(tmp_path / "small.onnx", 8)]
    result = speed.bench(paths, batches=(1, 2), rounds=30, threads=1, provider="cpu")
    assert [(one.index, one.batch) for one in result.latencies] == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert all(one.ratio > 1.5 for one in result.latencies if one.index == 1)
    assert all(one.p10_ms <= one.median_ms <= one.p90_ms for one in result.latencies)
    document = json.loads(json.dumps(result.to_json()))
    assert document["models"][0]["placement"].startswith("CPUExecutionProvider ")
    assert document["environment"]["onnxruntime"]
    assert (document["threads"], document["rounds"], document["provider"]) == (1, 30, "CPUExecutionProvider")


def test_half_precision_is_a_copy(tmp_path: Path) -> None:
    path = conv(tmp_path / "m.onnx", 8)
    before = path.read_bytes()
    result = speed.bench([path], precision="fp16", rounds=3, threads=1, provider="cpu")
    assert result.precision == "fp16"
    assert "float16" in result.notes[0]
    assert any("Cast" in node for node in result.models[0].nodes[result.provider])
    assert path.read_bytes() == before


def test_a_batch_of_none_is_the_models_own(tmp_path: Path) -> None:
    for batch, expected in (("N", 1), ("3", 3)):
        result = speed.bench([conv(tmp_path / "m.onnx", 4, batch)], batches=None, rounds=2, threads=1)
        assert [one.batch for one in result.latencies] == [expected]


def test_what_cannot_be_timed_is_an_error(tmp_path: Path) -> None:
    fixed, other = conv(tmp_path / "one.onnx", 4, "1"), conv(tmp_path / "two.onnx", 4, "2")
    with pytest.raises(ModelError, match=r"one\.onnx has its batch dimension fixed to 1.*batch 32"):
        speed.bench([fixed], batches=(1, 32))
    with pytest.raises(ModelError, match="different fixed batch sizes"):
        speed.bench([fixed, other], batches=None)
    with pytest.raises(ModelError, match="at least 1"):
        speed.bench([conv(tmp_path / "m.onnx", 4)], batches=(0,))
    with pytest.raises(ModelError, match="no model"):
        speed.bench([])
    with pytest.raises(ModelError, match="'int4' is not known; use fp32, fp16, int8"):
        speed.bench([fixed], precision="int4")
    with pytest.raises(ModelError, match="no precision"):
        speed.bench([fixed], precision=())
    with pytest.raises(ProviderError, match="Unknown"):
        speed.bench([fixed], provider="gpu")


def test_inputs_follow_symbols_and_given_shapes() -> None:
    specs = [
        InputSpec("x", ("batch", 3, "h", None), np.dtype("f")),
        InputSpec("state", (2, "batch", 4), np.dtype("f")),
    ]
    rng = np.random.default_rng(0)
    feeds = speed.feeds_for(specs, 5, rng, {"x": (1, 3, 32, 48), "state": (2, 1, 4)})
    assert feeds["x"].shape == (5, 3, 32, 48)
    assert feeds["state"].shape == (2, 5, 4)
    assert speed.feeds_for(specs, 2, rng)["x"].shape == (2, 3, 1, 1)
