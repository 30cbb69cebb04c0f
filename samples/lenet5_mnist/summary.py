"""Runs of one command with different seeds, in one table: `python summary.py RUN_DIR [RUN_DIR ...]`."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any


def row(run: dict[str, Any]) -> dict[str, float]:
    """What is compared."""
    last, best, ancestor = run["generations"][-1], run["best"], run["ancestor"]
    timed = {entry["index"]: entry for entry in run["bench"]["latencies"]}
    return {
        "generations": last["generation"],
        "A-E": best["architectural_efficiency"],
        "C-E": best["cluster_efficiency"],
        "test %": 100 * best["score"],
        "ancestor %": 100 * ancestor["score"],
        "fewer bytes": ancestor["bytes"] / best["bytes"],
        "fewer MACs": ancestor["macs"] / best["macs"],
        "speed-up": timed[max(timed)]["ratio"],
        "minutes": sum(one["retrain_seconds"] for one in run["generations"]) / 60
        + best["recovery_seconds"] / 60,
    }


def main() -> None:
    """Print a Markdown table with a row per run and their means."""
    runs = [json.loads((Path(folder) / "run.json").read_text(encoding="utf-8")) for folder in sys.argv[1:]]
    if not runs:
        raise SystemExit(__doc__)
    rows = [(str(run["seed"]), row(run)) for run in runs]
    names = list(rows[0][1])
    rows.append(("mean", {name: statistics.fmean(values[name] for _, values in rows) for name in names}))
    print(f"| seed | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
    for seed, values in rows:
        print(f"| {seed} | {' | '.join(f'{values[name]:.2f}' for name in names)} |")


if __name__ == "__main__":
    main()
