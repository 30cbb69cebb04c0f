"""The adapter that retrains in JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evonnx.adapter import RetrainRequest, RetrainResult
from evonnx.errors import AdapterError
from evonnx.network import Array


class JaxAdapter:
    """Retrains with JAX: the ONNX graph itself is traced and differentiated, nothing is converted or
    re-exported.

    It runs in float32 on JAX's default device.
    """

    name = "jax"
    packages = ("jax", "jaxlib", "optax")

    def __init__(self) -> None:
        # The ancestor is the same in every generation: compiled once.
        self._teachers: dict[object, object] = {}

    def retrain(self, request: RetrainRequest) -> RetrainResult:
        """Retrain.

        Raises:
            AdapterError: JAX is not installed, an operator is unknown, the loss cannot be computed, or
                training diverges at every rate tried.
        """
        result: RetrainResult = _retraining().retrain(request, self._teachers)
        return result

    def sensitivities(self, request: RetrainRequest) -> Mapping[str, Array]:
        """Measure how much the model's answers depend on each weight.

        Raises:
            AdapterError: JAX is not installed, an operator is unknown, or there is nothing to measure.
        """
        found: Mapping[str, Array] = _retraining().sensitivities(request)
        return found


def _retraining() -> Any:
    """The module that does the work. JAX takes a second to import; listing plugins must not."""
    try:
        from evonnx_jax import retraining
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("jax", "jaxlib", "optax"):
            raise
        raise AdapterError(
            f"The JAX adapter needs {error.name}, which is not installed: `pip install 'evonnx[jax]'`."
        ) from error
    return retraining
