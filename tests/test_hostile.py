"""Files that mean harm, each kind with its one clear error; memory and time measured where they matter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_support import CommandLine
from evolution_support import write_case
from hostile_models import EXTERNAL, HOSTILE
from test_bad_input import TASK, Bad, Prepare, a_run, contents, data, with_files
from test_bad_input import test_bad_input as check

from evonnx.onnx_io import bounds
from evonnx.onnx_io.bounds import parsed_bytes

INSPECT, COMPACT = "inspect m.onnx", "compact m.onnx -o o.onnx"
GIB = 1 << 30
needs_links = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no links and pipes on this system")


# ----------------------------------------------------------------------------------------------------- models

MODELS = [
    Bad("declared huge", INSPECT, "needs 18446744073709551616 bytes", HOSTILE["declared_huge"]),
    Bad("constant huge", INSPECT, "the constant in node 'constant'", HOSTILE["constant_huge"]),
    Bad("filled huge", COMPACT, "more than 1,073,741,824 elements", HOSTILE["filled_huge"]),
    Bad("expanded huge", COMPACT, "more than 1,073,741,824 elements", HOSTILE["expanded_huge"]),
    Bad("padded huge", COMPACT, "more than 1,073,741,824 elements", HOSTILE["padded_attribute"]),
    Bad("input huge", COMPACT, "more than 512 MiB", HOSTILE["input_huge"]),
    Bad("a million nodes", INSPECT, "1,000,002 nodes", HOSTILE["many_nodes"]),
    Bad(
        "functions that double", INSPECT, "once its functions are written out", HOSTILE["functions_doubling"]
    ),
    Bad("functions that call themselves", INSPECT, "calls itself", HOSTILE["function_of_itself"]),
    Bad("nested too deep", INSPECT, "not an ONNX file, or is truncated", HOSTILE["nested_too_deep"]),
    Bad("a cycle", INSPECT, "part of a cycle through 'y'", HOSTILE["cyclic"]),
    Bad("a name twice", INSPECT, "'m' is used twice", HOSTILE["same_name_twice"]),
    Bad("sparse", INSPECT, "sparse initializer", HOSTILE["sparse"]),
    Bad("strings as weights", COMPACT, "cannot load the model", HOSTILE["strings_as_weights"]),
    Bad("an unknown domain", COMPACT, "the model as given cannot run", HOSTILE["unknown_domain"]),
    Bad("in training", COMPACT, "node drop (Dropout) draws random numbers", HOSTILE["in_training"]),
    Bad("attributes of other types", COMPACT, "m.onnx", HOSTILE["attributes_of_other_types"]),
    Bad("a node without inputs", COMPACT, "the model as given cannot run", HOSTILE["node_without_inputs"]),
    Bad("one piece for all", INSPECT, "100 tensors", HOSTILE["one_piece_for_all"]),
    *(Bad(f"external data: {name}", INSPECT, says, write) for name, (write, says) in EXTERNAL.items()),
]


@pytest.mark.parametrize("bad", MODELS, ids=[bad.name for bad in MODELS])
def test_hostile_models(
    bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check(bad, tmp_path, monkeypatch, capsys)


def test_sound_things_are_not_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be followed is pinned: an unknown operator and one in training are shown, not refused."""
    for name in ("unknown_domain", "in_training"):
        HOSTILE[name](tmp_path)
        shown = CommandLine(capsys)("inspect", tmp_path / "m.onnx", "--json")
        assert shown.code == 0
        assert shown.document["pins"]


# ------------------------------------------------------------------------------------------- memory and time


@dataclass(frozen=True)
class Costly:
    """What a command on a hostile file may take."""

    prepare: Prepare
    command: str
    says: str
    resident: int = GIB // 2
    seconds: float = 30.0


MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss * 1024, used.ru_utime + used.ru_stime)
sys.exit(code)
"""
"""A process between: Linux counts what the parent holds at the start as its child's."""
COSTLY = {
    "a million nodes": Costly(HOSTILE["many_nodes"], INSPECT, "1,000,002 nodes"),
    "millions of parts": Costly(HOSTILE["many_parts"], INSPECT, "millions of tiny parts"),
    "huge ones filled": Costly(HOSTILE["filled_huge"], COMPACT, "elements"),
    "functions that double": Costly(HOSTILE["functions_doubling"], COMPACT, "written out"),
    "a loop without end": Costly(HOSTILE["loop_without_end"], COMPACT, "does not end within", seconds=45.0),
}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted by Linux")
@pytest.mark.parametrize("name", COSTLY)
def test_memory_and_time_are_bounded(name: str, tmp_path: Path) -> None:
    case = COSTLY[name]
    case.prepare(tmp_path)
    before, started = contents(tmp_path), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, sys.executable, "-m", "evonnx", *case.command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    wall = time.monotonic() - started
    resident, seconds = (float(figure) for figure in done.stdout.split())
    assert done.returncode == 1, done.stderr
    assert case.says in done.stderr
    assert "Traceback" not in done.stderr
    assert resident < case.resident
    # Processor time: other processes may keep this one from running.
    assert min(wall, seconds) < case.seconds
    assert contents(tmp_path) == before


