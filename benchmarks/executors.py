"""Throughput against workers: a generation's wall time where training is simulated by sleep.

    python benchmarks/executors.py [--offspring 8] [--seconds 8] [--local 1,2,4,8] [--ray 2,4]

Each run makes two generations of a tiny classifier; the training of every offspring sleeps so long (and then
trains the last layer for an epoch). Real trainings use cores, of which a laptop has few; sleeping ones show
what executors themselves cost: the first generation with starting the workers, the second without. What
selection takes to time the equally fit is left out: it is the same everywhere. Prints a table for README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evonnx.adapter import RetrainRequest, RetrainResult
from evonnx.evolution import EvolveOptions, Observer, Pressure, Retraining, Selection, evolve
from evonnx.testing import ToyAdapter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


class Sleeper(ToyAdapter):
    """Its training takes `seconds=S` longer, and no processor."""

    def retrain(self, request: RetrainRequest) -> RetrainResult:
        time.sleep(float(request.options["seconds"]))
        return super().retrain(request)


class Clock(Observer):
    """Wall seconds of each generation, without selection's measurements."""

    def __init__(self) -> None:
        self.began: dict[int, float] = {}
        self.seconds: list[float] = []

    def stage(self, generation: int, text: str) -> None:
        self.began.setdefault(generation, time.perf_counter())

    def generation_done(self, row: Mapping[str, Any]) -> None:
        whole = time.perf_counter() - self.began[row["generation"]]
        self.seconds.append(whole - row["stage_seconds"]["select"])


def generations(
    model: Path, out: Path, offspring: int, seconds: float, executor: str | None, workers: int | None
) -> list[float]:
    """Wall seconds of two generations."""
    clock = Clock()
    options = EvolveOptions(
        generations=2,
        max_drop=1.0,
        threads=1,
        pressure=Pressure(align=1),
        selection=Selection(screen=offspring, offspring=offspring),
        retraining=Retraining(
            adapter=f"{Path(__file__).resolve()}:Sleeper",
            adapter_options={"seconds": str(seconds)},
            epochs=1,
            recovery_epochs=0,
        ),
    )
    evolve(model, out=out, options=options, observer=clock, executor=executor, workers=workers)
    return clock.seconds


def main() -> None:
    from evolution_support import write_case

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--offspring", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--local", default="1,2,4,8")
    parser.add_argument("--ray", default="2,4")
    asked = parser.parse_args()
    cases: list[tuple[str | None, int | None]] = [(None, None)]
    for name in ("local", "ray"):
        cases += [(name, int(count)) for count in getattr(asked, name).split(",") if count]
    print(
        f"{asked.offspring} offspring whose training sleeps {asked.seconds:g} s, as many samples screened; "
        f"{os.cpu_count()} cores; load average before: {', '.join(f'{one:.1f}' for one in os.getloadavg())}\n"
    )
    print("| executor | workers | first generation, s | second, s | offspring per minute | of the ideal |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        model = write_case(Path(folder) / "case")
        for executor, workers in cases:
            out = Path(folder) / f"{executor}-{workers}"
            first, second = generations(model, out, asked.offspring, asked.seconds, executor, workers)
            ideal = -(-asked.offspring // (workers or 1)) * asked.seconds
            print(
                f"| {executor or 'in this process'} | {workers or ''} | {first:.1f} | {second:.1f} "
                f"| {60 * asked.offspring / second:.1f} | {ideal / second:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
