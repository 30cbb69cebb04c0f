"""Short runs that are killed, and what must be true of them afterwards."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from evolution_support import write_case

from evonnx.errors import RunError
from evonnx.report import read_run
from evonnx.run_store import RunStore, load_tensors, read_json

HERE = Path(__file__).parent
TOY = "evonnx.testing:ToyAdapter"
FILES = {"masked.onnx", "compact.onnx", "masks.safetensors", "lineage.safetensors", "metrics.json"}


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    seconds: float
    said: str
    """On both streams."""

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Nursery:
    """Runs the command line in forks of a process that has everything imported; use as a context manager."""

    def __init__(self, *preload: str) -> None:
        self.preload = preload

    def __enter__(self) -> Nursery:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "nursery.py"), *self.preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready\n"
        return self

    def __exit__(self, *exception: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def run(self, words: list[str], log: Path, **order: Any) -> Ended:
        """Run to the end, which may be one by force: `kill_after` seconds, or on a `disk` (see there)."""
        log.unlink(missing_ok=True)
        assert self.process.stdin is not None
        order |= {"words": words, "log": str(log), "folder": str(log.parent)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self._answer())
        return Ended(answer["code"], answer["seconds"], log.read_text() if log.exists() else "")


@dataclass(frozen=True)
class Case:
    """A model with its data, and what a run of it is asked for."""

    model: Path
    generations: int = 3
    adapter: str = TOY
    more: tuple[str, ...] = ("--epochs", "2", "--recovery-epochs", "1")

    @classmethod
    def written(cls, folder: Path, **changes: Any) -> Case:
        return cls(write_case(folder), **changes)

    def words(self, out: Path, resume: bool = False) -> list[str]:
        """Of the command line. With a target one generation is the best, whatever the clock says."""
        return [
            *("evolve", str(self.model), "--out", str(out), "--gens", str(self.generations)),
            *("--keep", "0.8", "--target", "0.4", "--max-drop", "1", "--align", "1", "--screen", "2"),
            *("--threads", "1", "--adapter", self.adapter, *self.more),
            *(["--resume"] if resume else []),
        ]


@dataclass(frozen=True)
class Alone:
    """A run that nobody disturbed."""

    case: Case
    run: Path
    ended: Ended


def timeless(document: Any) -> Any:
    """A document without what a clock says: seconds, and the final timing."""
    if isinstance(document, dict):
        return {
            key: timeless(value)
            for key, value in document.items()
            if not key.endswith("_seconds") and key != "bench"
        }
    return [timeless(one) for one in document] if isinstance(document, list) else document


def digests(folder: Path) -> dict[str, str]:
    """Of every file below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def complete(run: Path) -> dict[str, dict[str, str]]:
    """Digests of the complete generations, by name."""
    return {path.name: digests(path) for path in sorted(run.glob("gen-*"))}


def unreadable(run: Path) -> list[str]:
    """What cannot be read of a run that was killed; empty if all is well."""
    found: list[str] = []
    if not run.is_dir():
        return found
    try:
        for number, folder in enumerate(sorted(run.glob("gen-*")), 1):
            assert folder.name == f"gen-{number:02d}", folder
            row = read_json(folder / "metrics.json")
            assert row["generation"] == number
            siblings = [f"sibling-{place}" for place in range(1, len(row.get("siblings", ())) + 1)]
            assert {path.name for path in folder.iterdir()} == {*FILES, *siblings}, folder
            for home in (folder, *(folder / name for name in siblings)):
                for name in ("masked.onnx", "compact.onnx"):
                    onnx.checker.check_model(onnx.load(home / name), full_check=True)
                load_tensors(home / "masks.safetensors")
                load_tensors(home / "lineage.safetensors")
        if (run / "run.json").exists():
            record = RunStore(run).read_run()
            assert "configuration" in record
            if "ancestor" in record:
                read_run(record)
        else:
            assert not complete(run)
        if (run / "best.onnx").exists():
            onnx.checker.check_model(onnx.load(run / "best.onnx"), full_check=True)
    except (AssertionError, RunError, OSError, ValueError, onnx.checker.ValidationError) as error:
        found.append(f"{type(error).__name__}: {error}")
    return found


