"""A disk that is full, fails or goes away, and a process that dies, at every change of a run's folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_support import Alone, Case, Ended, Nursery, differences, unreadable
from disk import CHANGES, changes

SAID = {
    "full": "No space left on device",
    "error": "Input/output error",
    "lost": "Input/output error",
}
SHORT = {"generations": 2, "more": ("--epochs", "1", "--recovery-epochs", "1")}


@pytest.fixture(scope="module")
def short(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> tuple[Alone, list[tuple[str, ...]]]:
    """A shorter run, and every change that it makes."""
    folder = tmp_path_factory.mktemp("short")
    case = Case.written(folder / "case", **SHORT)
    watched = {"folder": str(folder / "run"), "trace": str(folder / "trace")}
    ended = nursery.run(case.words(folder / "run"), folder / "log", disk=watched)
    assert ended.code == 0, ended.said
    return Alone(case, folder / "run", ended), changes(folder / "trace")


def assert_told(ended: Ended, reason: str, run: Path) -> None:
    """One clear error, and how to go on."""
    assert ended.code == 1, ended.said
    told = [line for line in ended.said.splitlines() if line.startswith("evonnx: ")]
    assert len(told) == 1, ended.said
    assert reason in told[0]
    assert "Traceback" not in ended.said
    assert "bug in evonnx" not in ended.said
    if (run / "run.json").exists():
        assert "Continue with: evonnx evolve " in told[0]
        assert told[0].endswith("--resume")


def disturbed(alone: Alone, nursery: Nursery, run: Path, kind: str, at: int) -> None:
    """One run that meets the fault and is resumed."""
    case, log = alone.case, run.with_suffix(".log")
    ended = nursery.run(case.words(run), log, disk={"folder": str(run), "kind": kind, "at": at})
    if kind in SAID:
        assert_told(ended, SAID[kind], run)
    else:
        assert ended.killed, ended.said
    assert unreadable(run) == []
    again = nursery.run(case.words(run, run.is_dir()), log)
    assert again.code == 0, again.said
    assert differences(alone.run, run) == []


def faults(count: int) -> Iterator[tuple[str, int]]:
    """A full disk and an error at every change; what goes the same way less often."""
    for at in range(1, count + 1):
        yield from (("full", at), ("error", at))
        if at % 3 == 0:
            yield "kill before", at
        if at % 8 == 1:
            yield from (("lost", at), ("kill after", at))


def test_a_few_changes_fail(
    short: tuple[Alone, list[tuple[str, ...]]], nursery: Nursery, tmp_path: Path
) -> None:
    alone, made = short
    every = list(faults(len(made)))
    assert len(made) > 60
    for kind, at in every[7 :: len(every) // 7]:
        disturbed(alone, nursery, tmp_path / f"{kind} {at}", kind, at)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_change_fails(
    short: tuple[Alone, list[tuple[str, ...]]],
    nursery: Nursery,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone, made = short
    every = list(faults(len(made)))
    for kind, at in every:
        try:
            disturbed(alone, nursery, tmp_path / f"{kind} {at}", kind, at)
        except AssertionError as error:
            raise AssertionError(f"{kind} at {at}, {made[at - 1]}: {error}") from error
    kinds = {what: sum(change[0] == what for change in made) for what in CHANGES}
    with capsys.disabled():
        print(f"\n{len(every)} faults at {len(made)} changes ({kinds})")


def test_everything_is_flushed_before_it_is_renamed(short: tuple[Alone, list[tuple[str, ...]]]) -> None:
    """What a power loss leaves: nothing is renamed whose content might not be on the disk, and whatever is
    put into the run's folder is flushed there before anything else is done."""
    alone, made = short
    run = str(alone.run)
    dirty: dict[str, bool] = {}
    renamed = 0
    for number, (what, path, *other) in enumerate(made):
        parent = os.path.dirname(path)  # noqa: PTH120
        if what in ("open", "write"):
            dirty[path] = True
        elif what == "fsync":
            dirty[path] = False
        if what in ("open", "mkdir"):
            dirty[parent] = True
        if what != "rename":
            continue
        renamed += 1
        target = other[0]
        inside = [one for one in dirty if one == path or one.startswith(path + os.sep)]
        assert not [one for one in inside if dirty[one]], f"{path} was renamed before it was on the disk"
        for one in inside:
            dirty[target + one[len(path) :]] = dirty.pop(one)
        dirty[os.path.dirname(target)] = True  # noqa: PTH120
        if os.path.dirname(target) == run:  # noqa: PTH120
            assert made[number + 1][:2] == ("fsync", run), f"{target} was not flushed into its folder"
    assert renamed > 20


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, in memory."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "evonnx-test", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_small_file_system_is_full_again_and_again(
    tmpfs: Path, short: tuple[Alone, list[tuple[str, ...]]], nursery: Nursery, tmp_path: Path
) -> None:
    alone, _ = short
    run, full = tmpfs / "run", 0
    for size in range(16, 400, 12):
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(tmpfs)], check=True)
        ended = nursery.run(alone.case.words(run, run.is_dir()), tmp_path / "log")
        if ended.code == 0:
            break
        full += 1
        assert_told(ended, SAID["full"], run)
        assert unreadable(run) == []
    assert ended.code == 0, ended.said
    assert full >= 3
    assert differences(alone.run, run) == []
