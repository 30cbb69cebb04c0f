"""The torch adapter: retrain an ONNX model in PyTorch without leaving its graph."""

from evonnx_torch.adapter import TorchAdapter

__all__ = ["TorchAdapter"]
