"""Runs to make reports of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from report_support import RUN, poison


def whole_run() -> dict[str, Any]:
    """The golden run with everything that newer records have: channels, pins, siblings, reasons."""
    run = copy.deepcopy(RUN)
    for row in (run["ancestor"], *run["generations"], run["best"]):
        for layer in row["layers"]:
            layer |= {"channels": layer["filters"], "channels_ancestor": layer["filters_ancestor"]}
    run["generations"][2]["parents"] = [1, 2]
    run["generations"][2]["selection"] = {"reason": "the fastest of two that are equally fit"}
    run["ancestor"]["pinned"] = {
        "channels": 581,
        "removable": 570,
        "synapses": 430500,
        "synapses_removable": 429970,
        "pins": [
            {
                "node": "fc2",
                "nodes": 1,
                "reason": "graph output 'logits' keeps its shape",
                "channels": 10,
                "synapses": 5000,
            }
        ],
        "equal_counts": [],
        "left_alone": [{"node": "embed", "nodes": 1, "reason": "Gather of a table"}],
    }
    return run


def begun_run() -> dict[str, Any]:
    """Only the ancestor is there."""
    run = {key: value for key, value in whole_run().items() if key not in ("best", "bench")}
    return {**run, "generations": []}


def dead_layer_run() -> dict[str, Any]:
    """Nothing is left of the first layer, and nothing was timed."""
    run = {key: value for key, value in whole_run().items() if key not in ("best", "bench")}
    for name in ("synapses", "kernels", "filters", "channels"):
        run["generations"][2]["layers"][0][name] = 0
    return run


RUNS: dict[str, Callable[[], dict[str, Any]]] = {
    "whole": whole_run,
    "hostile": lambda: poison(whole_run()),
    "begun": begun_run,
    "dead layer": dead_layer_run,
    "old record": lambda: copy.deepcopy(RUN),
}
