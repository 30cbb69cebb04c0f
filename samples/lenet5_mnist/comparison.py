"""Run variants of `evonnx evolve` with several seeds, and print what came of them as a Markdown table.

Every command is printed, may be interrupted and goes on where it stopped. A line of the table is a variant:
mean and standard deviation over seeds, of accuracy on test data too, by which nothing is chosen.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

Run = dict[str, Any]
"""A run's record, run.json."""


class Variant(Protocol):
    """One row of the table."""

    @property
    def name(self) -> str:
        """Of the row, and with a seed of the run's folder."""

    def command(self, model: Path, out: Path, seed: int) -> list[str]:
        """The arguments of evonnx."""


Cell = Callable[[Any, list[Run]], str]
"""What stands in a column, of a variant and its runs."""


def mean(values: Sequence[float], digits: int) -> str:
    """With the standard deviation, if there are several; a dash where there are none."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}" if values else "-"


OUTCOME: Mapping[str, Cell] = {
    "A-E": lambda _, runs: mean([run["best"]["architectural_efficiency"] for run in runs], 1),
    "C-E": lambda _, runs: mean([run["best"]["cluster_efficiency"] or 0 for run in runs], 1),
    "fewer parameters": lambda _, runs: mean(
        [run["ancestor"]["parameters"] / run["best"]["parameters"] for run in runs], 1
    ),
    "validation %": lambda _, runs: mean([100 * run["best"]["score_validation"] for run in runs], 2),
    "test %": lambda _, runs: mean([100 * run["best"]["score"] for run in runs], 2),
    "seeds": lambda _, runs: str(len(runs)),
}
"""The last columns of every table."""


def main(doc: str | None, out: Path, variants: Sequence[Variant], cells: Mapping[str, Cell]) -> None:
    """The command line.

    Args:
        doc: help.
        out: default folder of the runs.
        variants: to choose among.
        cells: columns of the table before those of the outcome.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/lenet5_mnist/lenet5.onnx"))
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--only", nargs="+", help="names of variants, or beginnings of them")
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        chosen = [
            (variant, seed)
            for seed in arguments.seeds
            for variant in variants
            if arguments.only is None or variant.name.startswith(tuple(arguments.only))
        ]
        arguments.out.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(lambda one: _perform(arguments.model, arguments.out, *one), chosen))
    print(table(arguments.out, arguments.seeds, variants, cells))


def table(out: Path, seeds: Sequence[int], variants: Sequence[Variant], cells: Mapping[str, Cell]) -> str:
    """What is there, in Markdown; arguments as for `main`."""
    columns = {**cells, **OUTCOME}
    lines = [f"| {' | '.join(('variant', *columns))} |", f"|---|{'---:|' * len(columns)}"]
    for variant in variants:
        found = [_record(folder(out, variant, seed)) for seed in seeds]
        runs = [one for one in found if one is not None]
        if runs:
            row = [variant.name, *(cell(variant, runs) for cell in columns.values())]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def folder(out: Path, variant: Variant, seed: int) -> Path:
    """Where a run is."""
    kept = "".join(letter if letter.isalnum() or letter == "." else "-" for letter in variant.name)
    return out / f"{kept}-{seed}"


def _record(run: Path) -> Run | None:
    """A finished run's record."""
    file = run / "run.json"
    if not file.is_file():
        return None
    found: Run = json.loads(file.read_text(encoding="utf-8"))
    return found if "bench" in found else None


def _perform(model: Path, out: Path, variant: Variant, seed: int) -> None:
    """Run one variant with one seed, unless that was done before."""
    run = folder(out, variant, seed)
    if _record(run) is not None:
        return
    arguments = variant.command(model, run, seed) + (["--resume"] if run.exists() else [])
    print("evonnx", shlex.join(arguments), flush=True)
    done = subprocess.run([sys.executable, "-m", "evonnx", *arguments], capture_output=True, text=True)
    if done.returncode:
        print(f"failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
