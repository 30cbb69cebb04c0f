"""Runs told to trackers: what they are told, who is asked, and what it costs when they fail."""

from __future__ import annotations

import math
import subprocess
import sys
import threading

import pytest
from evolution_support import options
from tracking_support import METHODS, TOY, Ear, Notebook, StopsAfterOne, tracked

from evonnx.adapter import Progress
from evonnx.errors import EvonnxError, PluginError
from evonnx.evolution import evolve
from evonnx.plugins import Plugin
from evonnx.tracker import Point, Tracker
from evonnx.tracking import Asked, Tracking, trackers
from evonnx.tracking.observing import FOLDER, KNOWN_FILE, LiveLoss, known_runs
from evonnx.tracking.points import parameters_of, points_of, points_of_bench, points_of_best
from evonnx.tracking.working import MOST_WAITING, Worker


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
