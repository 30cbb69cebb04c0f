"""The part of a run that the page's script draws from."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from evonnx.report.reading import Entry, Layer, Run
from evonnx.text import plain

MEASURES = ("synapses", "kernels", "filters", "channels")


def embedded(run: Run) -> dict[str, Any]:
    """Layers and figures of every model, numbers that are none left out.

    Returns:
        "measures": names of what layers are counted in; "layers": name, operator and the ancestor's counts,
        in that order; "entries": per model its label, generation, parents (positions), figures, "live"
        (layers x measures) and "latency" by batch size.
    """
    ancestor = run.entries[0]
    order = [layer.name for layer in ancestor.layers]
    position = {one.label: number for number, one in enumerate(run.entries)}
    document = {
        "metric": run.metric,
        "unit": run.unit,
        "measures": [name for name in MEASURES if any(_counted(layer, name) for layer in ancestor.layers)],
        "line": len(run.line),
        "batches": list(run.batches),
        "layers": [
            {
                "name": layer.name,
                "operator": layer.op_type,
                "whole": {name: getattr(layer, f"{name}_ancestor") for name in MEASURES},
            }
            for layer in ancestor.layers
        ],
        "entries": [
            {
                "label": one.label,
                "parents": [position[name] for name in one.parents if name in position],
                "synapses": one.synapses,
                "parameters": one.parameters,
                "macs": one.macs,
                "bytes": one.bytes,
                "score": run.score_with_unit(one.score),
                "live": _live(one, order),
                "latency": {str(batch): asdict(latency) for batch, latency in one.latency.items()},
            }
            for one in run.entries
        ],
    }
    cleaned: dict[str, Any] = _clean(document)
    return cleaned


def _counted(layer: Layer, measure: str) -> bool:
    return bool(getattr(layer, f"{measure}_ancestor"))


def _live(one: Entry, order: list[str]) -> list[dict[str, int | None]]:
    by_name = {layer.name: layer for layer in one.layers}
    return [
        {name: getattr(by_name[layer], name) if layer in by_name else 0 for name in MEASURES}
        for layer in order
    ]


def _clean(value: Any) -> Any:
    """Names without control characters; JSON has no word for infinity."""
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    if isinstance(value, str):
        return plain(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
