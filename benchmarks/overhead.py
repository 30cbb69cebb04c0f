"""The tool's own cost of a generation, stage by stage: everything but retraining and evaluation.

    python benchmarks/overhead.py MODEL ... [--keep 0.7] [--epochs 1] [--screen 8] [--threads N]
    python benchmarks/overhead.py RUN_DIR ...

A model is an ONNX file or whatever benchmarks/removal.py takes, such as resnet50 (random weights). It is
evolved for one generation in a temporary folder, with the task file beside it or without data; of a run
directory, every generation that was timed by stage counts. Prints seconds per stage (median over
generations), their sum, and its share of a whole generation. Meant for an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from removal import exported

STAGES = ("load", "analyse", "encode", "sample", "screen", "mask", "compact", "prove", "save", "other")


def generations(run: Path) -> list[dict[str, Any]]:
    """Rows of a run that say how long each stage took."""
    rows = json.loads((run / "run.json").read_text(encoding="utf-8"))["generations"]
    return [row for row in rows if "stage_seconds" in row]


def evolve(model: Path, out: Path, arguments: argparse.Namespace) -> None:
    """One generation of a model."""
    command = [sys.executable, "-m", "evonnx", "evolve", str(model), "--out", str(out), "--gens", "1"]
    command += ["--keep", str(arguments.keep), "--epochs", str(arguments.epochs), "--recovery-epochs", "0"]
    command += ["--screen", str(arguments.screen), "--best-effort", "--max-drop", "1"]
    if arguments.threads:
        command += ["--threads", str(arguments.threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{model}: {done.stderr.strip().splitlines()[-1]}")


def row(name: str, rows: list[dict[str, Any]]) -> str:
    """A line of the table: medians over generations, in seconds, and the share of the whole."""
    stages = [statistics.median(one["stage_seconds"].get(stage, 0.0) for one in rows) for stage in STAGES]
    whole = [one["overhead_seconds"] + one["retrain_seconds"] + one["evaluate_seconds"] for one in rows]
    share = statistics.median(one["overhead_seconds"] / total for one, total in zip(rows, whole, strict=True))
    own = statistics.median(one["overhead_seconds"] for one in rows)
    cells = [name, *(f"{seconds:.2f}" for seconds in stages), f"{own:.2f}", f"{share:.1%}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL or RUN_DIR")
    parser.add_argument("--keep", type=float, default=0.7)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--screen", type=int, default=8)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    print(f"| model | {' | '.join(STAGES)} | own cost, s | share |")
    print(f"|---|{'---:|' * (len(STAGES) + 2)}")
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(name)
            if not run.is_dir():
                model = run if run.exists() else exported(name, Path(folder), dynamo=False)
                run = Path(folder) / "run"
                evolve(model, run, arguments)
            rows = generations(run)
        print(row(name, rows) if rows else f"{name} has no generation that was timed by stage.", flush=True)


if __name__ == "__main__":
    main()
