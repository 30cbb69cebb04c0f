"""`evonnx synthesize`: one offspring, not retrained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from evonnx.cli._common import (
    Debug,
    InputShapes,
    Json,
    Model,
    Output,
    Provider,
    Seed,
    TimedOn,
    alignment,
    command,
    console,
    emit,
    input_shapes,
    not_the_same,
    say,
)
from evonnx.cli.evolve import Granularity, Levels, parse_budget
from evonnx.text import plain

if TYPE_CHECKING:
    from evonnx.report.table import Table
    from evonnx.resources import Resources
    from evonnx.synthesis import Sample, Solution

_SECONDS = 3.0
"""What timing the probes of --align auto may take, beside making them."""


@command
def synthesize(
    model: Model,
    output: Output,
    keep: Annotated[float, typer.Option(min=0.001, max=1, help="At most this share of the synapses.")] = 0.8,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SHARE",
            help="At most this share of the synapses, macs, bytes or latency, such as macs=0.5, in place of "
            "--keep; may be given for several.",
            show_default=False,
        ),
    ] = None,
    best_effort: Annotated[bool, typer.Option("--best-effort", help="Go as low as possible.")] = False,
    levels: Annotated[
        Levels | None, typer.Option(help="Factors of eq. 1 that act.", show_default="the encoding's")
    ] = None,
    cluster_share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Clusters' part of the pressure.", show_default="the encoding's"),
    ] = None,
    clusters: Annotated[
        Granularity | None, typer.Option(help="What a cluster is.", show_default="the encoding's")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Genetic encoding; see `evonnx plugins`.")] = "adaptive",
    align: Annotated[
        str, typer.Option(help="Let channels live in multiples of this number; auto: measured.")
    ] = "auto",
    stats: Annotated[
        bool,
        typer.Option("--stats", help="Show what is left of every layer, and what `compact` would remove."),
    ] = False,
    input_shape: InputShapes = None,
    provider: TimedOn = Provider.AUTO,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Sample one offspring of MODEL.

    Written is the masked offspring: the same graph with dead synapses set to zero, not retrained. Where
    clusters are channels, equally many live per group or head, and in multiples that run fast.

    \b
    Examples:
      evonnx synthesize model.onnx -o masked.onnx --keep 0.66 --seed 3
      evonnx synthesize model.onnx -o masked.onnx --levels clusters --clusters channel --align 8
      evonnx synthesize model.onnx -o masked.onnx --encoding cluster-driven --clusters kernel --stats
      evonnx compact masked.onnx -o compact.onnx
    """
    import numpy as np

    from evonnx.alignment import measure_alignment
    from evonnx.clusters import find_clusters
    from evonnx.compaction import plan_compaction
    from evonnx.dependency import analyse
    from evonnx.environment import prices_of
    from evonnx.evolution import Pressure
    from evonnx.evolution.beginning import encoding_of
    from evonnx.evolution.budgeting import budgeting_of, check_factors, factors_of
    from evonnx.genome import encode
    from evonnx.latency import Setting, corrected, find_correction, measure_latency, measured_share
    from evonnx.masking import apply_masks
    from evonnx.network import load_network, network_of
    from evonnx.report.table import show
    from evonnx.resources import count
    from evonnx.sessions import working_providers
    from evonnx.steps import write_checked
    from evonnx.synthesis import rounds, sample, solve
    from evonnx.trial import require_end

    not_the_same(model, output)
    providers = working_providers(provider.value)
    multiple = alignment(align)
    pressure = Pressure(
        keep=keep,
        budget=parse_budget(budget),
        levels=levels,
        cluster_share=cluster_share,
        clusters=clusters,
        encoding=encoding,
    )
    genes, factors = encoding_of(pressure), factors_of(pressure)
    network = load_network(model, input_shapes(input_shape))
    require_end(network)
    check_factors(factors, genes, network)
    coupling = analyse(network)
    choice: dict[str, Any] = {"align": multiple or 1}
    if multiple is None and rounds(genes):
        say("measuring channel alignments")
        choice = measure_alignment(network, coupling, genes, 1, seconds=_SECONDS, providers=providers)
    if "latency" in factors:
        say("measuring what layers cost")
        choice["latency"] = measure_latency(network, coupling, genes, choice["align"], 1, providers=providers)
    bounds = budgeting_of(pressure, 1, network, factors, choice.get("latency")).bounds(network, 1)
    prices = prices_of(network, bounds)
    genome = encode(network, find_clusters(network, coupling, genes.granularity), genes, prices=prices)
    solution = solve(
        network,
        coupling,
        genome,
        bounds[0],
        also=bounds[1:],
        best_effort=best_effort,
        align=choice["align"],
    )

    def drawn(one: Solution) -> Sample:
        return sample(one, np.random.default_rng(seed))

    setting = Setting(network, 1, providers)
    if "latency" in factors:
        say("measuring pilots")
        milliseconds = choice["latency"]["ancestor_ms"]
        solution = corrected(solution, find_correction(solution, drawn, setting, milliseconds))
    offspring = drawn(solution)
    if "latency" in factors:
        share, _ = measured_share(solution, offspring, setting)
        choice["latency"]["measured_share"] = share
        say(f"measured: {share:.1%} of the time of {plain(model)}, when made compact")
    masked = apply_masks(network, coupling, offspring.masks)
    write_checked(masked, output, model)
    child = network_of(masked, output, network.input_shapes)
    removable = plan_compaction(child, analyse(child)).describe().splitlines()
    document = {
        "model": model,
        "output": output,
        "seed": seed,
        "budget": solution.budget.share,
        "budget_factor": solution.factor.name,
        "expected": offspring.expected_share,
        "achieved": offspring.achieved_share,
        "budgets": [
            {"factor": bound.factor.name, "share": bound.budget.share, "achieved": share}
            for bound, share in zip(solution.bounds, offspring.achieved, strict=True)
        ],
        "notes": list(offspring.notes),
        "choices": choice,
        "alignment": reached.to_json() if (reached := offspring.alignment) else None,
        "removable": removable,
        **compare(count(network), count(child)),
    }
    if as_json:
        emit(document)
        return
    if stats:
        show(layers_table(document), console())
        for line in removable:
            print(plain(line))
    for note in [*offspring.notes, *([choice["note"]] if "note" in choice else [])]:
        say(note)
    if offspring.alignment is not None:
        print(plain(str(offspring.alignment)))
    amounts = "; ".join(
        f"{share:.2%} of {bound.factor.name}, the budget was {bound.budget.share:.2%}"
        for bound, share in zip(solution.bounds, offspring.achieved, strict=True)
    )
    print(
        f"{plain(output)}: {document['synapses']} of {document['synapses_parent']} synapses live ({amounts})"
    )