def test_the_estimate_of_memory_is_one_of_memory() -> None:
    """Weights count once, lists of numbers eight times, empty messages as what they are."""
    weights = _sized(raw_data=b"\0" * 100_000)
    assert 100_000 <= parsed_bytes(weights, 1 << 40) < 102_000
    numbers = _sized(int64_data=[1] * 10_000)
    assert 80_000 <= parsed_bytes(numbers, 1 << 40) < 82_000
    assert parsed_bytes(b"\x3a\xd0\x0f" + b"\x0a\x00" * 1000, 1 << 40) >= 100_000
    assert parsed_bytes(b"\x3a\xd0\x0f" + b"\x0a\x00" * 1000, 5000) < 6000
    assert parsed_bytes(b"\xff" * 1000, 1 << 40) == 0


def _sized(**fields: object) -> bytes:
    import onnx

    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], **fields)
    return onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString()


def test_files_over_the_limit_of_a_message_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(3 * GIB)  # takes no space
    with pytest.raises(bounds.ModelError, match="3,221,225,472 bytes"):
        bounds.check_bulk(path)


# ------------------------------------------------------------------------------------- data and run folders


def _special(name: str, make: Callable[[Path], None]) -> Prepare:
    """A run whose file or folder `name` is something else."""

    def prepare(folder: Path) -> None:
        a_run()(folder)
        path = folder / "run" / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        make(path)

    return prepare


def changed(**changes: object) -> Prepare:
    """A run whose run.json has other values."""

    def prepare(folder: Path) -> None:
        a_run()(folder)
        path = folder / "run" / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return prepare


def _object_array(folder: Path) -> None:
    data()(folder)
    np.savez(folder / "data.npz", x=np.array([{"a": 1}] * 6, dtype=object), y=np.zeros(6, np.int64))


def _postscript(folder: Path) -> None:
    """An image by its name, a program by its content: Pillow would start Ghostscript for it."""
    data(task=TASK.replace("data.npz", "photos"))(folder)
    for label in "abcde":
        (folder / "photos" / label).mkdir(parents=True)
        (folder / "photos" / label / "1.png").write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
        )


REPORT = "report run"
FOLDERS = [
    Bad(
        "run.json is a device",
        REPORT,
        "no regular file",
        _special("run.json", lambda p: p.symlink_to("/dev/zero")),
    ),
    Bad("run.json is a pipe", REPORT, "no regular file", _special("run.json", lambda p: os.mkfifo(p))),
    Bad("run.json is a folder", REPORT, "run.json", _special("run.json", lambda p: p.mkdir())),
    Bad("run.json nests", REPORT, "run.json", a_run(run_json="[" * 100_000)),
    Bad("NaN in run.json", REPORT, "finite", a_run(run_json='{"a": NaN}')),
    Bad("infinity in run.json", REPORT, "finite", a_run(run_json='{"a": 1e999}')),
    Bad("a number too long", REPORT, "run.json", a_run(run_json='{"a": 1' + "0" * 5000 + "}")),
    Bad("generations are no list", REPORT, "run.json", changed(generations=3)),
    Bad("the ancestor is a list", REPORT, "run.json", changed(ancestor=[1])),
    Bad("timings are text", REPORT, "run.json", changed(bench={"latencies": "fast"})),
    Bad("pickled objects", "evaluate m.onnx", "pickled", _object_array),
    Bad("a program as an image", "evaluate m.onnx", "1.png", _postscript),
    Bad(
        "an archive of nothing", "evaluate m.onnx", "data.npz", with_files(data_npz=b"PK\x05\x06" + bytes(18))
    ),
]


