"""The torch adapter: retrain an ONNX model in PyTorch without leaving its graph; and carry what became of it
over to the module that it was exported from (`apply_plan`, imported when it is first used)."""

from typing import TYPE_CHECKING, Any

from evonnx_torch.adapter import TorchAdapter

if TYPE_CHECKING:
    from evonnx_torch.plans import apply_plan

__all__ = ["TorchAdapter", "apply_plan"]


def __getattr__(name: str) -> Any:
    if name == "apply_plan":
        from evonnx_torch.plans import apply_plan

        return apply_plan
    raise AttributeError(f"module 'evonnx_torch' has no attribute {name!r}")
