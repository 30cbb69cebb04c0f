"""Running onnxruntime's profiler: a session of its own, whose file lies in a folder that goes away."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evonnx.network import Array
from evonnx.sessions import make_session, run_session
from evonnx.speed.layers import node_times
from evonnx.speed.records import NodeTime
from evonnx.speed.turns import Clock

PROFILE_WARM_UP = 5
"""Runs before those that count."""
PROFILE_SECONDS = 2.0
"""What the runs that count may take, five at least and fifty at most."""
_FEWEST, _MOST = 5, 50


def profile_nodes(
    source: str | bytes,
    feeds: Mapping[str, Array],
    *,
    threads: int,
    providers: Sequence[str],
    clock: Clock = time.perf_counter,
) -> tuple[int, tuple[NodeTime, ...]]:
    """Median time of every node of the optimised graph.

    Args:
        source: a file, or a serialised model.
        feeds: inputs by name.
        threads: onnxruntime's.
        providers: onnxruntime's names.
        clock: seconds.

    Returns:
        How many runs count, and the nodes in order of execution.

    Raises:
        ModelError: the model does not load or run.
        ProviderError: the provider cannot run here.
    """
    with tempfile.TemporaryDirectory(prefix="evonnx-") as folder:
        session = make_session(
            source,
            threads=threads,
            providers=providers,
            spinning=True,
            profile_prefix=str(Path(folder) / "profile"),
        )
        runs = 0
        began = clock()
        while runs < PROFILE_WARM_UP + _FEWEST or (
            runs < PROFILE_WARM_UP + _MOST and clock() - began < PROFILE_SECONDS
        ):
            run_session(session, feeds)
            runs += 1
        events: list[Any] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return runs - PROFILE_WARM_UP, node_times(events, PROFILE_WARM_UP)
