"""Training samples per second as a model shrinks: the ancestor and each generation's compact graph.

    python benchmarks/shrinking.py RUN_DIR --ancestor MODEL [--task FILE] [--batch 128] [--rounds 10]
        [--precision fp32 bf16] [--threads 1] [--teacher] [--cpu-time] [--out FILE.md]

A step is the torch adapter's own, on the task's training data: fetching and augmenting a batch, forward,
backward, optimizer. All models take steps in turns, in changing order, at one batch size and precision; the
last columns are medians over rounds of (the ancestor's time / the model's). With --teacher the ancestor's
forward pass is in it, as in a retraining's first epochs; without, its outputs count as known, as later.
--cpu-time counts the processor's time instead of the clock's: for busy machines, with one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from provenance import provenance, replace_section
from training_steps import PRECISIONS, adapter_step

from evonnx.adapter import TrainingBudget
from evonnx.network import load_network
from evonnx.resources import count
from evonnx.run_store import COMPACT_FILE
from evonnx.tasks import find_task
from evonnx_torch.runtime import deterministic, native_bfloat16, roomy_heap

WARM_UP = 2


def steps_of(models: list[Path], precision: str, given: argparse.Namespace) -> list[Callable[[], None]]:
    """The adapter's step for each model."""
    task, _, defaults = find_task(given.ancestor, load_network(given.ancestor), given.task)
    known = {name: value for name, value in defaults.items() if name in TrainingBudget.__dataclass_fields__}
    budget = replace(TrainingBudget(**known), epochs=1, batch_size=given.batch, threads=given.threads)
    teacher = given.ancestor if given.teacher else None
    return [
        adapter_step(model, task, budget, {"precision": PRECISIONS[precision]}, teacher) for model in models
    ]


def take_turns(
    steps: list[Callable[[], None]], rounds: int, clock: Callable[[], float]
) -> NDArray[np.float64]:
    """Seconds per step, shape (rounds, models)."""
    for step in steps * WARM_UP:
        step()
    order = np.random.default_rng(0)
    times = np.zeros((rounds, len(steps)))
    for row in times:
        for index in order.permutation(len(steps)):
            start = clock()
            steps[index]()
            row[index] = clock() - start
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    parser.add_argument("--ancestor", type=Path, required=True, metavar="MODEL")
    parser.add_argument("--task", type=Path, help="default: the file beside the ancestor")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--precision", nargs="+", choices=tuple(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--teacher", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--out", type=Path, help="write the table into this Markdown file")
    given = parser.parse_args()
    offspring = sorted(given.run.glob(f"gen-*/{COMPACT_FILE}"))
    if not offspring:
        parser.error(f"{given.run} has no gen-NN/{COMPACT_FILE}; name the directory of a run")
    if "bf16" in given.precision and not native_bfloat16():
        parser.error("this processor has no bfloat16 arithmetic; use --precision fp32")
    models = [given.ancestor, *offspring]
    counts = [count(load_network(model)) for model in models]
    lines = [["ancestor"], *([one.parent.name] for one in offspring)]
    for line, one in zip(lines, counts, strict=True):
        macs = one.macs or 0
        line += [f"{macs / 1e6:.1f}", f"{(counts[0].macs or 0) / max(macs, 1):.2f}x"]
    clock = time.process_time if given.cpu_time else time.perf_counter
    with roomy_heap(), deterministic(0, given.threads, torch.device("cpu")):
        for precision in given.precision:
            times = take_turns(steps_of(models, precision, given), given.rounds, clock)
            for index, line in enumerate(lines):
                rate = given.batch / np.median(times[:, index])
                line += [f"{rate:,.0f}", f"{np.median(times[:, 0] / times[:, index]):.2f}x"]
    heads = ["generation", "MMACs", "fewer"]
    for precision in given.precision:
        heads += [f"samples/s, {precision}", f"faster, {precision}"]
    table = [
        f"| {' | '.join(heads)} |",
        f"|---|{'---:|' * (len(heads) - 1)}",
        *(f"| {' | '.join(line)} |" for line in lines),
    ]
    text = "\n".join([*table, "", provenance()])
    print(text)
    if given.out is not None:
        replace_section(given.out, "shrinking", text)


if __name__ == "__main__":
    main()