def compare(parent: Resources, offspring: Resources) -> dict[str, Any]:
    """What lives in the offspring beside its parent, in all and layer by layer."""
    now = {layer.name: layer for layer in offspring.layers}
    counts = ("synapses", "kernels", "filters")
    document: dict[str, Any] = {}
    for name in counts:
        document[name] = getattr(offspring, name)
        document[f"{name}_parent"] = getattr(parent, name)
    document["layers"] = [
        {
            "name": layer.name,
            "op_type": layer.op_type,
            **{name: getattr(now[layer.name], name) for name in counts},
            **{f"{name}_parent": getattr(layer, name) for name in counts},
        }
        for layer in parent.layers
    ]
    return document


def layers_table(document: dict[str, Any]) -> Table:
    """Survival layer by layer."""
    from evonnx.report.table import Table
    from evonnx.report.tables import part

    counts = ("synapses", "kernels", "filters")
    rows = [
        (
            layer["name"],
            layer["op_type"],
            *(part(layer[name], layer[f"{name}_parent"]) for name in counts),
        )
        for layer in [*document["layers"], {"name": "total", "op_type": "", **document}]
    ]
    return Table(
        f"What lives in {document['output']}",
        ("weight", "operator", *counts),
        tuple(rows),
        left=2,
        marked=(len(rows) - 1,),
    )
