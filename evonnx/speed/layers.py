"""Where time goes inside a model: onnxruntime's profile, made into times per node and per operator type.

A node's time is its own: what nodes inside a loop or a branch take is theirs, not that of the node that
holds them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from evonnx.speed.records import NodeTime, OpTime

_SUFFIX = "_kernel_time"

Key = tuple[str, str, int, str]
"""A node of the optimised graph: name, operator type, index, provider."""


def node_times(events: Sequence[Mapping[str, Any]], warm_up: int) -> tuple[NodeTime, ...]:
    """Median microseconds of every node over the runs after the first ones, in order of execution.

    Args:
        events: of onnxruntime's profile, in its order: a run's nodes stand before the run itself.
        warm_up: runs that do not count.

    Returns:
        A node that did not run in a run (another branch was taken) counts as 0 there; () without runs.
    """
    runs: list[dict[Key, float]] = []
    current: list[Mapping[str, Any]] = []
    for event in events:
        if event.get("cat") == "Node" and str(event["name"]).endswith(_SUFFIX):
            current.append(event)
        elif event.get("name") == "model_run":
            runs.append(_own_times(current))
            current = []
    counted = runs[warm_up:]
    keys = list(dict.fromkeys(key for run in counted for key in run))
    medians = {key: median(run.get(key, 0.0) for run in counted) for key in keys}
    whole = sum(medians.values())
    return tuple(
        NodeTime(name, op_type, provider, medians[key], medians[key] / whole if whole else 0.0)
        for key in keys
        for name, op_type, _, provider in [key]
    )


def op_times(nodes: Sequence[NodeTime]) -> tuple[OpTime, ...]:
    """Sums by operator type, the largest first."""
    groups: dict[str, list[NodeTime]] = defaultdict(list)
    for node in nodes:
        groups[node.op_type].append(node)
    sums = [
        OpTime(name, len(group), sum(one.microseconds for one in group), sum(one.share for one in group))
        for name, group in groups.items()
    ]
    return tuple(sorted(sums, key=lambda one: -one.microseconds))


def _own_times(events: Sequence[Mapping[str, Any]]) -> dict[Key, float]:
    """Microseconds per node of one run, without what is nested in it, over all times that it ran."""
    times: dict[Key, float] = defaultdict(float)
    around: list[tuple[float, Key]] = []
    # A node that holds others starts no later and lasts longer.
    for event in sorted(events, key=lambda one: (float(one["ts"]), -float(one["dur"]))):
        start, taken = float(event["ts"]), float(event["dur"])
        while around and around[-1][0] < start + taken:
            around.pop()
        if around:
            times[around[-1][1]] -= taken
        key = _key(event)
        times[key] += taken
        around.append((start + taken, key))
    return {key: max(0.0, value) for key, value in times.items()}


def _key(event: Mapping[str, Any]) -> Key:
    details = event.get("args", {})
    op_type = str(details.get("op_name", "?"))
    index = int(details.get("node_index", -1))
    name = str(event["name"]).removesuffix(_SUFFIX) or f"{op_type} {index}"
    return name, op_type, index, str(details.get("provider", "?"))
