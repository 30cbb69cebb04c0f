"""Put a trainable normalisation back behind convolutions whose own was folded away, for the time of
retraining.

y = w * x + b becomes scale * (w * x - mean) / sqrt(var + eps) + shift. With mean and variance taken from a
batch, scale = sqrt(var + eps) and shift = mean + b, the function is unchanged at the start. Folding it back
is exact: w' = w * scale / sqrt(var + eps), b' = shift - mean * scale / sqrt(var + eps). Zero weights stay
zero. A convolution without a bias of its own cannot take the shift, so it is left alone; the graph never
changes.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from evonnx_torch.module import OnnxModule
from evonnx_torch.ops._base import Renorm
from evonnx_training.graph import Graph, Node
from evonnx_training.roles import NORMS, Roles, is_bare_and_deep

_EPS = 1e-5
_MIXERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def candidates(graph: Graph, roles: Roles) -> list[Node]:
    """Convolutions that can carry a normalisation: own weight and bias, and another layer behind them."""
    uses = Counter(name for node in graph.nodes for name in node.reads())
    uses.update(graph.outputs)
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.reads():
            readers.setdefault(name, []).append(node)
    mixing: dict[str, bool] = {}
    for node in reversed(graph.nodes):
        # Whether some layer with weights lies behind a tensor, and no normalisation comes first.
        for name in node.outputs:
            later = readers.get(name, [])
            mixing[name] = any(r.op_type in _MIXERS or mixing.get(r.outputs[0], False) for r in later)
    found = []
    for node in graph.nodes:
        if node.op_type != "Conv" or len(node.inputs) < 3 or not node.inputs[2]:
            continue
        weight, bias = node.inputs[1], node.inputs[2]
        own = all(name in roles.trained and uses[name] == 1 for name in (weight, bias))
        normed = any(r.op_type in NORMS for r in readers.get(node.outputs[0], []))
        if own and not normed and mixing.get(node.outputs[0], False):
            found.append(node)
    return found


def wanted(graph: Graph, roles: Roles, option: str) -> list[Node]:
    """The convolutions to normalise: with "auto", only in a deep network that has no normalisation at all."""
    if option == "off":
        return []
    nodes = candidates(graph, roles)
    if option == "on":
        return nodes
    return nodes if is_bare_and_deep(graph) else []


class Renormalization:
    """The normalisations put into one module.

    Args:
        module: gets them.
        nodes: the convolutions, from `wanted`.
        inputs: a batch for mean and variance.
    """

    def __init__(self, module: OnnxModule, nodes: list[Node], inputs: dict[str, Tensor]) -> None:
        self.module, self.nodes = module, nodes
        self.parameters: dict[str, nn.Parameter] = {}
        """Scales and shifts; a shift is keyed by its bias's name, a scale by the convolution's output."""
        module.eval()
        with torch.no_grad():
            outputs = module(inputs, [node.outputs[0] for node in nodes])
        for node in nodes:
            y = outputs[node.outputs[0]]
            bias = module.weights[node.inputs[2]].detach()
            axes = [0, *range(2, y.ndim)]
            variance, mean = torch.var_mean(y, axes, correction=0)
            scale = nn.Parameter(torch.sqrt(variance + _EPS))
            shift = nn.Parameter(mean.clone())
            module.renorms[node.outputs[0]] = Renorm(scale, shift, mean - bias, variance, _EPS)
            self.parameters[node.outputs[0]], self.parameters[node.inputs[2]] = scale, shift
        module.forget_programs()

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Running means and variances."""
        result = {}
        for name, renorm in self.module.renorms.items():
            result[f"{name}/mean"], result[f"{name}/variance"] = renorm.mean, renorm.variance
        return result

    @torch.no_grad()
    def fold(self) -> None:
        """Write the normalisations into weights and biases and take them out."""
        for node in self.nodes:
            renorm = self.module.renorms.pop(node.outputs[0])
            ratio = renorm.scale / torch.sqrt(renorm.variance + renorm.eps)
            weight, bias = self.module.weights[node.inputs[1]], self.module.weights[node.inputs[2]]
            weight.mul_(ratio.reshape(-1, *(1,) * (weight.ndim - 1)))
            bias.copy_(renorm.shift - renorm.mean * ratio)
        self.module.forget_programs()
