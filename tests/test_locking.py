"""One writer per folder."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from evolution_support import options, write_case

from evonnx.cli import app
from evonnx.errors import RunError
from evonnx.evolution import evolve
from evonnx.locking import LOCK_FILE, locked

pytestmark = pytest.mark.skipif(os.name != "posix", reason="made for POSIX")

HOLD = """
import sys
from pathlib import Path
from evonnx.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_folder_has_one_writer_and_the_error_names_it(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    for _ in range(2):  # asking changes nothing
        with (
            pytest.raises(RunError, match=rf"process {holder.pid} on {socket.gethostname()}, "),
            locked(tmp_path),
        ):
            pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    assert list(tmp_path.iterdir()) == []


def test_one_process_cannot_write_a_folder_twice(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(RunError, match=f"process {os.getpid()} "), locked(tmp_path):
            pass
        assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path):
        pass


def test_an_error_inside_gives_the_folder_back(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), locked(tmp_path):
        raise ValueError("inside")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_removed_by_its_owner_in_between_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opened the file before its owner removed it would lock a file that nobody else sees."""
    import fcntl

    flock, calls = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / LOCK_FILE).unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path):
        assert len(calls) == 2
        monkeypatch.setattr(fcntl, "flock", flock)
        with pytest.raises(RunError, match="being written"), locked(tmp_path):
            pass


@pytest.mark.parametrize(
    ("owner", "refused"),
    [
        ("OWN HERE", True),
        ("1 HERE", True),
        ("DEAD HERE", False),
        ("77 elsewhere", True),
        ("", False),
        ("rubbish", False),
    ],
)
def test_where_there_are_no_locks_the_name_has_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str, refused: bool
) -> None:
    import fcntl

    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name, value in (("DEAD", gone.pid), ("OWN", os.getpid()), ("HERE", socket.gethostname())):
        owner = owner.replace(name, str(value))
    (tmp_path / LOCK_FILE).write_text(owner)
    if refused:
        with pytest.raises(RunError, match=r"no locks.*remove .*\.lock"), locked(tmp_path):
            pass
        assert (tmp_path / LOCK_FILE).read_text() == owner
    else:
        with locked(tmp_path):
            assert (tmp_path / LOCK_FILE).read_text().startswith(str(os.getpid()))


def test_a_lock_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Cannot write .*\.lock"), locked(tmp_path / "nowhere"):
        pass


def test_two_processes_cannot_write_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, run = write_case(tmp_path / "case"), tmp_path / "run"
    evolve(model, out=run, options=options())
    with locked(run):
        with pytest.raises(SystemExit) as left:
            app(["evolve", str(model), "--out", str(run), "--resume"], prog_name="evonnx")
        said = capsys.readouterr().err
    assert left.value.code == 1
    assert f"{run} is being written by process {os.getpid()} on " in said
    assert "Continue with" not in said


def test_a_run_that_is_just_begun_elsewhere_is_left_alone(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    model = write_case(tmp_path.parent / f"{tmp_path.name}-case")
    with pytest.raises(RunError, match=f"process {holder.pid} "):
        evolve(model, out=tmp_path, options=options())
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
