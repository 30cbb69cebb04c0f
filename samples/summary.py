"""Finished runs as Markdown tables.

python samples/summary.py RUN_DIR ...                   one row per run (seeds of one command), and their mean
python samples/summary.py --generations 3,6,9 RUN_DIR   the ancestor, some generations and the best of one run
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

Run = dict[str, Any]
"""What run.json holds."""


def figures(run: Run) -> dict[str, float]:
    """What is compared between runs."""
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


def compared(runs: list[Run]) -> str:
    """A row per run, then their mean."""
    rows = [(str(run["seed"]), figures(run)) for run in runs]
    names = list(rows[0][1])
    if len(rows) > 1:
        rows.append(("mean", {name: statistics.fmean(values[name] for _, values in rows) for name in names}))
    lines = [f"| seed | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    lines += [f"| {seed} | {' | '.join(f'{values[name]:.2f}' for name in names)} |" for seed, values in rows]
    return "\n".join(lines)


def generations(run: Run, chosen: list[int]) -> str:
    """The ancestor, chosen generations and best.onnx, with their latency at batch 1."""
    latencies = {entry["index"]: entry for entry in run["bench"]["latencies"]}
    by_number = {row["generation"]: (str(row["generation"]), row) for row in run["generations"]}
    rows = [
        ("ancestor", run["ancestor"], 0),
        *((*by_number[number], number) for number in chosen),
        ("**best.onnx**", run["best"], max(latencies)),
    ]
    titles = ("gen.", "synapses (A-E)", "test accuracy", "kernels (C-E)", "parameters", "MACs", "file")
    titles += ("latency", "speed-up")
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for name, row, index in rows:
        timed = latencies[index]
        cells = (
            name,
            f"{row['architectural_efficiency']:.2f}x",
            f"{100 * row['score']:.2f}%",
            f"{row['cluster_efficiency']:.2f}x",
            f"{row['parameters']:,}",
            f"{row['macs']:,}",
            f"{row['bytes'] / 1000:,.0f} kB",
            f"{1000 * timed['median_ms']:.0f} us",
            f"{timed['ratio']:.2f}x",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--generations", help="numbers, with commas between")
    given = parser.parse_args()
    runs = [json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in given.runs]
    if given.generations is None:
        print(compared(runs))
    else:
        print(generations(runs[0], [int(number) for number in given.generations.split(",")]))


if __name__ == "__main__":
    main()
