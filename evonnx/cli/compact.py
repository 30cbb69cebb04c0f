"""`evonnx compact`: physical removal of what is dead, with its proof."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from evonnx.cli._common import (
    Debug,
    InputShapes,
    Json,
    Output,
    Seed,
    command,
    console,
    emit,
    input_shapes,
    not_the_same,
    say,
)
from evonnx.text import plain


@command
def compact(
    masked: Annotated[
        str,
        typer.Argument(metavar="MASKED", help="An ONNX file with dead synapses at zero.", show_default=False),
    ],
    output: Output,
    align: Annotated[
        int, typer.Option(min=1, help="Keep dead channels so that counts are multiples of this number.")
    ] = 1,
    input_shape: InputShapes = None,
    seed: Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Remove dead channels from MASKED, proven.

    Works on any model with zeros in its weights, from evonnx or not. Masked and compact model are compared in
    onnxruntime, tensor by tensor; if they differ, or if the comparison could not tell, nothing is written.
    Here --align can only keep dead channels as padding, and says what that costs; `synthesize --align` lets
    others live instead.

    \b
    Examples:
      evonnx compact masked.onnx -o compact.onnx
      evonnx compact masked.onnx -o compact.onnx --align 8 --json
    """
    from dataclasses import asdict

    from evonnx.alignment import padding_cost
    from evonnx.compaction import price_padding
    from evonnx.dependency import analyse
    from evonnx.network import load_network
    from evonnx.onnx_io import drop_weights
    from evonnx.report.table import Table, show
    from evonnx.report.tables import times, whole
    from evonnx.resources import count
    from evonnx.steps import compact as remove
    from evonnx.steps import write_checked
    from evonnx.trial import require_end, require_repeatable

    not_the_same(masked, output)
    network = load_network(masked, input_shapes(input_shape))
    require_repeatable(network)
    require_end(network)
    say("removing and proving")
    removal = remove(network, align=align, seed=seed, scratch=Path(output).absolute().parent)
    write_checked(removal.compacted.model, output, masked)
    drop_weights(removal.compacted.model)  # the file has them
    compacted = load_network(output, network.input_shapes)
    before, after = count(network), count(compacted)
    coupling = analyse(network)
    padding = padding_cost(network, coupling, compacted, align) if align > 1 else None
    prices = price_padding(network, coupling, removal.plan)
    sizes: dict[str, tuple[Any, Any]] = {
        "parameters": (before.parameters, after.parameters),
        "macs": (before.macs, after.macs),
        "bytes": (before.bytes, after.bytes),
        "synapses": (before.synapses, after.synapses),
    }
    if as_json:
        emit(
            {
                "masked": masked,
                "output": output,
                "plan": removal.plan.describe().splitlines(),
                "padding": padding.to_json() if padding else None,
                "dead_channels_kept": [asdict(price) for price in prices],
                "proof": removal.proof.to_json(),
                **{name: {"masked": old, "compact": new} for name, (old, new) in sizes.items()},
            }
        )
        return
    rows = tuple(
        (name, whole(old), whole(new), times(old / new if old and new else None))
        for name, (old, new) in sizes.items()
    )
    for line in removal.plan.describe().splitlines():
        print(plain(line))
    show(Table(f"{masked} -> {output}", ("", "masked", "compact", "smaller"), rows), console())
    if prices:
        priced = tuple(
            (one.reason, whole(one.channels), whole(one.parameters), whole(one.macs)) for one in prices
        )
        note = "What lies between channels that stay for different reasons is counted under each."
        columns = ("because", "channels", "parameters", "MACs")
        show(Table("Dead channels that stay", columns, priced, note), console())
    if padding is not None:
        print(plain(f"{padding}."))
    print(plain(f"Proven equal: {removal.proof}"))
