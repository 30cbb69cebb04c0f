"""The adapter that retrains in PyTorch."""

from __future__ import annotations

from evonnx.adapter import RetrainRequest, RetrainResult
from evonnx.errors import AdapterError


class TorchAdapter:
    """Retrains with PyTorch: the ONNX graph itself is run and differentiated, nothing is converted or
    re-exported.

    Options of a request: `renormalize` ("auto", "on", "off"): put normalisation back behind convolutions for
    the time of retraining; `precision` ("auto", "fp32", "amp"): mixed precision, on CUDA only; `device`
    ("auto", "cpu", "cuda").
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
        try:
            # torch takes seconds to import; listing plugins must not.
            from evonnx_torch.retraining import retrain
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != "torch":
                raise
            raise AdapterError(
                "The torch adapter needs PyTorch, which is not installed: `pip install 'evonnx[torch]'`."
            ) from error
        return retrain(request, self._teachers)
