"""What a run must find as it left it to be continued, and what is left to do where it was killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from evolution_support import options, run, write_case
from test_evolution import assert_same_run

from evonnx.adapter import Progress, RetrainRequest, RetrainResult
from evonnx.durable import PARTIAL
from evonnx.errors import RunError
from evonnx.evolution import Observer, evolve, loop
from evonnx.locking import LOCK_FILE
from evonnx.report import read_run
from evonnx.run_store import read_json
from evonnx.speed import arithmetic_of
from evonnx.testing import ToyAdapter


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and its finished run."""
    folder = tmp_path_factory.mktemp("finished")
    model = write_case(folder)
    run(model, folder / "run")
    return model, folder / "run"


@pytest.fixture
def copy(finished: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same, to be spoilt."""
    model, folder = finished
    return model, Path(shutil.copytree(folder, tmp_path / "run"))


def edit(folder: Path, *keys: str, value: Any) -> None:
    """Change one thing in run.json; None removes it."""
    record = read_json(folder / "run.json")
    place = record
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    (folder / "run.json").write_text(json.dumps(record))


class Packaged(ToyAdapter):
    """An adapter whose results depend on a distribution that nobody else's do."""

    packages = ("pytest",)


def test_versions_of_an_adapters_own_packages_are_recorded(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    model, folder = finished
    run(model, tmp_path / "run", adapter=f"{__name__}:Packaged")
    recorded = read_json(tmp_path / "run" / "run.json")["configuration"]["versions"]
    assert recorded.pop("pytest") == pytest.__version__
    assert recorded == read_json(folder / "run.json")["configuration"]["versions"]


class Refusing:
    """An adapter for runs in which there is nothing to train."""

    name = "refusing"

    def retrain(self, request: RetrainRequest) -> RetrainResult:
        raise AssertionError("trained again")


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("versions", "evonnx"), "0.0.1", r"versions\.evonnx was '0\.0\.1' and is '"),
        (("versions", "onnxruntime-gpu"), "1.0", r"versions\.onnxruntime-gpu was '1\.0'"),
        (("versions", "torch"), "9.9", r"versions\.torch was '9\.9'"),
        (("versions", "python"), "3.0", r"versions\.python was '3\.0'"),
        (("machine", "processor"), "Z80", r"machine\.processor was 'Z80' and is "),
        (("machine", "instructions"), "none", r"machine\.instructions was 'none'"),
        (("options", "threads"), 7, r"options\.threads was 7 and is 1"),
        (("task",), "another", r"task was 'another'"),
    ],
)
def test_what_differs_is_named_and_refused(
    copy: tuple[Path, Path], keys: tuple[str, ...], value: Any, said: str
) -> None:
    model, folder = copy
    edit(folder, "configuration", *keys, value=value)
    before = (folder / "run.json").read_bytes()
    with pytest.raises(RunError, match=said):
        evolve(model, out=folder, options=options(), resume=True)
    assert (folder / "run.json").read_bytes() == before
    assert not (folder / LOCK_FILE).exists()


def test_runs_that_recorded_no_machine_are_continued(copy: tuple[Path, Path]) -> None:
    model, folder = copy
    edit(folder, "configuration", "machine", value=None)
    assert evolve(model, out=folder, options=options(), resume=True).folder == folder


def test_the_machine_is_what_linux_says_of_it(tmp_path: Path) -> None:
    text = "processor\t: 0\nmodel name\t: Z80\nflags\t\t: fpu avx2 fma smep avx512f\n"
    (tmp_path / "cpuinfo").write_text(text + text.replace("Z80", "another"))
    found = arithmetic_of(tmp_path / "cpuinfo")
    assert found["processor"] == "Z80"
    assert found["instructions"] == "avx2 avx512f fma"
    assert arithmetic_of(tmp_path / "none")["instructions"] == ""
    assert arithmetic_of() == arithmetic_of()


