"""`evonnx inspect`: what a model consists of, what can be removed, and what cannot and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evonnx.cli._common import Debug, InputShapes, Json, Model, command, console, emit, input_shapes
from evonnx.text import plain

if TYPE_CHECKING:
    from evonnx.dependency import Coupling
    from evonnx.network import Network
    from evonnx.report.table import Table


@command
def inspect(
    model: Model,
    input_shape: InputShapes = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the layers of MODEL and what can be removed.

    Per layer: synapses, kernels, filters, multiply-accumulates, and how many channels are removable. The
    others are pinned; a second table says by which node and why.

    \b
    Examples:
      evonnx inspect model.onnx
      evonnx inspect detector.onnx --input-shape image=1,3,320,320
      evonnx inspect model.onnx --json
    """
    from evonnx.dependency import analyse
    from evonnx.network import load_network
    from evonnx.report.table import show

    network = load_network(model, input_shapes(input_shape))
    document = describe(network, analyse(network))
    if as_json:
        emit(document)
        return
    for table in tables_of(document):
        show(table, console())
    for note in document["notes"]:
        print(f"- {plain(note)}")


def describe(network: Network, coupling: Coupling) -> dict[str, Any]:
    """Everything that `inspect` shows, as one JSON-able document.

    "channels" counts channel clusters that a layer produces; "removable" those of them that nothing pins;
    "pinned" lists the others by node and reason.
    """
    import numpy as np

    from evonnx.resources import count

    resources = count(network, coupling)
    live = {layer.name: layer for layer in resources.layers}
    pinned = coupling.pinned()
    layers = []
    for name, weight in network.weights.items():
        classes = np.unique(coupling.weights[name].output)
        layer = live[name]
        layers.append(
            {
                "name": name,
                "nodes": [use.node_label for use in weight.uses],
                "op_type": weight.uses[0].op_type,
                "shape": list(weight.shape),
                "dtype": weight.dtype.name,
                "groups": weight.groups,
                "size": int(np.prod(weight.shape)),
                "synapses": layer.synapses,
                "kernels": layer.kernels,
                "filters": layer.filters,
                "macs": layer.macs,
                "channels": len(classes),
                "removable": int(np.count_nonzero(~pinned[classes])),
                "pinned": [
                    {"channels": held, "node": pin.node_label, "reason": pin.reason}
                    for pin in coupling.pins
                    if (held := int(np.isin(pin.classes, classes).sum()))
                ],
            }
        )
    return {
        "model": network.source,
        "inputs": [
            _value(value) for value in network.model.graph.inputs if value.name in network.input_shapes
        ],
        "outputs": [_value(value) for value in network.model.graph.outputs],
        "input_shapes": {name: list(shape) for name, shape in network.input_shapes.items()},
        "opset": network.model.opset_imports.get(""),
        "totals": {
            "synapses": resources.synapses,
            "kernels": resources.kernels,
            "filters": resources.filters,
            "parameters": resources.parameters,
            "macs": resources.macs,
            "bytes": resources.bytes,
            "channels": coupling.n_classes,
            "removable": int(np.count_nonzero(~pinned)),
        },
        "layers": layers,
        "equal_counts": [
            {"node": one.node_label, "groups": int(np.prod(one.classes.shape[:-1])), "reason": one.reason}
            for one in coupling.equal_counts
        ],
        "unprunable": [
            {"name": one.name, "node": one.node_label, "reason": one.reason} for one in network.unprunable
        ],
        "notes": list(network.notes),
    }


def _value(value: Any) -> dict[str, Any]:
    shape = (
        None if value.shape is None else [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    )
    return {
        "name": value.name,
        "dtype": value.dtype.name if value.dtype is not None else None,
        "shape": shape,
    }


def tables_of(document: Mapping[str, Any]) -> list[Table]:
    """Layers, what is pinned, and what is left alone."""
    from evonnx.report.table import Table
    from evonnx.report.tables import whole

    totals = document["totals"]
    shapes = ", ".join(f"{name} {shape}" for name, shape in document["input_shapes"].items())
    rows = [
        (
            layer["name"],
            layer["op_type"] + (f" / {layer['groups']}" if layer["groups"] > 1 else ""),
            "x".join(map(str, layer["shape"])),
            whole(layer["synapses"]),
            whole(layer["kernels"]) if layer["kernels"] else "-",
            whole(layer["filters"]),
            whole(layer["macs"]),
            f"{layer['removable']} of {layer['channels']}",
        )
        for layer in document["layers"]
    ]
    last = (
        "total",
        "",
        "",
        *(whole(totals[name]) for name in ("synapses", "kernels", "filters", "macs")),
        "",
    )
    tables = [
        Table(
            f"{document['model']}, opset {document['opset']}, input {shapes}",
            ("weight", "operator", "shape", "synapses", "kernels", "filters", "MACs", "removable"),
            (*rows, last),
            f"{whole(totals['parameters'])} parameters, {whole(totals['bytes'])} bytes; "
            f"{totals['removable']} of {totals['channels']} channels are removable. "
            "Counts are of weights that are not zero.",
            left=3,
            marked=(len(rows),),
        )
    ]
    held = [
        (layer["name"], str(pin["channels"]), pin["node"], pin["reason"])
        for layer in document["layers"]
        for pin in layer["pinned"]
    ]
    if held:
        tables.append(Table("Pinned", ("weight", "channels", "by", "reason"), tuple(held), left=4))
    together = [(one["node"], str(one["groups"]), one["reason"]) for one in document["equal_counts"]]
    if together:
        tables.append(Table("Kept equally many", ("node", "groups", "reason"), tuple(together), left=3))
    alone = [(one["name"], one["node"], one["reason"]) for one in document["unprunable"]]
    if alone:
        tables.append(Table("Left alone", ("weight", "node", "reason"), tuple(alone), left=3))
    return tables
