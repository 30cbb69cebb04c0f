"""Progress kept on disk as torch's tensors (see `evonnx_training.checkpoint`)."""

from __future__ import annotations

from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor

from evonnx_training import checkpoint


class Checkpoint(checkpoint.Checkpoint[Tensor]):
    """Keeps tensors of any device; they come back on the CPU."""

    framework = "pt"

    def packed(self, tensors: Mapping[str, Tensor], facts: dict[str, str]) -> bytes:
        """As safetensors writes them."""
        return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, facts)
