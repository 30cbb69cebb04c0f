"""`evonnx inspect`: what a model consists of, what can be removed, and what cannot and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from evonnx.cli._common import Debug, InputShapes, Json, Model, command, console, emit, input_shapes
from evonnx.text import plain

if TYPE_CHECKING:
    from evonnx.dependency import Coupling
    from evonnx.dependency.removability import Amount, Removability
    from evonnx.network import Network


@command
def inspect(
    model: Model,
    input_shape: InputShapes = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every layer, group and pin, however many there are.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the layers of MODEL and what can be removed.

    Per layer: synapses, kernels, filters, multiply-accumulates, and how many channels are removable. Per
    group of coupled channels, which come and go together: what goes with it. Channels that cannot go are
    pinned; a table says by which node, why, and what it costs. What is alike is shown once; --all and --json
    show everything.

    \b
    Examples:
      evonnx inspect model.onnx
      evonnx inspect model.onnx --all
      evonnx inspect detector.onnx --input-shape image=1,3,320,320
      evonnx inspect model.onnx --json
    """
    from evonnx.dependency import analyse
    from evonnx.network import load_network
    from evonnx.report.inspection import inspection_tables
    from evonnx.report.table import show

    network = load_network(model, input_shapes(input_shape))
    document = describe(network, analyse(network))
    if as_json:
        emit(document)
        return
    for table in inspection_tables(document, everything=everything):
        show(table, console())
    for note in document["notes"]:
        print(f"- {plain(note)}")


def describe(network: Network, coupling: Coupling) -> dict[str, Any]:
    """Everything that `inspect` shows, as one JSON-able document.

    Of a layer, "channels" counts channel clusters that it produces; "removable" those of them that nothing
    pins; "pinned" lists the others by node and reason. "removable" of the model, "groups" and "pins" are what
    `dependency.removability` finds; the lists that end in "_alike" merge what differs in its nodes only.
    """
    import numpy as np

    from evonnx.dependency.liveness import close
    from evonnx.dependency.removability import removability
    from evonnx.masks import live_masks
    from evonnx.resources import count_masks

    masks = close(network, coupling, live_masks(network)).masks
    resources = count_masks(network, masks)
    found = removability(network, coupling, masks)
    pinned = coupling.pinned()
    classes = {name: np.unique(coupling.weights[name].output) for name in network.weights}
    held = _held_channels(coupling, list(classes.values()))
    layers = []
    for layer, by_pin in zip(resources.layers, held, strict=True):
        weight = network.weights[layer.name]
        layers.append(
            {
                "name": layer.name,
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
                "channels": len(classes[layer.name]),
                "removable": int(np.count_nonzero(~pinned[classes[layer.name]])),
                "pinned": [
                    {"channels": channels, "node": pin.node_label, "reason": pin.reason}
                    for pin, channels in zip(coupling.pins, by_pin, strict=True)
                    if channels
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
        "removable": {**_amount(found.removable), "halved": _amount(found.halved)},
        "layers": layers,
        **_groups(network, coupling, found),
        **_pins(found),
        "equal_counts": [
            {
                "node": one.node_label,
                "groups": int(np.prod(one.classes.shape[:-1])),
                "members": one.classes.shape[-1],
                "reason": one.reason,
            }
            for one in coupling.equal_counts
        ],
        "unprunable": [
            {
                "name": one.name,
                "node": one.node_label,
                "parameters": _size(network, one.name),
                "reason": one.reason,
            }
            for one in network.unprunable
        ],
        "notes": list(network.notes),
    }


def _amount(amount: Amount) -> dict[str, int | None]:
    return {"synapses": amount.synapses, "macs": amount.macs}


def _held_channels(coupling: Coupling, layers: list[Any]) -> list[list[int]]:
    """Per layer, given by its classes: how many of them each pin holds."""
    import numpy as np

    if not layers:
        return []
    joined = np.concatenate(layers)
    layer_of = np.repeat(np.arange(len(layers)), [len(classes) for classes in layers])
    columns = []
    for pin in coupling.pins:
        by_pin = np.zeros(coupling.n_classes, dtype=np.bool_)
        by_pin[pin.classes] = True
        columns.append(np.bincount(layer_of[by_pin[joined]], minlength=len(layers)))
    return [[int(column[number]) for column in columns] for number in range(len(layers))]


def _groups(network: Network, coupling: Coupling, found: Removability) -> dict[str, Any]:
    """ "groups" and "groups_alike"."""
    import numpy as np

    number_of = np.zeros(coupling.n_classes, dtype=np.int64)
    for number, classes in enumerate(found.groups):
        number_of[classes] = number
    layers: list[list[str]] = [[] for _ in found.groups]
    for name, weight in coupling.weights.items():
        if weight.output.size:
            layers[number_of[weight.output[0]]].append(name)
    groups = []
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, classes in enumerate(found.groups):
        removable = int(np.count_nonzero(~found.held[classes]))
        groups.append(
            {
                "layers": layers[number],
                "nodes": [use.node_label for name in layers[number] for use in network.weights[name].uses],
                "channels": len(classes),
                "removable": removable,
                **_amount(found.of_groups([number])),
            }
        )
        alike.setdefault((len(classes), removable, len(layers[number])), []).append(number)
    merged = [
        {**groups[ones[0]], "alike": len(ones), **_amount(found.of_groups(ones))} for ones in alike.values()
    ]
    return {"groups": groups, "groups_alike": merged}


def _pins(found: Removability) -> dict[str, Any]:
    """ "pins" and "pins_alike": reasons that differ in the tensor they name are alike."""
    import numpy as np

    from evonnx.dependency.removability import alike

    def entry(reason: str, ones: list[int]) -> dict[str, Any]:
        cost = found.of_pins(ones)
        return {
            "node": found.pins[ones[0]].node_label,
            "reason": found.pins[ones[0]].reason if len(ones) == 1 else reason,
            "channels": len(np.unique(np.concatenate([found.pins[one].classes for one in ones]))),
            "alone": _amount(cost.alone),
            "shared": _amount(cost.shared),
            "touched": _amount(cost.touched),
        }

    return {
        "pins": [entry(pin.reason, [number]) for number, pin in enumerate(found.pins)],
        "pins_alike": [
            {**entry(reason, ones), "nodes": len(ones)} for reason, ones in alike(found.pins).items()
        ],
    }


def _size(network: Network, name: str) -> int | None:
    """Elements of a constant; None for one of a subgraph."""
    from evonnx.errors import ModelError

    try:
        return int(network.array(name).size)
    except ModelError:
        return None


def _value(value: Any) -> dict[str, Any]:
    shape = (
        None if value.shape is None else [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    )
    return {
        "name": value.name,
        "dtype": value.dtype.name if value.dtype is not None else None,
        "shape": shape,
    }
