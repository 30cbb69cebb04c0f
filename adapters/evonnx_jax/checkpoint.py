"""Progress kept on disk as numpy's arrays (see `evonnx_training.checkpoint`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save

from evonnx.network import Array
from evonnx_training import checkpoint


class Checkpoint(checkpoint.Checkpoint[Array]):
    """Keeps numpy's arrays."""

    framework = "np"

    def packed(self, tensors: Mapping[str, Array], facts: dict[str, str]) -> bytes:
        """As safetensors writes them."""
        return save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, facts)


def named(tree: Any) -> dict[str, Array]:
    """The arrays of a tree by their places in it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {f"state/{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}


def filled(tree: Any, arrays: Mapping[str, Array]) -> Any:
    """A tree of the same form, with the arrays that `named` gave of another."""
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(tree), [arrays[n] for n in named(tree)])
