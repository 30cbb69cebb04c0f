"""The built-in trackers: read back from their real files by TensorBoard's and MLflow's own readers."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from cli_support import CommandLine
from evolution_support import options
from tracking_support import TOY, Ear, StopsAfterOne, tracked

from evonnx.evolution import evolve
from evonnx.testing import Tracked, TrackerContract
from evonnx.testing.tracker_contract import POINTS
from evonnx.tracker import Point, TrackedRun
from evonnx.tracking import Asked, Tracking


def read_events(folder: str) -> Tracked:
    """By TensorBoard's own loader."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
    from tensorboard.plugins.hparams import metadata

    found = Tracked()
    for file in Path(folder).glob("events.out.tfevents.*"):
        for event in LegacyEventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found.points.append(Point(value.tag, event.step, value.simple_value))
                elif value.tag == metadata.SESSION_START_INFO_TAG:
                    info = metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
                    found.parameters.update({name: str(one) for name, one in info.hparams.items()})
                else:
                    assert value.metadata.plugin_data.plugin_name == "text"
                    found.texts.append(value.tensor.string_val[0].decode())
    return found


def read_mlflow(where: str, run: str) -> Tracked:
    """By MLflow's own client."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    client = MlflowClient(tracking_uri=where)
    found = client.get_run(run)
    points = [
        Point(name, one.step, one.value)
        for name in found.data.metrics
        for one in client.get_metric_history(run, name)
    ]
    files = {
        path.name: path.read_bytes()
        for path in Path(download_artifacts(run_id=run, tracking_uri=where)).rglob("*")
        if path.is_file()
    }
    texts = [content.decode() for name, content in files.items() if name.endswith(".md")]
    return Tracked(dict(found.data.params), points, texts, files)


class TestTensorBoard(TrackerContract):
    @pytest.fixture
    def make(self):
        pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
        from evonnx_tracking.tensorboard import TensorBoardTracker

        return TensorBoardTracker

    @pytest.fixture
    def read(self):
        return lambda where, found: read_events(found)

    def test_a_run_is_read_back(self, make, model, whole, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            tracked(model, tmp_path / "mine", [Asked("tensorboard", make())], StopsAfterOne())
        tracked(model, tmp_path / "mine", [Asked("tensorboard", make())], resume=True)
        found = read_events(str(tmp_path / "mine" / "tracking" / "tensorboard"))
        points = {(point.name, point.step) for point in found.points}
        assert len(points) == len(found.points)
        live = {
            point for point in points if point[0] == "live/loss"
        }  # what was live before is not told again
        assert live == {("live/loss", step) for step in (3, 4, 5)}
        expected = {(point.name, point.step) for point in whole[0].told if point.name != "live/loss"}
        assert points - live == expected
        assert "adaptive" in found.parameters["options.pressure.encoding"]
        assert any("fewer synapses" in text for text in found.texts)

    def test_two_runs_of_one_name_are_two(self, make, tmp_path):
        """As `--track tensorboard=logs` of runs/a/mine and runs/b/mine."""
        found = {}
        for run in ("a", "b"):
            tracker = make()
            found[run] = tracker.open(TrackedRun("mine", tmp_path / run, str(tmp_path / "logs")))
            tracker.points([Point("score", 1, 0.5)])
            tracker.close(False)
        assert [Path(found[run]).name for run in "ab"] == ["mine", "mine-2"]
        again = make()
        assert (
            again.open(TrackedRun("mine", tmp_path / "b", str(tmp_path / "logs"), found["b"])) == found["b"]
        )
        again.close(True)
        assert len(read_events(found["a"]).points) == 1
        assert read_events(found["b"]).points == []

    @pytest.mark.parametrize("known", ["../../mine", "/", "", "mine/../../elsewhere", "other"])
    def test_a_damaged_name_leads_nowhere(self, make, tmp_path, known):
        logs = tmp_path / "logs"
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "events.out.tfevents.1.evonnx").write_bytes(b"")
        tracker = make()
        found = tracker.open(TrackedRun("mine", tmp_path / "place", str(logs), known))
        tracker.close(True)
        assert Path(found) == logs / "mine"
        assert (tmp_path / "elsewhere" / "events.out.tfevents.1.evonnx").exists()

    def test_a_folder_that_cannot_be_written_costs_a_note(self, make, model, tmp_path):
        (tmp_path / "file").write_text("")
        ear = Ear()
        tracked(model, tmp_path / "mine", [Asked("tensorboard", make(), str(tmp_path / "file"))], ear)
        assert any("no longer tracked by tensorboard: NotADirectoryError" in note for note in ear.notes)

    def test_from_the_command_line(self, make, model, tmp_path, capsys):
        tracker = f"evonnx_tracking.tensorboard:TensorBoardTracker={tmp_path / 'logs'}"
        few = ["--gens", 1, "--screen", 1, "--threads", 1, "--align", 1, "--adapter", TOY]
        done = CommandLine(capsys)(
            "evolve", model, *few, "--out", tmp_path / "mine", "--track", tracker, "--json"
        )
        assert done.code == 0, done.err
        assert done.document["best"]
        assert f"The run is tracked by tensorboard: {tmp_path / 'logs' / 'mine'}" in done.err
        assert {point.name for point in read_events(str(tmp_path / "logs" / "mine")).points} >= {"best/score"}


def importorskip_mlflow() -> None:
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    logging.getLogger("mlflow").setLevel(logging.ERROR)


@pytest.mark.filterwarnings("ignore")  # of libraries, which MLflow brings and turns on
class TestMlflow(TrackerContract):
    @pytest.fixture
    def make(self, monkeypatch):
        importorskip_mlflow()
        from evonnx_tracking.mlflow import MlflowTracker

        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        return MlflowTracker

    @pytest.fixture
    def where(self, tmp_path):
        return (tmp_path / "tracked").as_uri()

    @pytest.fixture
    def read(self):
        return read_mlflow

    def test_a_run_is_read_back(self, make, model, whole, tmp_path, where):
        with pytest.raises(KeyboardInterrupt):
            tracked(model, tmp_path / "mine", [Asked("mlflow", make(), where)], StopsAfterOne())
        tracked(model, tmp_path / "mine", [Asked("mlflow", make(), where)], resume=True)
        known = json.loads((tmp_path / "mine" / "tracking" / "known.json").read_text())["mlflow"]["known"]
        found = read_mlflow(where, known)
        points = {(point.name, point.step) for point in found.points}
        assert len(points) == len(found.points)
        assert points == {(point.name, point.step) for point in whole[0].told}
        assert found.parameters["options.pressure.encoding"] == "adaptive"
        assert found.files["best.onnx"] == (tmp_path / "mine" / "best.onnx").read_bytes()
        assert {"report.html", "run.json", "size-each-measure-by-itself.md"} <= set(found.files)

    def test_how_it_ended_is_said(self, make, model, tmp_path, where):
        from mlflow import MlflowClient

        tracker = make()
        client = MlflowClient(tracking_uri=where)
        found = tracker.open(TrackedRun("mine", tmp_path / "place", where))
        assert client.get_run(found).info.run_name == "mine"
        assert client.get_experiment(client.get_run(found).info.experiment_id).name == "evonnx"
        for finished, says in ((False, "KILLED"), (True, "FINISHED")):
            tracker.close(finished)
            assert client.get_run(found).info.status == says

    def test_names_and_values_are_made_to_fit(self, make, run, read):
        tracker = make()
        found = tracker.open(run)
        tracker.parameters({f"option {number}!": "x" * 9000 for number in range(120)})
        tracker.points([Point("mAP@0.5", step, 1.0) for step in range(1200)])
        tracker.close(True)
        there = read(run.where, found)
        assert len(there.parameters) == 120
        assert {len(value) for value in there.parameters.values()} == {6000}
        assert len(there.points) == 1200
        assert {point.name for point in there.points} == {"mAP_0.5"}

    @pytest.mark.slow
    def test_a_database(self, make, read, tmp_path, monkeypatch):
        pytest.importorskip("sqlalchemy")
        monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts
        run = TrackedRun("mine", tmp_path / "place", f"sqlite:///{tmp_path / 'mlflow.db'}")
        self.test_keeps_what_it_is_told(make, run, read, tmp_path)
        tracker = make()
        found = tracker.open(run)
        tracker.points(POINTS[:2])
        again = make()
        assert again.open(TrackedRun(run.name, run.place, run.where, found)) == found
        again.points(POINTS)
        again.files([tmp_path / "best.onnx"])
        assert sorted(point.step for point in read(run.where, found).points) == [1, 2, 3]

    def test_a_server_that_is_gone_costs_a_note(self, make, model, tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        ear = Ear()
        with Tracking([Asked("mlflow", make(), "http://127.0.0.1:9")], ear, patience=10) as observer:
            run = evolve(model, out=tmp_path / "mine", options=options(generations=1), observer=observer)
        assert run.best.is_file()
        assert any("no longer tracked by mlflow" in note for note in ear.notes)
