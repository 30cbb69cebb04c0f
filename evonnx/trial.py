"""Whether a model from a stranger can be run at all: it ends, and gives the same again.

What a graph without loops costs is told by its shapes, which are bounded when it is loaded. A Loop may run
2^63 times.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from evonnx.errors import ModelError
from evonnx.network import Network
from evonnx.onnx_io import LOOPS, constant_tensor, detach, subgraphs
from evonnx.sessions import LOOP_SECONDS, EndlessError, input_specs, make_session, random_array, run_session

_RANDOM = (
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
)


def require_end(network: Network, seconds: float = LOOP_SECONDS) -> None:
    """Run a model that loops once, on random inputs. One without loops is not run, and one that does not run
    at these sizes is left to whoever needs it to.

    Raises:
        ModelError: it does not end in time.
    """
    if not any(node.op_type in LOOPS for node in _nodes(network)):
        return
    try:
        session = make_session(detach(network.model), optimize=False)
        rng = np.random.default_rng(0)
        feeds = {
            spec.name: random_array(spec, network.input_shapes[spec.name], rng)
            for spec in input_specs(session)
        }
    except (ModelError, KeyError):
        return
    try:
        run_session(session, feeds, seconds=seconds)
    except EndlessError as error:
        raise ModelError(f"{network.source}: {error}") from error
    except ModelError:
        return


def require_repeatable(network: Network) -> None:
    """Refuse a model that draws random numbers: what is made of it can't be proven equal.

    Raises:
        ModelError: naming the node.
    """
    for node in _nodes(network):
        if node.op_type in _RANDOM or (node.op_type == "Dropout" and _drops(node)):
            raise ModelError(
                f"{network.source}: node {network.label(node)} ({node.op_type}) draws random numbers, so "
                "that nothing can be proven of the model. Export it for inference (model.eval() in PyTorch), "
                "or make the numbers an input."
            )


def _drops(node: ir.Node) -> bool:
    """Whether a Dropout is in training mode, as far as constants tell."""
    tensor = constant_tensor(node.inputs[2]) if len(node.inputs) > 2 else None
    return tensor is not None and bool(np.any(tensor.numpy()))


def _nodes(network: Network) -> Iterator[ir.Node]:
    graphs = [network.model.graph, *(one.graph for one in network.model.functions.values())]
    while graphs:
        for node in graphs.pop():
            yield node
            graphs += subgraphs(node)
