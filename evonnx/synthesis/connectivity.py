"""Whether signals still get from inputs to outputs, and the best chain of synapses that makes them.

One walk through the graph in topological order carries, for every channel of every tensor, the best score of
a chain of synapses that leads to it from a graph input: the sum of its synapses' scores, -inf where there is
none. What moves channels about (Relu, Add, Concat, Reshape, ...) is followed by the coupling's class ids, so
operators need not be known by name; an output channel whose class stands at no input is taken to be mixed
from all of them. Shapes carry no signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.dependency.coupling import ClassIds, Coupling, WeightClasses
from evonnx.dependency.scope import captured_values
from evonnx.network import Network, Weight

Scores = NDArray[np.float64]
Edges = Callable[[str, slice], NDArray[np.floating]]
"""(weight, block of outputs) -> score of the best synapse of each (o, i) slice, shape (R, I); -inf: none."""
Step = Callable[[str, slice, Scores], Scores]
"""(weight, block of outputs, scores arriving at its inputs: (1, I), or (R, I) if grouped) -> scores, (R,)."""

_NO_SIGNAL = frozenset({"Shape", "Size"})
_ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Link:
    """One (o, i) slice of a weight on a chain."""

    weight: str
    output: int
    input: int


@dataclass(frozen=True)
class _Signal:
    """Scores of one tensor: per channel of each followed axis, and of the whole."""

    axes: dict[int, tuple[ClassIds, Scores]]
    best: float


@dataclass(frozen=True)
class _Contraction:
    """What a node that reads a prunable weight did to the scores."""

    weight: Weight
    classes: WeightClasses
    data: ir.Value
    axis: int | None
    """The axis of `data` that is contracted, if its channels are followed one by one."""
    inputs: Scores
    """Shape (groups * I,)."""
    outputs: Scores
    """Shape (O,)."""


@dataclass
class Reach:
    """The result of one walk."""

    signals: dict[str, _Signal] = field(default_factory=dict)
    contractions: dict[ir.Node, _Contraction] = field(default_factory=dict)

    def reached(self, value: ir.Value) -> bool:
        """Whether any chain leads to a tensor."""
        signal = self.signals.get(str(value.name))
        return signal is not None and signal.best > -np.inf


def through(edges: Edges) -> Step:
    """The step that adds the scores of synapses and takes the best."""
    return lambda name, rows, arriving: (edges(name, rows) + arriving).max(axis=1, initial=-np.inf)


def through_living(live: Callable[[str, slice], NDArray[np.bool_]]) -> Step:
    """The step of a walk that only asks what is reached: every live synapse scores 0.

    Args:
        live: (weight, block of outputs) -> which synapses live, shape (R, I, K).
    """

    def step(name: str, rows: slice, arriving: Scores) -> Scores:
        reached = arriving > -np.inf
        here = live(name, rows)
        if reached.all():
            some = here.reshape(len(here), -1).any(axis=1)
        elif len(reached) == 1:
            some = here[:, reached[0]].reshape(len(here), -1).any(axis=1)
        else:
            some = (here.any(axis=2) & reached).any(axis=1)
        return np.where(some, 0.0, -np.inf)

    return step


def walk(network: Network, coupling: Coupling, step: Step) -> Reach:
    """Carry scores from the graph's inputs to every tensor."""
    axes: dict[str, dict[int, ClassIds]] = {}
    for (name, axis), classes in coupling.axes.items():
        axes.setdefault(name, {})[axis] = classes
    reads = {(read.node, read.weight): read for read in coupling.reads}
    users = {use.node: weight for weight in network.weights.values() for use in weight.uses}
    constants = network.model.graph.initializers
    reach = Reach()
    for value in network.model.graph.inputs:
        name = str(value.name)
        if name not in constants:
            ids = axes.get(name, {})
            reach.signals[name] = _Signal({axis: (row, np.zeros(len(row))) for axis, row in ids.items()}, 0.0)
    for node in network.model.graph:
        arriving = [
            reach.signals[str(value.name)] for value in _sources(node) if str(value.name) in reach.signals
        ]
        if not arriving or node.op_type in _NO_SIGNAL:
            continue
        sources = [entry for signal in arriving for entry in signal.axes.values()]
        best = max(signal.best for signal in arriving)
        weight = users.get(node)
        contraction = None
        if weight is not None:
            read = reads.get((node, weight.name))
            contraction = _contract(node, weight, coupling, reach, step, read.axis if read else None)
        if contraction is not None:
            reach.contractions[node] = contraction
            best = float(contraction.outputs.max(initial=-np.inf))
            others = reach.signals[str(contraction.data.name)].axes
            sources = [(contraction.classes.output, contraction.outputs)]
            sources += [entry for axis, entry in others.items() if axis != contraction.axis]
        for output in node.outputs:
            reach.signals[str(output.name)] = _carry(axes.get(str(output.name), {}), sources, best)
    return reach


def _sources(node: ir.Node) -> Iterable[ir.Value]:
    yield from (value for value in node.inputs if value is not None)
    yield from captured_values(node)


