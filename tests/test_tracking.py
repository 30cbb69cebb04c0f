"""Runs told to trackers: what they are told, by built-in ones read back from real files, and what it
costs when they fail."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cli_support import CommandLine
from evolution_support import options, write_case

from evonnx.adapter import Progress
from evonnx.errors import EvonnxError, PluginError
from evonnx.evolution import Observer, evolve
from evonnx.plugins import Plugin
from evonnx.testing import Tracked, TrackerContract
from evonnx.testing.tracker_contract import POINTS
from evonnx.tracker import Point, TrackedRun, Tracker
from evonnx.tracking import Asked, Tracking, trackers
from evonnx.tracking.observing import FOLDER, KNOWN_FILE, LiveLoss, known_runs
from evonnx.tracking.points import parameters_of, points_of, points_of_bench, points_of_best
from evonnx.tracking.working import MOST_WAITING, Worker


class Notebook:
    """A tracker that keeps everything in memory, and fails where it is told to."""

    name = "notebook"

    def __init__(self, fails_in: str = "", error: BaseException | None = None) -> None:
        self.fails_in, self.error = fails_in, error or OSError(28, "No space left on device")
        self.calls: list[str] = []
        self.runs: list[TrackedRun] = []
        self.values: dict = {}
        self.told: list[Point] = []
        self.texts: dict[str, str] = {}
        self.kept: list[str] = []
        self.finished: bool | None = None

    def _called(self, method: str) -> None:
        self.calls.append(method)
        if method == self.fails_in:
            raise self.error

    def open(self, run: TrackedRun) -> str:
        self._called("open")
        self.runs.append(run)
        return "page 1"

    def parameters(self, values) -> None:
        self._called("parameters")
        self.values |= values

    def points(self, points) -> None:
        self._called("points")
        self.told += points

    def text(self, name: str, markdown: str, step: int) -> None:
        self._called("text")
        self.texts[name] = markdown

    def files(self, files) -> None:
        self._called("files")
        self.kept += [file.name for file in files]

    def close(self, finished: bool) -> None:
        self._called("close")
        self.finished = finished

    def curve(self, name: str) -> dict[int, float]:
        points = [point for point in self.told if point.name == name]
        assert len({point.step for point in points}) == len(points), f"a point of {name} was told twice"
        return {point.step: point.value for point in points}


TOY = "evonnx.testing:ToyAdapter"
METHODS = ("open", "points", "close")
"""The first, the last, and one between."""


class Ear(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.done: list[int] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def generation_done(self, row) -> None:
        self.done.append(row["generation"])


class StopsAfterOne(Ear):
    def generation_done(self, row) -> None:
        super().generation_done(row)
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_case(tmp_path_factory.mktemp("tracked"))


def tracked(model: Path, out: Path, asked: list[Asked], inner: Observer | None = None, **how) -> dict:
    with Tracking(asked, inner, patience=20) as observer:
        return evolve(model, out=out, options=options(), observer=observer, **how).record


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> tuple[Notebook, dict, Ear, Path]:
    """A run of two generations, as it was told and as it was recorded."""
    book, ear = Notebook(), Ear()
    out = tmp_path_factory.mktemp("whole") / "mine"
    return book, tracked(model, out, [Asked("notebook", book)], ear), ear, out


def test_a_run_is_told_from_its_beginning_to_its_end(whole):
    book, record, ear, out = whole
    assert isinstance(book, Tracker)
    assert book.calls[:2] == ["open", "parameters"]
    assert book.calls[-1] == "close"
    assert book.finished is True
    assert (book.runs[0].name, book.runs[0].known) == ("mine", None)
    assert book.runs[0].place == out / "tracking" / "notebook"
    assert ear.done == [1, 2]
    assert ear.notes[-1] == "The run is tracked by notebook: page 1" or any(
        "tracked by notebook: page 1" in note for note in ear.notes
    )
    assert book.values["seed"] == 0
    assert book.values["options.pressure.keep"] == 0.7
    assert book.values["versions.onnx"] == record["configuration"]["versions"]["onnx"]
    assert book.values["metric"] == "accuracy"
    rows = [record["ancestor"], *record["generations"]]
    for name in ("score", "score_validation", "synapses", "macs", "bytes", "architectural_efficiency"):
        assert book.curve(f"generation/{name}") == {row["generation"]: row[name] for row in rows}
    histories = [*(row["training"]["history"] for row in rows[1:]), record["best"]["training"]["history"]]
    losses = [entry["loss"] for history in histories for entry in history]
    assert book.curve("training/loss") == dict(enumerate(losses, 1))
    assert set(book.curve("training/learning_rate")) == {1, 2, 3, 4, 5}
    assert book.curve("training/generation") == {1: 1, 2: 1, 3: 2, 4: 2, 5: 2}
    assert set(book.curve("live/loss")) == {1, 2, 3, 4, 5}
    batch = record["bench"]["latencies"][0]["batch"]
    assert set(book.curve(f"generation/latency_ms_batch_{batch}")) == {0, 1, 2}
    assert book.curve("best/score") == {2: record["best"]["score"]}
    assert book.texts["Size, each measure by itself"].count("\n| ") >= 4
    assert "fewer synapses" in book.texts["summary"]
    assert book.kept == ["best.onnx", "report.html", "report.md", "run.json"]


def test_a_run_that_goes_on_is_the_same_tracked_run(model, whole, tmp_path):
    whole_book = whole[0]
    first, again, once_more = Notebook(), Notebook(), Notebook()
    with pytest.raises(KeyboardInterrupt):
        tracked(model, tmp_path / "mine", [Asked("notebook", first)], StopsAfterOne())
    assert first.finished is False
    assert first.kept == []
    ear = Ear()
    tracked(model, tmp_path / "mine", [Asked("notebook", again)], ear, resume=True)
    assert again.runs[0].known == "page 1"
    assert "The run goes on being tracked by notebook: page 1" in ear.notes
    both = {(point.name, point.step) for point in (*first.told, *again.told)}
    assert both == {(point.name, point.step) for point in whole_book.told}
    for name in ("generation/score", "training/loss"):
        assert again.curve(name) == whole_book.curve(name)
    # A run that is finished is told whole to whoever comes late, at another place as another run.
    tracked(model, tmp_path / "mine", [Asked("notebook", once_more, "elsewhere")], resume=True)
    assert once_more.runs[0].known is None
    assert once_more.curve("training/loss") == whole_book.curve("training/loss")
    assert once_more.kept == whole_book.kept


@pytest.mark.parametrize("method", METHODS)
def test_a_tracker_that_fails_costs_a_note(model, whole, tmp_path, method):
    good, bad, ear = Notebook(), Notebook(method), Ear()
    record = tracked(model, tmp_path / "mine", [Asked("bad", bad), Asked("good", good)], ear)
    assert bad.calls.count(method) == 1
    assert bad.calls[-1] == method
    (note,) = (note for note in ear.notes if "no longer" in note)
    assert note.startswith(
        "The run is no longer tracked by bad: OSError: [Errno 28] No space left on device. "
    )
    assert good.finished
    assert record["best"]["sha256"] == whole[1]["best"]["sha256"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError(), RecursionError("deep")])
def test_whatever_a_tracker_raises_stays_with_it(error):
    def fails() -> None:
        raise error

    made = []
    worker = Worker("bad")
    for call in (lambda: made.append(1), fails, lambda: made.append(2)):
        worker.ask(call)
    worker.finish(20)
    assert made == [1]
    (note,) = worker.notes()
    assert note.startswith("The run is no longer tracked by bad: " + type(error).__name__)
    assert worker.notes() == []


def test_a_tracker_that_falls_behind_is_given_up():
    release = threading.Event()
    worker = Worker("slow")
    for _ in range(MOST_WAITING + 3):
        worker.ask(lambda: release.wait(60))
    release.set()
    worker.finish(20)
    (note,) = worker.notes()
    assert f"it is {MOST_WAITING} calls behind" in note


def test_a_tracker_that_hangs_is_left_behind(model, tmp_path):
    release, ear = threading.Event(), Ear()

    class Hangs(Notebook):
        def points(self, points) -> None:
            release.wait(60)

    with Tracking([Asked("slow", Hangs())], ear, patience=0.2) as observer:
        run = evolve(model, out=tmp_path / "mine", options=options(generations=1), observer=observer)
    release.set()
    assert run.best.is_file()
    assert (
        "The run is no longer tracked by slow: it did not answer for 0.2 s. The run itself goes on."
        in ear.notes
    )


class BrokenAdapter:
    name = "broken"

    def retrain(self, request):
        raise RuntimeError("half installed")


def test_a_run_that_fails_at_once_leaves_nothing(model, tmp_path):
    book = Notebook()
    how = options(adapter=f"{__name__}:BrokenAdapter")
    with pytest.raises(EvonnxError, match="half installed"), Tracking([Asked("notebook", book)]) as observer:
        evolve(model, out=tmp_path / "mine", options=how, observer=observer)
    assert book.finished is False
    assert not (tmp_path / "mine").exists()


def test_a_record_that_cannot_be_read_costs_a_note(tmp_path):
    book, ear = Notebook(), Ear()
    with Tracking([Asked("notebook", book)], ear) as observer:
        observer.opened(tmp_path)
        observer.started("title", 1, [])
        observer.generation_done({"generation": 1})
    assert book.calls == []
    assert ear.done == [1]
    (note,) = ear.notes
    assert note.startswith("The run is not tracked: ")


@pytest.mark.parametrize("content", ["{", "[]", '{"notebook": 3}', '{"notebook": {"known": 3}}'])
def test_what_a_damaged_file_knows_is_forgotten(tmp_path, content):
    (tmp_path / FOLDER).mkdir()
    assert known_runs(tmp_path) == {}
    (tmp_path / FOLDER / KNOWN_FILE).write_text(content)
    assert known_runs(tmp_path) == {}


def test_points_are_finite_and_where_they_belong():
    row = {
        "generation": 2,
        "score": math.nan,
        "score_validation": None,
        "synapses": 12,
        "details": {"mAP": 0.5},
        "training": {"history": [{"epoch": 1, "loss": math.inf, "learning_rate": 0.1}]},
    }
    assert points_of(row, 7) == [
        Point("generation/synapses", 2, 12.0),
        Point("generation/mAP", 2, 0.5),
        Point("training/learning_rate", 8, 0.1),
        Point("training/generation", 8, 2.0),
    ]
    assert points_of_best({**row, "generation": 1}, 4, 7) == [
        Point("training/learning_rate", 8, 0.1),
        Point("training/generation", 8, 4.0),
        Point("best/generation", 4, 1.0),
        Point("best/synapses", 4, 12.0),
    ]
    timed = [{"index": index, "batch": 8, "median_ms": 1.0, "ratio": 2.0} for index in (0, 1, 2)]
    steps = {(one.name, one.step) for one in points_of_bench({"latencies": timed}, 1)}
    assert steps >= {("generation/latency_ms_batch_8", 1), ("best/speed_up_batch_8", 1)}
    flat = parameters_of(
        {"configuration": {"options": {"a": {"b": None, "c": [1]}}, "model": "m"}, "seed": 3}
    )
    assert flat == {"options.a.c": "[1]", "model": "m", "seed": 3}


def test_siblings_have_curves_of_their_own():
    live = LiveLoss()
    heard = []
    for generation in (1, 2):
        for _ in range(2):
            live.stage(generation, "removing and proving")
            live.stage(generation, "retraining")
            for step in (1, 2):
                if (over := live.heard(Progress(1, 1, step, 2, float(step)))) is not None:
                    heard.append(over)
    assert heard == [("live/loss", 1.5), ("live/loss_sibling_2", 1.5)] * 2


# --- who is asked


class NoTracker:
    name = "none"


class Named(Notebook):
    name = "../away"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["no_such_thing"], "There is no tracker called 'no_such_thing'."),
        ([f"{__name__}:NoTracker"], "it lacks methods"),
        ([f"{__name__}:Notebook", f"{__name__}:Notebook=there"], "asked for twice"),
        ([f"{__name__}:Named"], "is no name for a folder"),
    ],
)
def test_who_cannot_be_asked(given, says):
    with pytest.raises(PluginError) as caught:
        trackers(given)
    assert says in str(caught.value)


def test_a_missing_extra_is_named():
    plugin = Plugin("mlflow", "trackers", "evonnx", "0.1.0", "no_such_module_at_all:Tracker")
    assert "pip install 'evonnx[mlflow]'" in str(plugin.error)


def test_nothing_of_them_is_imported_when_unused(model, tmp_path):
    words = ["evonnx", "evolve", str(model), "--gens", "1", "--adapter", TOY]
    words += ["--out", str(tmp_path / "mine"), "--screen", "1", "--threads", "1", "--align", "1"]
    code = (
        f"import sys; sys.argv = {words!r}\n"
        "from evonnx.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "found = {'mlflow', 'tensorboard', 'evonnx_tracking'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mine" / "tracking").exists()


# --- the built-in ones, read back from their files


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
