"""Sizes of a model as rows have them."""

from __future__ import annotations

from typing import Any

from evonnx.resources import Resources


def figures(resources: Resources, ancestor: Resources, file_bytes: int) -> dict[str, Any]:
    """Sizes of a model beside the ancestor's (design: section 2); efficiencies are ancestor's / model's."""
    by_name = {layer.name: layer for layer in resources.layers}
    layers: list[dict[str, Any]] = []
    for before in ancestor.layers:
        now = by_name.get(before.name)
        layers.append(
            {
                "name": before.name,
                "op_type": before.op_type,
                "synapses": now.synapses if now else 0,
                "synapses_ancestor": before.synapses,
                "kernels": now.kernels if now else 0,
                "kernels_ancestor": before.kernels,
                "filters": now.filters if now else 0,
                "filters_ancestor": before.filters,
                "channels": now.channels if now else 0,
                "channels_ancestor": before.channels,
            }
        )
    return {
        "synapses": resources.synapses,
        "synapses_ancestor": ancestor.synapses,
        "architectural_efficiency": ancestor.synapses / max(resources.synapses, 1),
        "kernels": resources.kernels,
        "kernels_ancestor": ancestor.kernels,
        "cluster_efficiency": ancestor.kernels / resources.kernels if resources.kernels else None,
        "filters": resources.filters,
        "filters_ancestor": ancestor.filters,
        "parameters": resources.parameters,
        "macs": resources.macs,
        "bytes": file_bytes,
        "layers": layers,
    }
