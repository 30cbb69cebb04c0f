"""Runs of one command with different seeds, in one table: `python samples/summary.py RUN_DIR ...`."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any


def row(run: dict[str, Any]) -> dict[str, float]:
    """What is compared."""
    best, ancestor = run["best"], run["ancestor"]
    timed = {entry["index"]: entry for entry in run["bench"]["latencies"]}
    return {
        "A-E": best["architectural_efficiency"],
        "C-E": best["cluster_efficiency"],
        "fewer parameters": ancestor["parameters"] / best["parameters"],
        "fewer MACs": ancestor["macs"] / best["macs"],
        "fewer bytes": ancestor["bytes"] / best["bytes"],
        "speed-up": timed[max(timed)]["ratio"],
        "validation %": 100 * best["score_validation"],
        "test %": 100 * best["score"],
        "ancestor %": 100 * ancestor["score"],
        "epochs": sum(len(one["training"]["history"]) for one in (*run["generations"], best)),
        "minutes": (sum(one["retrain_seconds"] for one in run["generations"]) + best["recovery_seconds"])
        / 60,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row per run, then their mean."""
    rows = [(str(run["seed"]), row(run)) for run in runs]
    names = list(rows[0][1])
    if len(rows) > 1:
        rows.append(("mean", {name: statistics.fmean(values[name] for _, values in rows) for name in names}))
    lines = [f"| seed | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    lines += [f"| {seed} | {' | '.join(f'{values[name]:.2f}' for name in names)} |" for seed, values in rows]
    return "\n".join(lines)


def main() -> None:
    runs = [json.loads((Path(folder) / "run.json").read_text(encoding="utf-8")) for folder in sys.argv[1:]]
    if not runs:
        raise SystemExit(__doc__)
    print(table(runs))


if __name__ == "__main__":
    main()
