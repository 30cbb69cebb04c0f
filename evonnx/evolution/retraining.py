"""Lend a compact model to an adapter and take its weights back, under the contract's checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import onnx_ir as ir

from evonnx.adapter import (
    Adapter,
    MeasuresSensitivities,
    Progress,
    RetrainRequest,
    RetrainResult,
    TrainingBudget,
    check_result,
    check_sensitivities,
)
from evonnx.errors import AdapterError
from evonnx.evolution.remedies import Remedies, remedy
from evonnx.evolution.stopwatch import RETRAIN
from evonnx.evolution.watching import Watch, owned
from evonnx.faults import Ledger
from evonnx.masks import live_masks
from evonnx.network import Array, Network, network_of
from evonnx.onnx_io import initializer_arrays, load_model, set_array
from evonnx.steps import Timing, untimed, write_checked
from evonnx.task import Task

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Trainer:
    """An adapter with everything that stays the same from generation to generation."""

    adapter: Adapter
    task: Task
    ancestor: Path
    options: dict[str, str]
    checkpoints: Path | None = None
    """Folder for the progress of unfinished retrainings, by seed."""
    timeout: float | None = None
    """Seconds without a sign of progress after which the adapter counts as hanging; None: any time."""
    remedies: Remedies = field(default_factory=Remedies)
    ledger: Ledger = field(default_factory=Ledger)
    """Told of what went wrong."""

    def retrain(
        self,
        model: Path,
        output: Path,
        budget: TrainingBudget,
        seed: int,
        progress: Callable[[Progress], None],
        timing: Timing = untimed,
        graph: ir.Model | None = None,
    ) -> dict[str, Any]:
        """Retrain the model at `model` and write it, graph unchanged, to `output`.

        Args:
            model: the file.
            output: another, or the same.
            budget: how long.
            seed: of the adapter's random choices.
            progress: is told how the training goes.
            timing: is told of the stages "load", "retrain" (what the adapter does) and "save".
            graph: what `model` holds, where it is in memory; it gets the new weights. None: it is read.

        Returns:
            {"history": [{"epoch", "loss", "learning_rate"}], "notes": [str]} for the generation's metrics.

        Raises:
            AdapterError: the adapter failed or broke its contract, and nothing that was tried helped;
                nothing is written.
        """
        with timing("load"):
            graph = load_model(model) if graph is None else graph
            masks = live_masks(network_of(graph, str(model)))
        request = RetrainRequest(
            model=model,
            masks=masks,
            task=self.task,
            budget=budget,
            seed=seed,
            ancestor=self.ancestor,
            progress=progress,
            options=self.options,
            checkpoint=self._checkpoint(seed),
        )

        def asked(request: RetrainRequest) -> RetrainResult:
            result = self.adapter.retrain(request)
            check_result(initializer_arrays(graph), masks, result, self.adapter.name)
            return result

        with timing(RETRAIN):
            result = self._ask(asked, request, "retraining", str(seed))
        self.ledger.add(*result.faults)
        with timing("save"):
            for name, array in result.weights.items():
                set_array(graph, name, array)
            write_checked(graph, output, self.ancestor)
        history = [
            {"epoch": record.epoch, "loss": record.loss, "learning_rate": record.learning_rate}
            for record in result.history
        ]
        return {"history": history, "notes": list(result.notes)}

    def sensitivities(
        self, network: Network, model: Path, budget: TrainingBudget, seed: int
    ) -> Mapping[str, Array]:
        """How much the model at `model`, read as `network`, depends on each of its weights.

        Raises:
            AdapterError: the adapter cannot measure that, failed, or broke its contract.
        """
        adapter = self.adapter
        if not isinstance(adapter, MeasuresSensitivities):
            raise AdapterError(
                f"Adapter {self.adapter.name!r} measures no gradients, which the encoding needs. Choose an "
                "encoding that reads weights, such as adaptive, or the torch or jax adapter."
            )
        masks = live_masks(network)
        request = RetrainRequest(
            model=model, masks=masks, task=self.task, budget=budget, seed=seed, options=self.options
        )

        def asked(request: RetrainRequest) -> Mapping[str, Array]:
            found = adapter.sensitivities(request)
            check_sensitivities(masks, found, adapter.name)
            return found

        return self._ask(asked, request, "measuring gradients", f"gradients {seed}")

    def _ask(
        self, call: Callable[[RetrainRequest], Answer], request: RetrainRequest, stage: str, key: str
    ) -> Answer:
        """Ask the adapter, and ask more gently for as long as that may help."""
        doing = f"{stage} {request.model.name}"
        budget, faults = self.remedies.known(key, request.budget)
        while True:
            watch = Watch(self.timeout)
            gentle = replace(request, budget=budget, progress=_passing_on(request.progress, watch))
            try:
                asked = partial(owned, partial(call, gentle), self.adapter.name, doing)
                answer = watch.over(asked, self.adapter.name, doing)
                break
            except AdapterError as error:
                found = remedy(error, budget, len(faults), stage)
                if found is None:
                    self.ledger.add(*faults)
                    raise
            budget, fault = found
            faults.append(fault)
            self.remedies.keep(key, budget, faults)
        self.ledger.add(*faults)
        return answer

    def _checkpoint(self, seed: int) -> Path | None:
        if self.checkpoints is None:
            return None
        self.checkpoints.mkdir(exist_ok=True)
        return self.checkpoints / str(seed)


def _passing_on(progress: Callable[[Progress], None], watch: Watch) -> Callable[[Progress], None]:
    def heard(news: Progress) -> None:
        watch.heard()
        progress(news)

    return heard
