"""An ONNX graph as a pure function of its weights, its norm statistics and its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np
import onnx_ir as ir

from evonnx.errors import AdapterError
from evonnx.masks import Masks
from evonnx.network import Array
from evonnx_jax.ops import Context
from evonnx_jax.program import SUPPORTED, run
from evonnx_training.graph import Graph, is_float, read_graph
from evonnx_training.roles import find_roles

Arrays = Mapping[str, Any]
"""By tensor name: numpy's arrays or JAX's."""
_EXAMPLES = "examples"
"""The axis over which a graph that is declared for few examples is mapped."""


class Variables(NamedTuple):
    """What a graph computes with that is not data."""

    weights: dict[str, Any]
    """Trained constants in float32."""
    statistics: dict[str, Any]
    """Running means and variances of norms."""


class OnnxFunction:
    """A graph that can be run, differentiated and traced.

    Args:
        model: the model; read, never changed.

    Raises:
        AdapterError: an operator is unknown; names operator and node.
    """

    def __init__(self, model: ir.Model) -> None:
        self.graph: Graph = read_graph(model, SUPPORTED, "JAX")
        self.roles = find_roles(self.graph)
        leading = {value.dims[0] if value.dims else None for value in self.graph.inputs}
        self.declared_batch = leading.pop() if len(leading) == 1 else None
        """The fixed leading size that all inputs share, None where it is free."""

    def variables(self, masks: Masks) -> Variables:
        """The values in the file, masked entries zero."""
        weights = {name: self._stored(name) for name in self.roles.trained}
        for name, mask in masks.items():
            if name in weights:
                weights[name] = np.where(mask, weights[name], np.float32(0))
        return Variables(weights, {name: self._stored(name) for name in self.roles.statistics})

    def _stored(self, name: str) -> Array:
        return np.array(self.graph.constants[name], dtype=np.float32)

    def reached(self, taps: Sequence[str]) -> frozenset[str]:
        """Trained constants that some tensors depend on."""
        read = {name for node in self.graph.leading_to(taps) for name in node.reads()}
        return frozenset(read.intersection(self.roles.trained))

    def inputs(self, batch: Arrays) -> dict[str, Array]:
        """A task's inputs as the graph takes them: floats in float32.

        Raises:
            AdapterError: one is missing.
        """
        found = {}
        for value in self.graph.inputs:
            if value.name not in batch:
                raise AdapterError(f"The task's batches have no input {value.name!r}, which the model reads.")
            array = np.asarray(batch[value.name])
            found[value.name] = array.astype(np.float32) if is_float(value.dtype) else array
        return found

    def usable(self, size: int) -> int:
        """How many examples of a batch the graph can take.

        Raises:
            AdapterError: it is declared for more than there are.
        """
        if self.declared_batch is None:
            return size
        if size < self.declared_batch:
            raise AdapterError(
                f"The model takes {self.declared_batch} examples at a time, but a batch has {size}; "
                "set a larger batch_size."
            )
        return size - size % self.declared_batch

    def __call__(
        self, variables: Variables, inputs: Arrays, taps: Sequence[str], context: Context
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run.

        Args:
            variables: weights and statistics.
            inputs: every graph input.
            taps: names of the tensors wanted.
            context: how; left as it is but for the count of elements.

        Returns:
            (tensors by name, norm statistics afterwards by name).

        Raises:
            AdapterError: a node cannot be run on these inputs.
        """
        batch = max((len(x) for x in inputs.values() if np.ndim(x)), default=1)
        if self.declared_batch is None or self.declared_batch == batch:
            return self._run(variables, inputs, taps, context)
        grouped = {
            name: jnp.reshape(x, (-1, self.declared_batch, *np.shape(x)[1:])) for name, x in inputs.items()
        }
        named = replace(context, axis=_EXAMPLES)
        mapped = jax.vmap(
            lambda data: self._run(variables, data, taps, named), out_axes=(0, None), axis_name=_EXAMPLES
        )
        found, statistics = mapped(grouped)  # type: ignore[no-untyped-call]
        context.elements += named.elements * (batch // self.declared_batch)
        joined = {
            name: jnp.reshape(y, (-1, *y.shape[2:])) if y.ndim > 1 else y.mean() for name, y in found.items()
        }
        return joined, statistics

    def _run(
        self, variables: Variables, inputs: Arrays, taps: Sequence[str], context: Context
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        here = replace(context, statistics={}, elements=0, draws=0)
        found = run(self.graph, {**variables.weights, **variables.statistics}, inputs, taps, here)
        context.elements += here.elements
        return found, {**variables.statistics, **here.statistics}

    def arrays(self, variables: Variables) -> dict[str, Array]:
        """Weights and norm statistics in the stored types; what is beyond the range of a narrower one becomes
        its largest finite value."""
        found = {}
        for name, value in (*variables.weights.items(), *variables.statistics.items()):
            dtype = self.graph.constants[name].dtype
            array = np.asarray(value, dtype=np.float32)
            if dtype == np.float16:
                limit = float(np.finfo(np.float16).max)
                array = np.clip(array, -limit, limit)
            found[name] = np.array(array, dtype=dtype, order="C")
        return found
