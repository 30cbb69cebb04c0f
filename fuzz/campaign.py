"""A fuzz campaign: mutated models, data and run directories, each through a command in a child with limits.

    python fuzz/campaign.py --minutes 60 --out fuzz-findings
    python fuzz/campaign.py --minutes 5 --targets report,resume --seed 7
    python fuzz/campaign.py --again fuzz-findings/crash-1b2c         one finding again, with its messages

Input n of a campaign depends on the seed, the target and n alone. No command may crash, hang for 30 s, show
a traceback, call itself buggy, take more than 2 GiB, write outside its folder or leave anything when it
refuses. Every finding that is new is kept in --out with its input. Exit code 1 if there are any. Linux only.
"""

from __future__ import annotations

import argparse
import atexit
import collections
import datetime
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # forked children have no threads but their own

import corpus  # noqa: E402
from sandbox import Limits, Outcome, run  # noqa: E402


@dataclass(frozen=True)
class Target:
    """One command and what it is given."""

    words: tuple[str, ...]
    prepare: Callable[[Path, random.Random], None]
    writes: tuple[str, ...] = ()
    """What the command may write when it succeeds; a name that ends in / also when it does not."""


def _model(dense: bool) -> Callable[[Path, random.Random], None]:
    return lambda folder, rng: (folder / "m.onnx").write_bytes(corpus.hostile_model(rng, dense)) and None


def _run(folder: Path, rng: random.Random) -> None:
    shutil.copytree(_finished_run(), folder, dirs_exist_ok=True)
    (folder / "outside").mkdir()
    corpus.damage_run(folder / "run", rng)


def _finished_run() -> Path:
    """Made once per campaign, in a child: the campaign itself makes no sessions."""
    made = Path(tempfile.gettempdir()) / f"evonnx-fuzz-run-{os.getpid()}"
    if not made.exists():
        pid = os.fork()
        if pid == 0:
            corpus.make_run(made)
            os._exit(0)
        os.waitpid(pid, 0)
        atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


_SAMPLE = ("--align", "1", "--best-effort", "--provider", "cpu")
TARGETS = {
    "inspect": Target(("inspect", "m.onnx", "--json"), _model(dense=True)),
    "tables": Target(("inspect", "m.onnx", "--all"), _model(dense=True)),
    "synthesize": Target(
        ("synthesize", "m.onnx", "-o", "o.onnx", *_SAMPLE), _model(dense=True), ("o.onnx", "o.onnx.data")
    ),
    "compact": Target(("compact", "m.onnx", "-o", "o.onnx"), _model(dense=False), ("o.onnx", "o.onnx.data")),
    "external": Target(
        ("synthesize", "model/m.onnx", "-o", "o.onnx", *_SAMPLE),
        corpus.write_external,
        ("o.onnx", "o.onnx.data"),
    ),
    "evaluate": Target(("evaluate", "m.onnx"), corpus.write_task),
    "report": Target(("report", "run"), _run, ("run/report.html", "run/report.md")),
    "resume": Target(tuple(corpus.resume_words()), _run, ("run/",)),
}
LARGE_INPUT = 1 << 20
"""Elements of a model's inputs from which the time of its runs is its own."""
SHARES = {
    "inspect": 5,
    "tables": 1,
    "synthesize": 5,
    "compact": 5,
    "external": 2,
    "evaluate": 3,
    "report": 3,
    "resume": 1,
}


