"""Compile a graph for concrete input shapes into a flat list of closures over numbered slots.

The graph is walked once with example tensors. A node whose operands are all known (constants, shapes, scalars
that steer the graph) is computed right then and becomes a constant; an If with a known condition is replaced
by its branch; everything else becomes one step. Slots are released after their last use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evonnx.errors import AdapterError
from evonnx.network import Array
from evonnx_torch.ops import BUILDERS, Call, Unsupported, Value
from evonnx_torch.ops._base import NormState, Renorm
from evonnx_training.graph import Graph, Node, is_float_array

_JOINING = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Concat", "And", "Or", "Equal", "Max", "Min"})
"""Operators that join activations with constants of the same leading size."""
CONTROL = frozenset({"If"})
SUPPORTED = frozenset(BUILDERS) | CONTROL


@dataclass(frozen=True)
class _Step:
    kernel: Callable[..., Any]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    several: bool
    """The kernel returns a tuple, of which `writes` takes the first ones."""
    free: tuple[int, ...] = ()


@dataclass(frozen=True)
class Program:
    """Steps over slots; `template` holds parameters and constants, `inputs` says where data goes."""

    steps: tuple[_Step, ...]
    template: tuple[Tensor | None, ...]
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    elements: int = 0
    """Of all tensors that the steps make."""

    def run(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name."""
        slots: list[Any] = list(self.template)
        for name, slot in self.inputs:
            slots[slot] = data[name]
        for step in self.steps:
            result = step.kernel(*[slots[i] for i in step.reads])
            if step.several:
                for slot, value in zip(step.writes, result, strict=False):
                    slots[slot] = value
            else:
                slots[step.writes[0]] = result
            for slot in step.free:
                slots[slot] = None
        return {name: slots[slot] for name, slot in self.outputs}


@dataclass(frozen=True)
class Setting:
    """What a program is compiled for, beside the input shapes."""

    training: bool
    outputs: tuple[str, ...]
    device: torch.device
    norm: NormState
    renorms: Mapping[str, Renorm]
    """Normalisations behind convolutions, by the name of the convolution's output."""
    batch: tuple[int, int] | None
    """(declared, actual) leading size of the inputs, where they differ."""
    declared_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Then: shapes for the declared batch, by tensor name (see `shapes_of`)."""


def to_tensor(array: Array) -> Tensor:
    """A CPU tensor of a stored array: float32 for every floating type, torch's nearest type for the
    others."""
    if is_float_array(array):
        return torch.from_numpy(np.array(array, dtype=np.float32))
    if array.dtype.name.startswith("float"):  # 8 bits and less
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype.name in ("uint16", "uint32", "uint64"):
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.name in ("int4", "uint4", "int2", "uint2"):
        return torch.from_numpy(array.astype(np.int8))
    return torch.from_numpy(np.array(array))


def compile_program(
    graph: Graph,
    leaves: Mapping[str, Tensor],
    data: Mapping[str, Tensor],
    host: Mapping[str, Tensor],
    setting: Setting,
) -> Program:
    """Compile.

    Args:
        graph: what to run.
        leaves: parameters and norm statistics by constant name; never folded.
        data: example inputs, on the device.
        host: inputs whose value the program may depend on (scalars), on the CPU.
        setting: the rest.

    Raises:
        AdapterError: a node cannot be run on these inputs; names it.
    """
    compiler = _Compiler(leaves, setting)
    scope = compiler.walk(graph, data, host)
    inputs = tuple((name, scope[name].slot) for name in data)
    outputs = []
    for name in setting.outputs:
        if name not in scope:
            raise AdapterError(f"The torch adapter finds no tensor {name!r} in the graph.")
        outputs.append((name, compiler.slot_of(scope[name])))
    steps = _release(
        _needed(compiler.steps, {slot for _, slot in outputs}), {slot for _, slot in outputs}, compiler.owned
    )
    elements = sum(compiler.sizes.get(slot, 0) for step in steps for slot in step.writes)
    return Program(tuple(steps), tuple(compiler.template), inputs, tuple(outputs), elements)


def shapes_of(
    graph: Graph,
    leaves: Mapping[str, Tensor],
    data: Mapping[str, Tensor],
    host: Mapping[str, Tensor],
    setting: Setting,
) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of the main graph that come from data; arguments as for `compile_program`."""
    scope = _Compiler(leaves, setting).walk(graph, data, host)
    return {name: tuple(value.tensor.shape) for name, value in scope.items() if value.from_data}