@needs_links
@pytest.mark.parametrize("bad", FOLDERS, ids=[bad.name for bad in FOLDERS])
def test_hostile_folders(
    bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check(bad, tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its task, and a run of two generations in it."""
    from evonnx.evolution import evolve

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fuzz"))
    import corpus

    folder = tmp_path_factory.mktemp("finished")
    evolve(write_case(folder), out=folder / "run", options=corpus.options(epochs=1, screen=2))
    (folder / "words").write_text(" ".join(corpus.resume_words()))
    (folder / "outside").mkdir()
    return folder


def _linked(name: str, to: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(to)

    return change


def _figure(**changes: object) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        path = run / "gen-02" / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _unfinished(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """What was chosen by the clock is changed in run.json, and best.onnx is to be chosen again by it."""

    def prepare(run: Path) -> None:
        (run / "best.onnx").unlink()
        record = json.loads((run / "run.json").read_text())
        change(record)
        (run / "run.json").write_text(json.dumps(record))

    return prepare


def _chosen(**values: object) -> Callable[[Path], None]:
    return _unfinished(lambda record: record["choices"].update(values))


def _timings(change: Callable[[list[Any]], object]) -> Callable[[Path], None]:
    """The models that they are of stay, so that they are read again."""
    return _unfinished(lambda record: change(record["choices"]["timings"]["best"]["timings"]))


ROW = "metrics.json of generation 2 in run"
TIMINGS, CHOICES = "no timings under choices.timings.best, or damaged ones", '"choices" in run/run.json were'
RESUMED = {
    "checkpoints lead out": (_linked("checkpoints", "../outside"), "is a symbolic link"),
    "a generation leads out": (_linked("gen-01", "../outside"), "is a symbolic link"),
    "a file leads out": (_linked("gen-01/compact.onnx", "../../model.onnx"), "is a symbolic link"),
    "unfinished work leads out": (_linked(".partial-gen-03", "../outside"), "is a symbolic link"),
    "metrics never end": (_linked("gen-02/metrics.json", "/dev/zero"), "is a symbolic link"),
    "metrics of another generation": (_figure(generation=7), "generation 7"),
    "a generation by path": (_figure(generation="../../x"), "'../../x'"),
    "a score that is text": (_figure(score_validation="high"), "'score_validation' is no number"),
    "a score that is a flag": (_figure(score=True), "'score' is no number"),
    "an alignment that is a list": (_figure(alignment=[1]), ROW),
    "an alignment of text": (_figure(alignment={"requested": "8"}), ROW),
    "an alignment without counts": (_figure(alignment={"requested": 8}), ROW),
    "a time that is text": (_timings(lambda rows: rows[1].update(ratio="fast")), TIMINGS),
    "a time of nothing": (_timings(lambda rows: rows[1].update(ratio_low=0)), TIMINGS),
    "a time without end": (_timings(lambda rows: rows[1].update(ratio=10**400)), TIMINGS),
    "a time that is missing": (_timings(lambda rows: rows[1].pop("median_ms")), TIMINGS),
    "times of a model too few": (_timings(lambda rows: rows.pop()), TIMINGS),
    "times that are lists": (_timings(lambda rows: rows.__setitem__(0, [1])), TIMINGS),
    "timings that are no table": (_chosen(timings={"best": [1]}), TIMINGS),
    "all timings a list": (_chosen(timings=[1]), CHOICES),
    "choices that are text": (_unfinished(lambda record: record.update(choices="x")), "run.json"),
    "a choice that is missing": (_unfinished(lambda record: record["choices"].pop("align")), CHOICES),
    "an alignment of nothing": (_chosen(align=0), CHOICES),
    "remedies that are a list": (_chosen(remedies=[1]), CHOICES),
    "a remedy of more than all": (
        _chosen(remedies={"1": {"batch_share": 2, "rate_share": 1, "faults": []}}),
        CHOICES,
    ),
    "a table of latencies that is empty": (_chosen(latency={}), CHOICES),
}


@needs_links
@pytest.mark.parametrize("name", RESUMED)
def test_hostile_runs_are_not_resumed(
    name: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "case"
    shutil.copytree(finished, folder)
    change, says = RESUMED[name]
    change(folder / "run")
    monkeypatch.chdir(folder)
    shown = CommandLine(capsys)(*(folder / "words").read_text().split())
    assert shown.code == 1
    assert says in shown.err
    assert "Traceback" not in shown.err
    assert "bug in evonnx" not in shown.err
    assert not list((folder / "outside").iterdir())


# ------------------------------------------------------------------------------------------ found by fuzzing

FOUND = sorted((Path(__file__).parent / "fuzz_findings").iterdir())
COMMANDS = {
    "inspect": "inspect m.onnx",
    "synthesize": "synthesize m.onnx -o o.onnx --align 1 --best-effort --provider cpu",
    "compact": COMPACT,
    "report": REPORT,
}


@pytest.mark.parametrize("path", FOUND, ids=[path.name for path in FOUND])
def test_what_fuzzing_found_stays_mended(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = path.name.partition("-")[0]
    (tmp_path / "run").mkdir()
    shutil.copy(path, tmp_path / ("run/run.json" if kind == "report" else "m.onnx"))
    monkeypatch.chdir(tmp_path)
    shown = CommandLine(capsys)(*COMMANDS[kind].split())
    assert shown.code in (0, 1)
    assert "bug in evonnx" not in shown.err
    assert "Traceback" not in shown.err
    if shown.code:
        assert sum(line.startswith("evonnx: ") for line in shown.err.splitlines()) == 1
        assert not (tmp_path / "o.onnx").exists()


def test_a_node_that_no_rule_can_follow_pins(capsys: pytest.CaptureFixture[str]) -> None:
    path = next(path for path in FOUND if path.name == "synthesize-232550.onnx")  # a Transpose of axis 7
    shown = CommandLine(capsys)("inspect", path, "--json")
    assert shown.code == 0
    assert any(
        "Transpose could not be followed (ValueError" in pin["reason"] for pin in shown.document["pins"]
    )