def _carry(wanted: dict[int, ClassIds], sources: list[tuple[ClassIds, Scores]], best: float) -> _Signal:
    """Scores of a node's output from those of its inputs, matched by position where ids agree, else by
    class."""
    axes: dict[int, tuple[ClassIds, Scores]] = {}
    for axis, ids in wanted.items():
        alike = [scores for known, scores in sources if np.array_equal(known, ids)]
        if alike:
            axes[axis] = ids, np.maximum.reduce(alike)
        else:
            axes[axis] = ids, _by_class(ids, sources, best)
    if axes:
        best = min(float(scores.max(initial=-np.inf)) for _, scores in axes.values())
    return _Signal(axes, best)


def _by_class(ids: ClassIds, sources: list[tuple[ClassIds, Scores]], best: float) -> Scores:
    known = np.concatenate([np.zeros(0, dtype=np.int64), *(row for row, _ in sources)])
    scores = np.concatenate([np.zeros(0), *(row for _, row in sources)])
    size = int(max(known.max(initial=-1), ids.max(initial=-1))) + 1
    table = np.full(size, -np.inf)
    np.maximum.at(table, known, scores)
    present = np.zeros(size, dtype=np.bool_)
    present[known] = True
    return np.where(present[ids], table[ids], best)


def _contract(
    node: ir.Node, weight: Weight, coupling: Coupling, reach: Reach, step: Step, axis: int | None
) -> _Contraction | None:
    use = next(use for use in weight.uses if use.node is node)
    data = node.inputs[1 - use.input_index]
    signal = reach.signals.get(str(data.name)) if data is not None else None
    if data is None or signal is None:
        return None
    classes = coupling.weights[weight.name]
    followed = signal.axes.get(axis) if axis is not None else None
    if followed is None or len(followed[0]) != classes.input.size:
        axis = None
        inputs = np.full(classes.input.size, signal.best)
    else:
        inputs = followed[1]
    groups = weight.outputs // weight.groups
    grouped = inputs.reshape(weight.groups, weight.inputs_per_group)
    outputs = np.full(weight.outputs, -np.inf)
    at_once = max(1, _ROWS_AT_ONCE // max(1, weight.inputs_per_group))
    for start in range(0, weight.outputs, at_once):
        rows = slice(start, min(start + at_once, weight.outputs))
        arriving = grouped[np.arange(rows.start, rows.stop) // groups] if weight.groups > 1 else grouped
        outputs[rows] = step(weight.name, rows, arriving)
    return _Contraction(weight, classes, data, axis, inputs, outputs)


def trace(reach: Reach, edges: Edges, output: ir.Value) -> list[Link]:
    """The best chain to a tensor that is reached, from the output backwards."""
    chain: list[Link] = []
    value: ir.Value | None = output
    place: tuple[int, int] | None = None
    while value is not None:
        signal = reach.signals[str(value.name)]
        if place is None and signal.axes:
            axis = next(iter(signal.axes))
            place = axis, int(np.argmax(signal.axes[axis][1]))
        node = value.producer()
        if node is None:
            break
        ids = signal.axes[place[0]][0] if place is not None else None
        contraction = reach.contractions.get(node)
        if contraction is None:
            value, place = _step_back(reach, node, ids, place)
            continue
        link, place = _link(contraction, edges, ids, place)
        chain.append(link)
        value = contraction.data
    return chain


def _link(
    contraction: _Contraction, edges: Edges, ids: ClassIds | None, place: tuple[int, int] | None
) -> tuple[Link, tuple[int, int] | None]:
    """The slice through which the best chain passes, and the channel it comes from."""
    weight, produced = contraction.weight, contraction.classes.output
    scores = contraction.outputs
    if place is not None and ids is not None:
        if np.array_equal(ids, produced):
            scores = np.where(np.arange(len(scores)) == place[1], scores, -np.inf)
        elif (produced == ids[place[1]]).any():
            scores = np.where(produced == ids[place[1]], scores, -np.inf)
    row = int(np.argmax(scores))
    first = row // (weight.outputs // weight.groups) * weight.inputs_per_group
    arriving = contraction.inputs[first : first + weight.inputs_per_group]
    column = int(np.argmax(edges(weight.name, slice(row, row + 1))[0] + arriving))
    source = None if contraction.axis is None else (contraction.axis, first + column)
    return Link(weight.name, row, column), source


def _step_back(
    reach: Reach, node: ir.Node, ids: ClassIds | None, place: tuple[int, int] | None
) -> tuple[ir.Value, tuple[int, int] | None]:
    """The input, and the channel of it, that the best chain to a channel of the node's output comes from."""
    arriving = [value for value in _sources(node) if str(value.name) in reach.signals]
    alike: list[tuple[float, int, tuple[int, int]]] = []
    classed: list[tuple[float, int, tuple[int, int]]] = []
    if place is not None and ids is not None:
        for number, value in enumerate(arriving):
            for axis, (known, scores) in reach.signals[str(value.name)].axes.items():
                if np.array_equal(known, ids):
                    alike.append((float(scores[place[1]]), number, (axis, place[1])))
                for index in np.flatnonzero(known == ids[place[1]]):
                    classed.append((float(scores[index]), number, (axis, int(index))))
    for found in (alike, classed):
        if found:
            _, number, source = max(found, key=lambda entry: entry[0])
            return arriving[number], source
    return max(arriving, key=lambda value: reach.signals[str(value.name)].best), None