def test_a_finished_run_is_not_touched_again(
    copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = copy
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    heard: list[str] = []

    class Ear(Observer):
        def generation_done(self, row: Any) -> None:
            heard.append(f"done {row['generation']}")

        def note(self, text: str) -> None:
            heard.append(text)

    monkeypatch.setattr(ToyAdapter, "retrain", Refusing.retrain)
    monkeypatch.setattr(loop, "bench", None)
    found = evolve(model, out=folder, options=options(), resume=True, observer=Ear())
    assert found.record == read_json(folder / "run.json")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert heard == ["done 1", "done 2", "This run is finished; there is nothing left to do."]


def test_a_run_killed_in_its_last_step_is_tidied(copy: tuple[Path, Path]) -> None:
    """Found by killing: between the last run.json and the end of the adapter's files."""
    model, folder = copy
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "123").write_bytes(b"kept")
    evolve(model, out=folder, options=options(), resume=True)
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("spoilt", ["gone", "cut short", "not timed"])
def test_what_is_missing_of_a_finished_run_is_made_again(
    copy: tuple[Path, Path], finished: tuple[Path, Path], spoilt: str
) -> None:
    model, folder = copy
    best = folder / "best.onnx"
    if spoilt == "gone":
        best.unlink()
    elif spoilt == "cut short":
        best.write_bytes(best.read_bytes()[:-9])
    else:
        edit(folder, "bench", value=None)
    evolve(model, out=folder, options=options(), resume=True)
    assert_same_run(finished[1], folder)
    assert "bench" in read_json(folder / "run.json")


def test_whoever_is_killed_while_timing_does_not_train_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    model, folder = write_case(tmp_path / "case"), tmp_path / "run"
    asked = options(adapter="torch", generations=1, epochs=1, recovery_epochs=2)

    def killed(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "bench", killed)
        with pytest.raises(KeyboardInterrupt):
            evolve(model, out=folder, options=asked)
    assert read_run(read_json(folder / "run.json")).has_best
    kept = (folder / "best.onnx").read_bytes()
    trained: list[Progress] = []

    class Ear(Observer):
        def training(self, generation: int, news: Progress) -> None:
            trained.append(news)

    evolve(model, out=folder, options=asked, resume=True, observer=Ear())
    assert not trained
    assert (folder / "best.onnx").read_bytes() == kept
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_killed_before_it_wrote_anything_begins(tmp_path: Path, resume: bool) -> None:
    model, folder = write_case(tmp_path / "case"), tmp_path / "run"
    folder.mkdir()
    (folder / LOCK_FILE).write_text("1234 here\n")
    (folder / f"{PARTIAL}1234-run.json").write_text("{")
    evolve(model, out=folder, options=options(generations=1), resume=resume)
    assert {path.name for path in folder.iterdir()} == {"run.json", "gen-01", "best.onnx"}


def test_partial_files_of_other_processes_are_cleared(copy: tuple[Path, Path]) -> None:
    model, folder = copy
    shutil.rmtree(folder / "gen-02")
    (folder / f"{PARTIAL}gen-02").mkdir()
    (folder / "checkpoints").mkdir()
    for place in (folder, folder / f"{PARTIAL}gen-02", folder / "checkpoints"):
        (place / f"{PARTIAL}99-report.html").write_text("half")
    heard: list[Path] = []

    class Ear(Observer):
        def started(self, title: str, generations: int, notes: list[str]) -> None:
            heard.extend(folder.rglob(f"{PARTIAL}*"))

    evolve(model, out=folder, options=options(), resume=True, observer=Ear())
    assert not heard
    assert not list(folder.rglob(f"{PARTIAL}*"))


def test_a_resumed_run_never_forgets_its_generations_on_disk(copy: tuple[Path, Path]) -> None:
    """run.json is written again before anything else is done."""
    model, folder = copy
    (folder / "best.onnx").unlink()
    rows: list[int] = []

    class Ear(Observer):
        def started(self, title: str, generations: int, notes: list[str]) -> None:
            rows.append(len(read_json(folder / "run.json")["generations"]))

    evolve(model, out=folder, options=options(), resume=True, observer=Ear())
    assert rows == [2]


def test_a_damaged_generation_is_named_with_what_to_do(copy: tuple[Path, Path]) -> None:
    model, folder = copy
    (folder / "gen-01" / "metrics.json").write_bytes(b"\x00" * 40)
    with pytest.raises(RunError, match=r"gen-01 is damaged.*Remove it and the generations after it"):
        evolve(model, out=folder, options=options(), resume=True)


def test_a_run_that_has_just_begun_cannot_be_reported_yet() -> None:
    with pytest.raises(RunError, match="has begun"):
        read_run({"configuration": {}, "generations": []})
