"""How models are run while they are timed: all of them in one and the same way, so that ratios are fair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from evonnx.network import Array
from evonnx.sessions import CPU, clean_message, placement, run_session
from evonnx.speed.binding import DEVICES, GRAPH_OPTIONS, Run, bound_run, plain_run
from evonnx.speed.placing import why_no_graph
from evonnx.speed.records import Copies


class Runnable(Protocol):
    """A model with its session."""

    @property
    def label(self) -> str:
        """Its name."""

    @property
    def session(self) -> Any:
        """onnxruntime's."""


@dataclass(frozen=True)
class Way:
    """How all models are run, ready to be timed."""

    runs: tuple[Run, ...]
    copies: Copies
    cuda_graphs: bool = False
    notes: tuple[str, ...] = field(default=())


def way_to_run(
    models: Sequence[Runnable],
    fed: Sequence[Mapping[str, Array]],
    provider: str,
    capturing: Callable[[int], Any] | None,
) -> Way:
    """The way with the fewest costs that are not the models' own and that all of them allow.

    On a device inputs and outputs are bound; where nothing speaks against it for any model, their runs are
    captured as CUDA graphs. What can't be done for one is done for none, and a note says why.

    Args:
        models: what is compared.
        fed: their inputs.
        provider: what they run on.
        capturing: makes a session of the model at an index that captures its runs; None: not wanted.

    Raises:
        ModelError: a model does not run.
    """
    pairs = list(zip(models, fed, strict=True))
    plain = tuple(plain_run(one.session, feeds) for one, feeds in pairs)
    if provider == CPU:
        return Way(plain, "none")
    device = DEVICES.get(provider)
    if device is None:
        note = f"Times include copies: evonnx does not know which memory {provider} computes in."
        return Way(plain, "included", notes=(note,))
    bound: list[Run] = []
    for one, feeds in pairs:
        try:
            bound.append(bound_run(one.session, feeds, device))
        except Exception as error:  # onnxruntime's classes share no base but Exception
            note = f"Times include copies: {one.label} can't be run on bound inputs ({clean_message(error)})."
            return Way(plain, "included", notes=(note,))
    if capturing is None or provider not in GRAPH_OPTIONS:
        return Way(tuple(bound), "excluded")
    captured = _captured(pairs, provider, device, capturing)
    if isinstance(captured, str):
        return Way(tuple(bound), "excluded", notes=(captured,))
    return Way(captured, "excluded", cuda_graphs=True)


def _captured(
    pairs: Sequence[tuple[Runnable, Mapping[str, Array]]],
    provider: str,
    device: str,
    capturing: Callable[[int], Any],
) -> tuple[Run, ...] | str:
    """Runs that replay CUDA graphs, or a sentence why there are none."""
    for one, _ in pairs:
        reason = why_no_graph(placement(one.session), provider)
        if reason is not None:
            return f"No CUDA graphs: of {one.label}, {reason}."
    runs = []
    for index, (one, feeds) in enumerate(pairs):
        try:
            outputs = run_session(one.session, feeds)
            runs.append(bound_run(capturing(index), feeds, device, fixed=outputs))
        except Exception as error:  # onnxruntime's classes share no base but Exception
            return f"No CUDA graphs: {one.label} can't be captured ({clean_message(error)})."
    return tuple(runs)
