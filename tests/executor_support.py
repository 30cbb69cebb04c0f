"""Adapters whose workers have a hard time."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from evonnx.adapter import RetrainRequest, RetrainResult
from evonnx.errors import AdapterMemoryError
from evonnx.testing import ToyAdapter


class FrailToy(ToyAdapter):
    """Runs out of memory with whole batches. With the option `marker=FILE`, the first to train with smaller
    ones is killed, and whoever trains the same then says whether it found a checkpoint."""

    def retrain(self, request: RetrainRequest) -> RetrainResult:
        if request.budget.batch_share == 1:
            raise AdapterMemoryError("There is no memory for whole batches.")
        marker = request.options.get("marker")
        if marker and first(Path(marker), str(request.seed)):
            if request.checkpoint is not None:
                request.checkpoint.write_text("progress")
            os.kill(os.getpid(), signal.SIGKILL)
        result = super().retrain(request)
        if marker and Path(marker).read_text() == str(request.seed):
            found = request.checkpoint is not None and request.checkpoint.exists()
            result = replace(result, notes=[f"a checkpoint was {'found' if found else 'lost'}"])
        return result


class BrokenToy(ToyAdapter):
    """Has a fault."""

    def retrain(self, request: RetrainRequest) -> RetrainResult:
        raise KeyError("a layer")


class SlowToy(ToyAdapter):
    """Takes `seconds=S` longer, and tells `marker=FILE` where it began: its process or Ray node."""

    def retrain(self, request: RetrainRequest) -> RetrainResult:
        if marker := request.options.get("marker"):
            first(Path(marker), where())
        time.sleep(float(request.options.get("seconds", 0)))
        return super().retrain(request)


def where() -> str:
    """This process, or Ray's node."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else str(os.getpid())


def first(marker: Path, text: str) -> bool:
    """Whether nobody else was here before."""
    try:
        with marker.open("x") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True
