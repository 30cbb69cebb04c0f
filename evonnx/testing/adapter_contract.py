"""What every adapter must do; the built-in ones run this too."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from evonnx.adapter import (
    Adapter,
    MeasuresSensitivities,
    Progress,
    RetrainRequest,
    RetrainResult,
    TrainingBudget,
    check_result,
    check_sensitivities,
)
from evonnx.errors import AdapterError
from evonnx.masks import Masks
from evonnx.network import Array
from evonnx.onnx_io import initializer_arrays, load_model
from evonnx.task import Loss
from evonnx.testing.models import TinyTask, save, tiny_classifier, unknown_operator

PRUNABLE = ("conv.weight", "fc1.weight", "fc2.weight")


class AdapterContract:
    """Override `adapter`; override `options` where the adapter needs settings from the command line."""

    trains = True
    """Whether enough epochs must make the training loss smaller (not if somebody else's program trains)."""

    @pytest.fixture
    def adapter(self) -> Adapter:
        """The adapter under test."""
        raise NotImplementedError("override the fixture `adapter`")

    @pytest.fixture
    def options(self) -> Mapping[str, str]:
        """`RetrainRequest.options`."""
        return {}

    @pytest.fixture
    def masks(self) -> Masks:
        """A third of the synapses is dead."""
        rng = np.random.default_rng(7)
        arrays = {one.name: numpy_helper.to_array(one) for one in tiny_classifier().graph.initializer}
        return {name: rng.random(arrays[name].shape) < 2 / 3 for name in PRUNABLE}

    @pytest.fixture
    def model(self, tmp_path: Path, masks: Masks) -> Path:
        """`tiny_classifier` with the dead synapses set to zero, in a folder of its own."""
        proto = tiny_classifier()
        for one in proto.graph.initializer:
            if one.name in masks:
                array = numpy_helper.to_array(one) * masks[one.name]
                one.CopyFrom(numpy_helper.from_array(array, one.name))
        folder = tmp_path / "given"
        folder.mkdir()
        return save(proto, folder / "model.onnx")

    @pytest.fixture
    def request_for(self, model: Path, masks: Masks, options: Mapping[str, str]) -> Any:
        """Builds requests: `request_for(epochs=2, seed=1, ...)`."""

        def build(epochs: int = 1, seed: int = 0, **changes: Any) -> RetrainRequest:
            fields: dict[str, Any] = {
                "model": model,
                "masks": masks,
                "task": TinyTask(),
                "budget": TrainingBudget(epochs=epochs, threads=1),
                "seed": seed,
                "options": options,
            }
            return RetrainRequest(**(fields | changes))

        return build

    def test_follows_the_protocol(self, adapter: Adapter) -> None:
        """It has a name and `retrain`."""
        assert isinstance(adapter, Adapter)
        assert adapter.name

    def test_returns_what_the_contract_asks_for(
        self, adapter: Adapter, request_for: Any, model: Path, masks: Masks
    ) -> None:
        """Known names, the same shapes and dtypes, finite values, dead synapses still dead, something
        learnt."""
        result = adapter.retrain(request_for(epochs=2))
        arrays = _arrays(model)
        check_result(arrays, masks, result, adapter.name)
        moved = [name for name in result.weights if not np.array_equal(result.weights[name], arrays[name])]
        assert moved, "two epochs changed no weight"
        assert [record.epoch for record in result.history] == [1, 2]
        assert all(np.isfinite(record.loss) for record in result.history)

    def test_masks_are_held_where_the_file_is_not_zero(
        self, adapter: Adapter, request_for: Any, tmp_path: Path, masks: Masks
    ) -> None:
        """A weight that the mask kills comes back zero, or not at all, even if the file has another value."""
        path = save(tiny_classifier(), tmp_path / "dense.onnx")
        result = adapter.retrain(request_for(epochs=1, model=path))
        for name in set(result.weights) & set(masks):
            assert not np.any(result.weights[name][~masks[name]] != 0), name

    def test_training_makes_the_loss_smaller(self, adapter: Adapter, request_for: Any, model: Path) -> None:
        """After some epochs the training loss is below the first epoch's."""
        if not self.trains:
            pytest.skip("training is left to a program of the user's")
        history = adapter.retrain(request_for(epochs=6)).history
        assert history[-1].loss < history[0].loss

    def test_less_is_learnt_at_a_share_of_the_rate(
        self, adapter: Adapter, request_for: Any, model: Path
    ) -> None:
        """What is asked for after training came to NaN, and smaller batches where memory did not suffice."""
        if not self.trains:
            pytest.skip("training is left to a program of the user's")
        arrays = _arrays(model)
        gentle = TrainingBudget(epochs=1, threads=1, batch_share=0.5, rate_share=0.01)
        weights = [
            adapter.retrain(request_for(budget=budget)).weights
            for budget in (gentle, TrainingBudget(epochs=1, threads=1))
        ]
        less, more = (
            sum(float(np.abs(np.subtract(array, arrays[name])).sum()) for name, array in one.items())
            for one in weights
        )
        assert 0 < less < more

    def test_equal_seeds_give_equal_weights(self, adapter: Adapter, request_for: Any) -> None:
        """Bit for bit, on the same machine with the same number of threads."""
        one, other = adapter.retrain(request_for(seed=5)), adapter.retrain(request_for(seed=5))
        assert _digest(one) == _digest(other)
        assert [record.loss for record in one.history] == [record.loss for record in other.history]

    def test_a_killed_retraining_goes_on_to_the_same_weights(
        self, adapter: Adapter, request_for: Any, tmp_path: Path
    ) -> None:
        """Whatever is kept in the checkpoint, asking again gives what an undisturbed retraining gives."""
        kept = tmp_path / "checkpoint"

        def dies(news: Progress) -> None:
            if news.epoch == 3:
                raise KeyboardInterrupt

        try:
            adapter.retrain(request_for(epochs=4, checkpoint=kept, progress=dies))
        except KeyboardInterrupt:
            again = adapter.retrain(request_for(epochs=4, checkpoint=kept))
        else:
            pytest.skip("progress is heard of only after training")
        alone = adapter.retrain(request_for(epochs=4))
        assert _digest(again) == _digest(alone)
        assert [record.loss for record in again.history] == [record.loss for record in alone.history]

    def test_no_epochs_change_nothing(self, adapter: Adapter, request_for: Any, model: Path) -> None:
        """With a budget of 0 epochs every array that comes back is as it was."""
        result = adapter.retrain(request_for(epochs=0))
        arrays = _arrays(model)
        for name, array in result.weights.items():
            np.testing.assert_array_equal(array, arrays[name])

    def test_leaves_the_file_alone(self, adapter: Adapter, request_for: Any, model: Path) -> None:
        """The model is read, never written, and nothing is left beside it."""
        before = model.read_bytes()
        adapter.retrain(request_for())
        assert model.read_bytes() == before
        assert [path.name for path in model.parent.iterdir()] == [model.name]

    def test_reports_progress(self, adapter: Adapter, request_for: Any) -> None:
        """News in rising order, of every epoch."""
        news: list[Progress] = []
        adapter.retrain(request_for(epochs=2, progress=news.append))
        assert [one.epoch for one in news] == sorted(one.epoch for one in news)
        assert {one.epoch for one in news} == {1, 2}
        assert all(one.epochs == 2 and 1 <= one.step <= one.steps for one in news)

    def test_distils_from_the_ancestor(
        self, adapter: Adapter, request_for: Any, tmp_path: Path, model: Path, masks: Masks
    ) -> None:
        """A task without labels trains towards the ancestor's outputs."""
        ancestor = save(tiny_classifier(), tmp_path / "ancestor.onnx")
        task = TinyTask(loss=Loss("distillation"))
        result = adapter.retrain(request_for(epochs=2, task=task, ancestor=ancestor))
        check_result(_arrays(model), masks, result, adapter.name)
        assert len(result.history) == 2

    def test_sensitivities_are_measured(
        self, adapter: Adapter, request_for: Any, model: Path, masks: Masks
    ) -> None:
        """Where the adapter measures them: every masked tensor, dead synapses 0, a seed's always the same."""
        if not isinstance(adapter, MeasuresSensitivities):
            pytest.skip("the adapter measures no gradients")
        before = model.read_bytes()
        found, again, other = (adapter.sensitivities(request_for(seed=seed)) for seed in (1, 1, 2))
        check_sensitivities(masks, found, adapter.name)
        for name, mask in masks.items():
            assert not np.any(found[name][~mask])
            assert np.any(found[name][mask] != 0)
            np.testing.assert_array_equal(found[name], again[name])
            assert not np.array_equal(found[name], other[name])
        assert model.read_bytes() == before

    def test_unknown_operators_are_refused(self, adapter: Adapter, request_for: Any, tmp_path: Path) -> None:
        """A model that the framework cannot run is an AdapterError, not a crash."""
        path = save(unknown_operator(), tmp_path / "odd.onnx")
        shape = numpy_helper.to_array(onnx.load(path).graph.initializer[0]).shape
        with pytest.raises(AdapterError):
            adapter.retrain(request_for(model=path, masks={"fc.weight": np.ones(shape, np.bool_)}))


def _arrays(model: Path) -> dict[str, NDArray[np.generic]]:
    return initializer_arrays(load_model(model))


def _digest(result: RetrainResult) -> str:
    weights: Mapping[str, Array] = result.weights
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode() + np.ascontiguousarray(weights[name]).tobytes())
    return found.hexdigest()
