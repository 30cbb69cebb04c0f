"""The adapter that retrains in PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from evonnx.adapter import RetrainRequest, RetrainResult
from evonnx.errors import AdapterError
from evonnx.network import Array


class TorchAdapter:
    """Retrains with PyTorch: the ONNX graph itself is run and differentiated, nothing is converted or
    re-exported.

    Options of a request: `renormalize` ("auto", "on", "off"): put normalisation back behind convolutions for
    the time of retraining; `precision` ("auto", "fp32", "amp"): mixed precision, where the device has
    bfloat16; `device` ("auto", "cpu", "cuda"); `checkpoint`: seconds between two savings of progress within
    an epoch (30).
    """

    name = "torch"

    def __init__(self) -> None:
        # The ancestor's outputs are the same in every generation: kept from one request to the next.
        self._teachers: dict[object, object] = {}

    def retrain(self, request: RetrainRequest) -> RetrainResult:
        """Retrain.

        Raises:
            AdapterError: PyTorch is not installed, an operator is unknown, the loss cannot be computed, or
                training diverges at every rate tried.
        """
        result: RetrainResult = _retraining().retrain(request, self._teachers)
        return result

    def sensitivities(self, request: RetrainRequest) -> Mapping[str, Array]:
        """Measure how much the model's answers depend on each weight.

        Raises:
            AdapterError: PyTorch is not installed, an operator is unknown, or there is nothing to measure.
        """
        found: Mapping[str, Array] = _retraining().sensitivities(request)
        return found


def _retraining() -> Any:
    """The module that does the work. torch takes seconds to import; listing plugins must not."""
    # Read when torch is loaded. By default its threads spin while they wait, and on a machine that others use
    # too they wait for threads that spinning ones keep from running.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from evonnx_torch import retraining
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "torch":
            raise
        raise AdapterError(
            "The torch adapter needs PyTorch, which is not installed: `pip install 'evonnx[torch]'`."
        ) from error
    return retraining
