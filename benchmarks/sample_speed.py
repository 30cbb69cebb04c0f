"""Evolved, quantised, and both: real speed of the samples' published models beside their ancestors.

    python benchmarks/sample_speed.py [RUN_DIR ...] [--runs runs] [--batch 1,64] [--precision fp32,int8,fp16]
        [--provider cpu] [--threads N] [--out docs/speed.md]

A RUN_DIR has run.json, and best.onnx or generations; by default the results of seed 0 below samples/results.
The ancestor is the file under --runs with the hash that run.json names: samples/NAME/train.py, or `make
sample-...`, writes it there. Models of one ancestor are one `evonnx bench --json`: they take turns, and every
ratio is against the ancestor in the first precision.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from provenance import general, provenance, replace_section

from evonnx.run_store import BEST_FILE, COMPACT_FILE

ROOT = Path(__file__).resolve().parent.parent


def record_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return found


def published() -> list[Path]:
    """Results of seed 0: other seeds give models like them."""
    runs = sorted(file.parent for file in (ROOT / "samples" / "results").rglob("run.json"))
    return [run for run in runs if record_of(run)["seed"] == 0]


def model_of(run: Path) -> Path:
    """What the run ended with, or has come to."""
    best = run / BEST_FILE
    return best if best.exists() else sorted(run.glob(f"gen-*/{COMPACT_FILE}"))[-1]


def by_ancestor(runs: list[Path], ancestors: Path) -> dict[Path, list[Path]]:
    """Runs by their ancestor's file."""
    known = {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in ancestors.glob("*/*.onnx")}
    found = defaultdict(list)
    for run in runs:
        wanted = record_of(run)["configuration"]
        if wanted["model_sha256"] not in known:
            sys.exit(
                f"The ancestor of {run}, {wanted['model']} (sha256 {wanted['model_sha256'][:12]}...), is in "
                f"no folder of {ancestors}. The sample's train.py makes it; or name runs whose ancestor is "
                "there."
            )
        found[known[wanted["model_sha256"]]].append(run)
    return found


def label(run: Path) -> str:
    """Such as "lenet5_mnist/dense-0", or "gen-03 of NAME" where the run has no best model yet."""
    results = ROOT / "samples" / "results"
    name = str(run.resolve().relative_to(results)) if run.resolve().is_relative_to(results) else run.name
    model = model_of(run)
    return name if model.name == BEST_FILE else f"{model.parent.name} of {name}"


def measure(models: list[Path], given: argparse.Namespace) -> dict[str, Any]:
    """`evonnx bench --json`."""
    command = [sys.executable, "-m", "evonnx", "bench", *map(str, models), "--json"]
    for option in ("batch", "precision", "provider", "threads", "rounds"):
        value = getattr(given, option)
        command += [] if value is None else [f"--{option}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip() or f"{' '.join(command)} failed")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def rows_of(names: list[str], document: dict[str, Any]) -> list[str]:
    """A row per batch size and model, a cell per precision. Entries come precision by precision."""
    bytes_of = {one["index"]: one["bytes"] for one in document["models"]}
    cells: dict[tuple[int, int], list[str]] = defaultdict(list)
    for one in sorted(document["latencies"], key=lambda one: one["index"]):
        kilobytes = bytes_of[one["index"]] / 1e3
        cells[one["batch"], one["index"] % len(names)].append(
            f"{_short(one['median_ms'])} ms, {one['ratio']:.2f}x, {kilobytes:,.0f} kB"
        )
    return [
        f"| {names[index]} | {batch} | {' | '.join(found)} |"
        for (batch, index), found in sorted(cells.items())
    ]


def _short(number: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="*", type=Path, metavar="RUN_DIR")
    parser.add_argument("--also", nargs="*", default=[], type=Path, metavar="RUN_DIR", help="beside those")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder of the ancestors' folders")
    parser.add_argument("--batch", default="1,64")
    parser.add_argument("--precision", default="fp32,int8,fp16")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--out", type=Path, help="write the table into this Markdown file")
    given = parser.parse_args()
    precisions = given.precision.split(",")
    lines = [f"| model | batch | {' | '.join(precisions)} |", f"|---|---:|{'---:|' * len(precisions)}"]
    notes: list[str] = []
    for ancestor, runs in by_ancestor([*(given.results or published()), *given.also], given.runs).items():
        models = [ancestor, *map(model_of, runs)]
        document = measure(models, given)
        lines += rows_of([f"{ancestor.stem}, ancestor", *map(label, runs)], document)
        notes = general([*notes, *document["notes"]], models)
    text = "\n".join([*lines, "", provenance(), *notes])
    print(text)
    if given.out is not None:
        replace_section(given.out, f"samples-{given.provider}", text)


if __name__ == "__main__":
    main()