def main() -> int:
    options = _options()
    _import_everything()
    if options.again:
        return _again(options.again, options.debug)
    names = options.targets.split(",") if options.targets else list(TARGETS)
    chosen = [name for name in names for _ in range(SHARES[name])]
    tried: collections.Counter[str] = collections.Counter()
    verdicts: collections.Counter[str] = collections.Counter()
    found: dict[str, str] = {}
    slowest, largest = (0.0, ""), (0, "")
    started = time.monotonic()
    number = options.first
    while time.monotonic() - started < options.minutes * 60 and (
        not options.inputs or sum(tried.values()) < options.inputs
    ):
        name = chosen[number % len(chosen)]
        with tempfile.TemporaryDirectory(prefix="evonnx-fuzz-") as place:
            folder = Path(place) / "case"
            outcome = _try(name, f"{options.seed}/{name}/{number}", folder)
            tried[name] += 1
            verdicts[outcome.verdict] += 1
            slowest = max(slowest, (outcome.seconds, f"{name} {number}"))
            largest = max(largest, (outcome.resident_bytes, f"{name} {number}"))
            if outcome.is_finding and outcome.signature not in found:
                found[outcome.signature] = f"{name} {number}"
                _keep(options.out, name, f"{options.seed}/{name}/{number}", folder, outcome)
                print(f"{name} {number}: {outcome.verdict}: {outcome.detail}", flush=True)
        number += 1
        if number % 500 == 0:
            print(f"{sum(tried.values())} inputs, {dict(verdicts)}", file=sys.stderr, flush=True)
    figures = {
        "date": f"{datetime.date.today()}",
        "seed": options.seed,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "inputs": sum(tried.values()),
        "by_target": dict(tried),
        "verdicts": dict(verdicts),
        "different_findings": len(found),
        "slowest": {"seconds": round(slowest[0], 1), "input": slowest[1]},
        "largest": {"mib": largest[0] >> 20, "input": largest[1]},
    }
    print(json.dumps(figures, indent=2))
    return 1 if found else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--inputs", type=int, help="stop after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--targets", help=",".join(TARGETS))
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--again", type=Path, help="folder of a finding")
    parser.add_argument("--debug", action="store_true", help="with --again: show the traceback")
    return parser.parse_args()


def _import_everything() -> None:
    """What commands import lazily, so that children have it; nothing here makes a session."""
    import importlib
    import pkgutil

    import onnx.reference
    import onnxruntime
    import PIL.Image
    import rich.console
    import typer.rich_utils

    import evonnx

    del onnx.reference, onnxruntime, PIL.Image, rich.console, typer.rich_utils
    for module in pkgutil.walk_packages(evonnx.__path__, "evonnx."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def _try(name: str, key: str, folder: Path) -> Outcome:
    target = TARGETS[name]
    folder.mkdir()
    target.prepare(folder, random.Random(key))
    outcome = run(folder, target.words, target.writes, Limits())
    if outcome.verdict == "hang" and corpus.declared_elements(folder / "m.onnx") > LARGE_INPUT:
        return replace(outcome, verdict="long")  # a sound model that was made for inputs of that size
    return outcome


def _keep(out: Path, name: str, key: str, folder: Path, outcome: Outcome) -> None:
    place = out / f"{outcome.verdict}-{hashlib.sha256(outcome.signature.encode()).hexdigest()[:6]}"
    if place.exists():
        return
    place.mkdir(parents=True)
    again = place / "case"
    again.mkdir()
    TARGETS[name].prepare(again, random.Random(key))
    about = {"target": name, "key": key, "verdict": outcome.verdict, "detail": outcome.detail}
    (place / "finding.json").write_text(json.dumps(about, indent=1))


def _again(place: Path, debug: bool) -> int:
    about = json.loads((place / "finding.json").read_text())
    target = TARGETS[about["target"]]
    with tempfile.TemporaryDirectory(prefix="evonnx-fuzz-") as scratch:
        folder = Path(scratch) / "case"
        shutil.copytree(place / "case", folder, symlinks=True)
        words: Sequence[str] = [*target.words, "--debug"] if debug else target.words
        if debug:
            import subprocess

            return subprocess.run(
                [sys.executable, "-m", "evonnx", *words], cwd=folder, timeout=120
            ).returncode
        outcome = run(folder, words, target.writes, Limits())
    print(f"{about['target']}: {outcome.verdict}: {outcome.detail} ({outcome.seconds:.1f} s)")
    return int(outcome.is_finding)


if __name__ == "__main__":
    sys.exit(main())