def differences(reference: Path, run: Path) -> list[str]:
    """What a finished run has that its reference has not, or otherwise."""
    binary = (".onnx", ".safetensors")
    one, other = (
        {name: digest for name, digest in digests(folder).items() if name.endswith(binary)}
        for folder in (reference, run)
    )
    found = [f"{name} differs" for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
    here, there = (timeless(read_json(folder / "run.json")) for folder in (reference, run))
    found += [f"run.json: {key}" for key in sorted({*here, *there}) if here.get(key) != there.get(key)]
    for folder in sorted(reference.glob("gen-*")):
        rows = [timeless(read_json(one / folder.name / "metrics.json")) for one in (reference, run)]
        found += [f"{folder.name}/metrics.json differs"] if rows[0] != rows[1] else []
    left = {path.name for path in run.iterdir()} ^ {path.name for path in reference.iterdir()}
    return found + [f"{name} is in one of them" for name in sorted(left)]


@dataclass
class Figures:
    """Of a campaign."""

    kills: int = 0
    runs: int = 0
    """Finished, and compared with the reference."""
    moments: Counter[str] = field(default_factory=Counter)
    """Of the kills: how far the run was."""
    lost: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """Runs that ended otherwise than well or by force."""

    def __str__(self) -> str:
        moments = ", ".join(f"{name}: {count}" for name, count in sorted(self.moments.items()))
        return (
            f"{self.kills} kills, {self.runs} finished runs: {len(self.lost)} lost generations, "
            f"{len(self.unreadable)} unreadable, {len(self.unequal)} unequal, {len(self.failed)} failed "
            f"({moments})"
        )

    @property
    def faults(self) -> list[str]:
        return [*self.lost, *self.unreadable, *self.unequal, *self.failed]


def moment(run: Path) -> str:
    """How far a run is."""
    if not (run / "run.json").exists():
        return "0 nothing yet"
    if (run / "best.onnx").exists():
        return "4 best.onnx there"
    if any(run.glob(".partial-best*")):
        return "3 in recovery"
    if any(run.glob(".partial-gen-*")):
        return "2 in a generation"
    return "1 between"


def campaign(
    nursery: Nursery, case: Case, reference: Path, seconds: float, kills: int, seed: int, folder: Path
) -> Figures:
    """Kill short runs at random moments until there were enough kills, and each until it finishes.

    Args:
        nursery: makes processes.
        case: what is run.
        reference: the run that was left alone.
        seconds: how long that took.
        kills: at least so many; one counts only where a process was there to be killed.
        seed: of the moments.
        folder: for the runs; empty.
    """
    rng, figures = np.random.default_rng(seed), Figures()
    while figures.kills < kills:
        run, known = folder / f"run-{figures.runs}", dict[str, dict[str, str]]()
        before = figures.kills
        while True:
            # Many of them early, where a resumed process gets ready; later and later, as machines get busier.
            late = seconds if rng.random() < 0.7 else seconds / 3
            after = float(rng.uniform(0, late)) * 1.1 ** (figures.kills - before)
            ended = nursery.run(case.words(run, run.is_dir()), folder / "log", kill_after=after)
            now = complete(run)
            figures.lost += [f"{run.name}: {name}" for name, files in known.items() if now.get(name) != files]
            known = now
            if not ended.killed:
                break
            figures.kills += 1
            figures.moments[moment(run)] += 1
            figures.unreadable += [f"{run.name}: {line}" for line in unreadable(run)]
        figures.runs += 1
        if ended.code != 0:
            figures.failed.append(f"{run.name}: code {ended.code}: {ended.said[-500:]}")
            continue
        figures.unequal += [f"{run.name}: {line}" for line in differences(reference, run)]
    return figures