class _Compiler:
    def __init__(self, leaves: Mapping[str, Tensor], setting: Setting) -> None:
        self.leaves = leaves
        self.setting = setting
        self.template: list[Tensor | None] = []
        self.steps: list[_Step] = []
        self.owned: set[int] = set()
        """Slots that steps write, so that may be released."""
        self.sizes: dict[int, int] = {}

    def walk(self, graph: Graph, data: Mapping[str, Tensor], host: Mapping[str, Tensor]) -> dict[str, Value]:
        """Run the whole graph on example inputs; all its tensors by name."""
        scope: dict[str, Value] = {}
        for name, tensor in data.items():
            scope[name] = self.leaf(tensor, from_data=True)
            self.template[scope[name].slot] = None
        scope.update({name: Value(tensor, known=True) for name, tensor in host.items()})
        with torch.no_grad():
            self.run(graph, scope, self.setting.outputs)
        # Older PyTorch (2.6) keeps weights that were cast here, and they would have no gradients later.
        torch.clear_autocast_cache()
        return scope

    def leaf(self, tensor: Tensor, from_data: bool = False) -> Value:
        self.template.append(tensor)
        return Value(tensor, known=False, slot=len(self.template) - 1, from_data=from_data)

    def slot_of(self, value: Value) -> int:
        return value.slot if value.slot >= 0 else self.leaf(value.tensor.to(self.setting.device)).slot

    def run(self, graph: Graph, scope: dict[str, Value], outputs: Sequence[str]) -> None:
        """Walk the nodes that the outputs need; results go into the scope."""
        for name, array in graph.constants.items():
            if name in self.leaves and name not in scope:
                scope[name] = self.leaf(self.leaves[name])
            else:
                scope[name] = Value(to_tensor(array), known=True, stored=array.dtype.name)
        nodes = graph.leading_to(outputs)
        readers: dict[str, set[str]] = {}
        for node in nodes:
            for name in node.inputs:
                readers.setdefault(name, set()).add(node.op_type)
        last = {name: place for place, node in enumerate(nodes) for name in node.reads()}
        for place, node in enumerate(nodes):
            if node.op_type == "If":
                self._branch(node, scope)
            else:
                self._node(node, graph.opset, scope, frozenset(readers.get(node.outputs[0], ())))
            for name in node.reads():
                value = scope[name]
                if last[name] == place and not value.known and value.slot in self.owned:
                    # Only its shape is of interest from here on; all examples together would fill the memory.
                    scope[name] = replace(value, tensor=value.tensor.to("meta"))

    def _branch(self, node: Node, scope: dict[str, Value]) -> None:
        condition = scope[node.inputs[0]]
        if not condition.known:
            raise AdapterError(
                f"The torch adapter cannot run node {node.label!r} (If): its condition depends on the data. "
                "Retrain with `--adapter command` and your own training program."
            )
        branch = node.branches["then_branch" if bool(condition.tensor.reshape(())) else "else_branch"]
        inner = dict(scope)
        # Constants of a branch are not leaves: their names may repeat names of the main graph.
        outer, self.leaves = self.leaves, {}
        try:
            self.run(branch, inner, branch.outputs)
        finally:
            self.leaves = outer
        for name, result in zip(node.outputs, branch.outputs, strict=False):
            if name:
                scope[name] = inner[result]

    def _node(self, node: Node, opset: int, scope: dict[str, Value], readers: frozenset[str]) -> None:
        values = tuple(scope[name] if name else None for name in node.inputs)
        if self.setting.batch and node.op_type in _JOINING:
            values = _follow_batch(values, *self.setting.batch)
        call = Call(
            op_type=node.op_type,
            opset=opset,
            attributes=node.attributes,
            inputs=values,
            outputs=node.outputs,
            training=False,
            norm=self.setting.norm,
            readers=readers,
            renorm=self.setting.renorms.get(node.outputs[0]),
            batch=self.setting.batch,
            declared_shape=self.setting.declared_shapes.get(node.inputs[0]) if node.inputs else None,
        )
        build = BUILDERS[node.op_type]
        try:
            emit = build(call)
            operands = [value for i in emit.reads if (value := values[i]) is not None]
            known = all(value.known for value in operands)
            # Example values come from the evaluation form: no statistics move, no dropout draws.
            examples = [value.tensor if known else value.tensor.to(self.setting.device) for value in operands]
            result = emit.kernel(*examples)
            if self.setting.training and not known:
                emit = build(replace(call, training=True))
        except (Unsupported, RuntimeError, ValueError, IndexError, TypeError) as error:
            shapes = ", ".join("-" if v is None else str(list(v.tensor.shape)) for v in values)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise AdapterError(
                f"The torch adapter cannot run node {node.label!r} ({node.op_type}, operand shapes "
                f"{shapes}): {reason}. Retrain with "
                "`--adapter command` and your own training program if this model must stay as it is."
            ) from error
        several = isinstance(result, tuple)
        results = result if several else (result,)
        from_data = any(value.from_data for value in values if value is not None)
        if known:
            for name, tensor in zip(node.outputs, results, strict=False):
                if name:
                    scope[name] = Value(tensor, known=True, from_data=from_data)
            return
        writes = []
        for name, tensor in zip(node.outputs, results, strict=False):
            value = self.leaf(tensor, from_data)
            self.template[value.slot] = None
            self.owned.add(value.slot)
            self.sizes[value.slot] = tensor.numel()
            writes.append(value.slot)
            if name:
                scope[name] = value
        # A known value that several steps read gets a slot for each; such values are small.
        reads = tuple(self.slot_of(value) for value in operands)
        self.steps.append(_Step(emit.kernel, reads, tuple(writes), several))


