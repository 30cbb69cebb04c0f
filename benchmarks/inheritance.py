"""What a synapse should inherit from several parents, and what their samples are worth before retraining.

    python benchmarks/inheritance.py [MODEL] [--target 0.005] [--seeds 0 1 2] [--samples 16] [--runs FOLDER]

MODEL with its task beside it, samples/digits/lenet5.onnx by default, is evolved over five generations from up
to three parents (runs that are there already are used). Then each generation's parents are mated again: the
fittest alone, and two and three parents by each rule (`evonnx.mating.Rule`), and samples of each are drawn
under the same bound and scored without retraining. The table has the mean score of the samples on validation
data, by generation, over seeds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from provenance import provenance

from evonnx.clusters import find_clusters
from evonnx.dependency import analyse
from evonnx.environment import Budget, SynapseBudget, prices_of
from evonnx.evaluation import evaluate
from evonnx.evolution import EvolveOptions, Pressure, Retraining, Selection, evolve
from evonnx.evolution.begetting import of_joint
from evonnx.evolution.beginning import encoding_of
from evonnx.evolution.breeding import parents_of
from evonnx.genome import Parent, encode
from evonnx.masking import apply_masks
from evonnx.mating import Lifted, Rule, join, lift, mate
from evonnx.network import Network, load_network
from evonnx.onnx_io import detach
from evonnx.run_store import RunStore
from evonnx.synthesis import sample, solve
from evonnx.task import Task
from evonnx.tasks import find_task

GENERATIONS = 5
DIGITS = Path(__file__).resolve().parent.parent / "samples" / "digits" / "lenet5.onnx"


def options(target: float, seed: int) -> EvolveOptions:
    """Of every run."""
    return EvolveOptions(
        generations=GENERATIONS,
        seed=seed,
        max_drop=1.0,
        threads=1,
        pressure=Pressure(budget={"synapses": target}, align=1, best_effort=True),
        selection=Selection(screen=8, offspring=3, parents=3),
        retraining=Retraining(epochs=1, recovery_epochs=0),
    )


def mean_score(
    network: Network, lines: Sequence[Network], asked: EvolveOptions, task: Task, samples: int
) -> float:
    """Mean validation score of samples of a network that several were joined in, as small as the fittest's.

    Args:
        network: the joint one; or the only parent.
        lines: its parents in its graph, the fittest first.
        asked: of the run.
        task: scores them.
        samples: how many.
    """
    encoding = encoding_of(asked.pressure)
    coupling = analyse(network)
    clusters = find_clusters(network, coupling, encoding.granularity)
    share = asked.pressure.budget["synapses"] ** (1 / asked.generations)
    bound = of_joint(Budget(share, SynapseBudget()), lines[0], network)
    prices = prices_of(network, [bound])
    genomes = [encode(one, clusters, encoding, prices=prices) for one in lines]
    genome = mate(Parent(network, clusters, prices=prices), genomes) if len(lines) > 1 else genomes[0]
    solution = solve(network, coupling, genome, bound, best_effort=True)
    scores = []
    for seed in range(samples):
        masks = sample(solution, np.random.default_rng(seed)).masks
        model = detach(apply_masks(network, coupling, masks))
        scores.append(evaluate(model, task, "validation", threads=1).value)
    return statistics.fmean(scores)


def scores_of(model: Path, run: Path, asked: EvolveOptions, samples: int) -> list[dict[str, float]]:
    """Per generation that left several parents, mean scores by "1", "2 dominant" ..."""
    ancestor = load_network(model)
    coupling = analyse(ancestor)
    task, _, _ = find_task(model, ancestor, None)
    store, found = RunStore(run), []
    for row in store.rows()[:-1]:
        files = parents_of(row, store.generation_folder(row["generation"]))
        parents = [lift(ancestor, coupling, load_network(one)) for one in files]
        lifted = [one for one in parents if isinstance(one, Lifted)]
        if len(lifted) < 3:
            continue
        alone = join(ancestor, lifted[:1])
        scores = {"1": mean_score(alone.network, alone.parents, asked, task, samples)}
        for number in (2, 3):
            for rule in get_args(Rule):
                joint = join(ancestor, lifted[:number], rule)
                scores[f"{number} {rule}"] = mean_score(joint.network, joint.parents, asked, task, samples)
        found.append({"generation": row["generation"] + 1, **scores})
    return found


def table(found: Sequence[dict[str, float]]) -> str:
    """Markdown: a line per generation, means over runs, in percent."""
    names = [name for name in found[0] if name != "generation"]
    lines = [f"| generation | {' | '.join(names)} | runs |", f"|---|{'---:|' * (len(names) + 1)}"]
    for generation in sorted({one["generation"] for one in found}):
        rows = [one for one in found if one["generation"] == generation]
        cells = [f"{100 * statistics.fmean(one[name] for one in rows):.2f}" for name in names]
        lines.append(f"| {generation:.0f} | {' | '.join(cells)} | {len(rows)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", default=DIGITS)
    parser.add_argument("--target", type=float, default=0.005, help="share of the synapses to end at")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--runs", type=Path, default=Path("runs/inheritance"))
    arguments = parser.parse_args()
    found = []
    for seed in arguments.seeds:
        asked, run = options(arguments.target, seed), arguments.runs / f"{arguments.target:g}-{seed}"
        evolve(arguments.model, out=run, options=asked, resume=(run / "run.json").exists())
        found += scores_of(arguments.model, run, asked, arguments.samples)
        print(table(found), flush=True)
    print(provenance())


if __name__ == "__main__":
    main()
