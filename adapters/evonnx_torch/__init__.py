"""The torch adapter: retrain an ONNX model in PyTorch without leaving its graph; and carry what became of it
over to the module that it was exported from (`apply_plan`); and lend the graph to a training loop of your own
(`load_module`, `save_weights`). These are imported when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evonnx_torch.adapter import TorchAdapter

if TYPE_CHECKING:
    from evonnx_torch.plans import apply_plan
    from evonnx_torch.trainable import TrainableModel, load_module, save_weights

__all__ = ["TorchAdapter", "TrainableModel", "apply_plan", "load_module", "save_weights"]

_HOMES = {
    "TrainableModel": "trainable",
    "apply_plan": "plans",
    "load_module": "trainable",
    "save_weights": "trainable",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"evonnx_torch.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'evonnx_torch' has no attribute {name!r}")