def _follow_batch(values: tuple[Value | None, ...], declared: int, actual: int) -> tuple[Value | None, ...]:
    """Constants that repeat the same entries for each example of the declared batch (a class token, a mask
    per window), repeated for the actual one."""
    leading = {v.tensor.shape[0] for v in values if v is not None and v.from_data and v.tensor.ndim}
    rank = max((v.tensor.ndim for v in values if v is not None), default=0)

    def followed(value: Value | None) -> Value | None:
        if value is None or not value.known or value.tensor.ndim != rank or not rank:
            return value
        tensor = value.tensor
        each, rest = divmod(tensor.shape[0], declared)
        if rest or tensor.shape[0] in leading or each * actual not in leading:
            return value
        parts = tensor.reshape(declared, each, *tensor.shape[1:])
        if not bool((parts == parts[:1]).all()):
            return value
        return replace(value, tensor=parts[0].repeat(actual, *(1,) * (rank - 1)))

    return tuple(followed(value) for value in values)


def _needed(steps: Sequence[_Step], outputs: set[int]) -> list[_Step]:
    """Drop steps whose results only served to learn shapes."""
    wanted = set(outputs)
    kept = []
    for step in reversed(steps):
        if wanted.intersection(step.writes):
            kept.append(step)
            wanted.update(step.reads)
    return kept[::-1]


def _release(steps: Sequence[_Step], outputs: set[int], owned: set[int]) -> list[_Step]:
    """Note after each step which slots nobody reads any more."""
    seen = set(outputs)
    released = []
    for step in reversed(steps):
        last = [slot for slot in {*step.reads, *step.writes} if slot in owned and slot not in seen]
        seen.update(last)
        released.append(replace(step, free=tuple(sorted(last))))
    return released[::-1]
