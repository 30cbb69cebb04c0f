"""Two trainings at once on one machine: do their threads spin against each other?

    python benchmarks/side_by_side.py [NETWORK ...] [--threads N] [--seconds 5] [--rounds 3] [--out FILE.md]

Each training is a process that takes the torch adapter's steps with as many threads as the machine has cores.
Steps per second alone, and of two at once together, under OpenMP's own waiting policy (threads without work
spin), and under the one that the adapter asks for where the user has not (they sleep: OMP_WAIT_POLICY =
PASSIVE). Two at once cannot do more than one alone if the machine is full, and should not do much less.
Settings take turns, so that a busy machine hits all alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from evonnx.sessions import default_threads

POLICIES = ("ACTIVE", "undefined", "PASSIVE")


def work(network: str, threads: int, seconds: float) -> None:
    """Prepare, wait to be told, take steps for so long, print how many per second."""
    import torch
    from torch_step import CASES
    from training_networks import awake, exported
    from training_steps import Bytes, adapter_step

    from evonnx.adapter import TrainingBudget
    from evonnx.onnx_io import save_model
    from evonnx_torch.runtime import deterministic, roomy_heap

    case = CASES[network]
    budget = TrainingBudget(epochs=1, batch_size=case.batch, threads=threads, distill=0.0)
    with (
        tempfile.TemporaryDirectory() as folder,
        roomy_heap(),
        deterministic(0, threads, torch.device("cpu")),
    ):
        path = Path(folder) / "network.onnx"
        save_model(exported(awake(case.build()), case.shape), path)
        step = adapter_step(
            path, Bytes(case.batch, case.shape), budget, {"renormalize": "off"}, fetched=False
        )
        for _ in range(3):
            step()
        print("ready", flush=True)
        sys.stdin.readline()
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            step()
            count += 1
        print(count / (time.perf_counter() - start), flush=True)


def run(network: str, policy: str, count: int, given: argparse.Namespace) -> float:
    """Steps per second of all of `count` trainings together."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    if policy != "undefined":
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, __file__, network, "--worker"]
    command += ["--threads", str(given.threads), "--seconds", str(given.seconds)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(count)
    ]
    for worker in workers:
        assert worker.stdout is not None
        if worker.stdout.readline().strip() != "ready":
            sys.exit(f"a training of {network} did not start")
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return sum(float(worker.communicate()[0]) for worker in workers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=["lenet5"], metavar="NETWORK")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the table into this Markdown file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.networks[0], given.threads, given.seconds)
        return
    from provenance import provenance, replace_section

    lines = [
        "| network | threads | OMP_WAIT_POLICY | one alone, steps/s | two at once, sum | two / one |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for network in given.networks:
        rates = defaultdict(list)
        for _ in range(given.rounds):
            for policy in POLICIES:
                for count in (1, 2):
                    rates[policy, count].append(run(network, policy, count, given))
        for policy in POLICIES:
            alone, both = (statistics.median(rates[policy, count]) for count in (1, 2))
            lines.append(
                f"| {network} | {given.threads} | {policy} | {alone:.2f} | {both:.2f} | {both / alone:.2f} |"
            )
    text = "\n".join([*lines, "", provenance()])
    print(text)
    if given.out is not None:
        replace_section(given.out, "side-by-side", text)


if __name__ == "__main__":
    main()
