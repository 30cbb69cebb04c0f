"""Large models: seconds and memory of `inspect`, `synthesize` and `compact` as bytes and nodes grow.

    python benchmarks/scale.py bytes [--gib 3] [--folder DIR]       one model, its weights in external data
    python benchmarks/scale.py evolve [--gib 2.1] [--epochs 0]      a whole generation of such a model
    python benchmarks/scale.py nodes [--counts 1250,2500,5000,10000,20000] [--steps inspect,synthesize]

`bytes` writes a stack of wide MatMul layers and one convolution into a temporary folder, samples an offspring
of 60% of its synapses by whole channels, and removes what is dead, proven. `evolve` has the torch adapter
retrain such an offspring, on eight synthetic examples: all files are larger than evonnx writes into one.
`nodes` does the first two with deep narrow graphs: residual convolutions, and attention with its reshapes.

Every command is a process of its own; "peak" is the largest resident memory that the system counted for it,
pages of mapped files included; seconds are of wall time, and of processor time where growth is judged. Exit
code 1 if a limit is broken: 8 GiB and 15 minutes for `bytes`; for `nodes` 30 s for `inspect` of the largest
graph, and processor time that grows faster than the 1.3th power of nodes; `evolve` has none.
`--out FILE` writes tables into the sections `scale-bytes`, `scale-evolve` and `scale-nodes` of a Markdown
file. Linux only.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from provenance import provenance, replace_section

GIB = 1 << 30
PEAK_GIB, SECONDS = 8.0, 900.0
INSPECT_SECONDS, EXPONENT = 30.0, 1.3
WIDTH = 8192
"""Of a layer: 256 MiB of float32."""
DIMS, HEADS = 16, 4


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    seconds: float
    """Of wall time."""
    processor: float
    """Seconds of processor time, all threads together."""
    peak_bytes: int


def measured(*words: str | Path) -> Cost:
    """Run `evonnx WORDS...` as a process of its own.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "evonnx", *map(str, words)], stdout=subprocess.DEVNULL, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"evonnx {words[0]}: {said.read().decode(errors='replace')}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


# ----------------------------------------------------------------------------------------------------- bytes


class External:
    """Weights written one after another into a file beside the model; none stays in memory."""

    def __init__(self, model: Path) -> None:
        """Begin the file."""
        self.path = model.with_name(f"{model.name}.data")
        self.tensors: list[onnx.TensorProto] = []
        self.path.write_bytes(b"")
        self._rng = np.random.default_rng(0)

    def add(self, name: str, *shape: int) -> str:
        """A weight of unit gain."""
        begin = self.path.stat().st_size
        fan = math.prod(shape[1:]) if len(shape) > 2 else shape[0]
        with self.path.open("ab") as file:
            for _ in range(shape[0]):
                row = self._rng.standard_normal(shape[1:], dtype=np.float32)
                file.write((row / np.float32(math.sqrt(fan))).tobytes())
            size = file.tell() - begin
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.path.name), ("offset", begin), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name


def write_wide(path: Path, size: int, width: int = WIDTH) -> None:
    """A convolution and a stack of MatMul layers with about `size` bytes of external weights."""
    data = External(path)
    layers = max(1, round(size / (4 * width * width)))
    nodes = [
        helper.make_node(
            "Conv", ["x", data.add("conv.weight", width // 64, 3, 3, 3)], ["conv"], "conv", pads=[1] * 4
        ),
        helper.make_node("Relu", ["conv"], ["relu"], "relu"),
        helper.make_node("Flatten", ["relu"], ["layer0"], "flatten"),
    ]
    for layer in range(layers):
        weight = data.add(f"fc{layer}.weight", width, width)
        nodes.append(helper.make_node("MatMul", [f"layer{layer}", weight], [f"fc{layer}"], f"fc{layer}"))
        nodes.append(helper.make_node("Relu", [f"fc{layer}"], [f"layer{layer + 1}"], f"relu{layer}"))
    last = data.add("head.weight", width, 10)
    nodes.append(helper.make_node("MatMul", [f"layer{layers}", last], ["y"], "head"))
    _save(nodes, data.tensors, [1, 3, 8, 8], [1, 10], path)


def _save(
    nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], x: list[int], y: list[int], path: Path
) -> None:
    graph = helper.make_graph(
        nodes,
        "scale",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def of_bytes(gib: float, folder: Path) -> dict[str, Cost]:
    """The three commands on a model of that size; a file is removed when it is done with."""
    model, masked, compact = (folder / f"{name}.onnx" for name in ("model", "masked", "compact"))
    write_wide(model, round(gib * GIB))
    costs = {"inspect": measured("inspect", model)}
    _tell("inspect", costs["inspect"])
    channels = ("--levels", "clusters", "--clusters", "channel", "--align", "1")
    costs["synthesize"] = measured(
        "synthesize", model, "-o", masked, "--keep", "0.6", "--provider", "cpu", *channels
    )
    _tell("synthesize", costs["synthesize"])
    for file in (model, model.with_name(f"{model.name}.data")):
        file.unlink()
    costs["compact"] = measured("compact", masked, "-o", compact)
    _tell("compact", costs["compact"])
    return costs


TASK = """[task]
kind = "distillation"
train_size = 8
validation_size = 8
test_size = 8
"""


def of_evolution(gib: float, epochs: int, folder: Path) -> dict[str, Cost]:
    """One generation of a model of that size, and its recovery training."""
    model, task = folder / "model.onnx", folder / "task.toml"
    write_wide(model, round(gib * GIB))
    task.write_text(TASK)
    training = ("--adapter", "torch", "--epochs", str(epochs), "--recovery-epochs", str(epochs))
    sampling = ("--keep", "0.9", "--levels", "clusters", "--screen", "1", "--align", "1")
    more = ("--gens", "1", "--max-drop", "100", "--provider", "cpu", "--out", str(folder / "run"))
    cost = measured("evolve", model, "--task", task, *more, *training, *sampling)
    _tell("evolve", cost)
    return {f"evolve --epochs {epochs}": cost}


# ----------------------------------------------------------------------------------------------------- nodes


class Deep:
    """A deep narrow graph under construction."""

    def __init__(self) -> None:
        """Empty."""
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        """A random initializer."""
        name = f"w{len(self.tensors)}"
        values = self._rng.standard_normal(shape, dtype=np.float32) / np.float32(math.sqrt(shape[-1]))
        self.tensors.append(onnx.numpy_helper.from_array(values, name))
        return name

    def ints(self, *values: int) -> str:
        """A constant shape."""
        name = f"w{len(self.tensors)}"
        self.tensors.append(onnx.numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def node(self, op_type: str, *inputs: str, **attributes: object) -> str:
        """A node; its one output."""
        name = f"n{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op_type, inputs, [name], f"{op_type}{len(self.nodes)}", **attributes)
        )
        return name


def convolutions(count: int) -> tuple[Deep, list[int]]:
    """Residual blocks of two convolutions, normalised: 6 nodes a block."""
    deep = Deep()
    value = deep.node("Conv", "x", deep.weight(DIMS, 3, 1, 1))
    while len(deep.nodes) < count - 2:
        inner = deep.node("Conv", value, deep.weight(DIMS, DIMS, 3, 3), pads=[1] * 4)
        norm = [deep.weight(DIMS) for _ in range(3)]
        variance = deep.ints()  # replaced below: a variance is not negative
        deep.tensors[-1] = onnx.numpy_helper.from_array(np.ones(DIMS, np.float32), variance)
        inner = deep.node("Relu", deep.node("BatchNormalization", inner, *norm, variance))
        inner = deep.node("Conv", inner, deep.weight(DIMS, DIMS, 1, 1), deep.weight(DIMS))
        value = deep.node("Relu", deep.node("Add", value, inner))
    value = deep.node("Flatten", deep.node("GlobalAveragePool", value))
    deep.node("Identity", value)
    return deep, [1, 3, 8, 8]


def attention(count: int) -> tuple[Deep, list[int]]:
    """Transformer blocks with heads: 25 nodes a block, most of them about shapes."""
    deep = Deep()
    value = deep.node("MatMul", "x", deep.weight(8, DIMS))

    def linear(x: str) -> str:
        return deep.node("Add", deep.node("MatMul", x, deep.weight(DIMS, DIMS)), deep.weight(DIMS))

    def heads(x: str, *perm: int) -> str:
        split = deep.node("Reshape", x, deep.ints(0, -1, HEADS, DIMS // HEADS))
        return deep.node("Transpose", split, perm=perm)

    while len(deep.nodes) < count - 1:
        query, key = heads(linear(value), 0, 2, 1, 3), heads(linear(value), 0, 2, 3, 1)
        scores = deep.node("Softmax", deep.node("MatMul", query, key))
        mixed = deep.node("MatMul", scores, heads(linear(value), 0, 2, 1, 3))
        joined = deep.node(
            "Reshape", deep.node("Transpose", mixed, perm=[0, 2, 1, 3]), deep.ints(0, -1, DIMS)
        )
        value = deep.node("Add", value, linear(joined))
        value = deep.node("LayerNormalization", value, deep.weight(DIMS), deep.weight(DIMS))
        value = deep.node("Add", value, linear(deep.node("Relu", linear(value))))
    deep.node("ReduceMean", value, axes=[1])
    return deep, [1, 6, 8]


GRAPHS: dict[str, Callable[[int], tuple[Deep, list[int]]]] = {
    "convolutions": convolutions,
    "attention": attention,
}


def write_deep(kind: str, count: int, path: Path) -> int:
    """A graph of about `count` nodes; how many there are."""
    deep, x = GRAPHS[kind](count)
    output = [1, DIMS] if kind == "convolutions" else [1, 1, DIMS]
    deep.nodes[-1].output[0] = "y"
    _save(deep.nodes, deep.tensors, x, output, path)
    return len(deep.nodes)


def of_nodes(
    kind: str, counts: Sequence[int], steps: Sequence[str], folder: Path
) -> list[tuple[int, dict[str, Cost]]]:
    """Per number of nodes, what each command took."""
    rows = []
    for count in counts:
        model = folder / f"{kind}-{count}.onnx"
        nodes = write_deep(kind, count, model)
        costs = {}
        for step in steps:
            more = (
                ("-o", folder / "offspring.onnx", "--align", "1", "--provider", "cpu")
                if step == "synthesize"
                else ()
            )
            costs[step] = measured(step, model, *more)
            _tell(f"{kind}, {nodes} nodes, {step}", costs[step])
        rows.append((nodes, costs))
    return rows


def exponent(rows: Sequence[tuple[int, dict[str, Cost]]], step: str) -> float:
    """The power of nodes that processor time grows with between the third largest graph and the largest.

    Start-up, which all have, is taken off: what the smallest graph takes, less its share by nodes.
    """
    nodes = np.array([row[0] for row in rows], np.float64)
    seconds = np.array([row[1][step].processor for row in rows])
    if len(rows) < 3:
        return math.nan
    slope = (seconds[1] - seconds[0]) / (nodes[1] - nodes[0])
    start = max(0.0, min(seconds[0] - slope * nodes[0], 0.9 * seconds[0]))
    first = -3
    return float(
        math.log((seconds[-1] - start) / (seconds[first] - start)) / math.log(nodes[-1] / nodes[first])
    )


# ---------------------------------------------------------------------------------------------------- report


def _tell(what: str, cost: Cost) -> None:
    print(
        f"{what}: {cost.seconds:.1f} s, {cost.processor:.1f} s CPU, peak {cost.peak_bytes / GIB:.2f} GiB",
        file=sys.stderr,
        flush=True,
    )


def _bytes_table(gib: float, costs: dict[str, Cost]) -> str:
    lines = [f"| command on {gib:g} GiB | seconds | processor | peak, GiB |", "|---|---:|---:|---:|"]
    lines += [
        f"| `{name}` | {cost.seconds:.0f} | {cost.processor:.0f} | {cost.peak_bytes / GIB:.1f} |"
        for name, cost in costs.items()
    ]
    return "\n".join(lines)


def _nodes_table(found: dict[str, list[tuple[int, dict[str, Cost]]]], steps: Sequence[str]) -> str:
    heads = "".join(f" `{step}`, s | processor | peak, MiB |" for step in steps)
    lines = [f"| graph | nodes |{heads}", "|---|---:|" + "---:|---:|---:|" * len(steps)]
    for kind, rows in found.items():
        for nodes, costs in rows:
            cells = "".join(
                f" {costs[s].seconds:.1f} | {costs[s].processor:.1f} | {costs[s].peak_bytes >> 20} |"
                for s in steps
            )
            lines.append(f"| {kind} | {nodes:,} |{cells}")
        powers = "".join(f" | ^{exponent(rows, step):.2f} | |" for step in steps)
        lines.append(f"| {kind}, grows with nodes | |{powers}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("bytes", "evolve", "nodes"))
    parser.add_argument("--gib", type=float, help="of weights: 3, for evolve 2.1")
    parser.add_argument("--epochs", type=int, default=0, help="of evolve")
    parser.add_argument("--counts", default="1250,2500,5000,10000,20000")
    parser.add_argument("--steps", default="inspect,synthesize")
    parser.add_argument("--kinds", default=",".join(GRAPHS))
    parser.add_argument("--folder", help="where the temporary folder goes")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    steps = options.steps.split(",")
    with tempfile.TemporaryDirectory(prefix="evonnx-scale-", dir=options.folder) as place:
        if options.what == "bytes":
            gib = options.gib or 3.0
            costs = of_bytes(gib, Path(place))
            table = _bytes_table(gib, costs)
            broken = [
                name
                for name, cost in costs.items()
                if cost.peak_bytes > PEAK_GIB * GIB or cost.seconds > SECONDS
            ]
        elif options.what == "evolve":
            gib = options.gib or 2.1
            table, broken = _bytes_table(gib, of_evolution(gib, options.epochs, Path(place))), []
        else:
            counts = [int(count) for count in options.counts.split(",")]
            found = {kind: of_nodes(kind, counts, steps, Path(place)) for kind in options.kinds.split(",")}
            table = _nodes_table(found, steps)
            broken = [
                f"{kind}, {step}"
                for kind, rows in found.items()
                for step in steps
                if exponent(rows, step) > EXPONENT
                or (step == "inspect" and rows[-1][1][step].processor > INSPECT_SECONDS)
            ]
    text = f"{table}\n\n{provenance()}"
    print(text)
    if options.out:
        replace_section(options.out, f"scale-{options.what}", text)
    if broken:
        print(f"over the limit: {', '.join(broken)}", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
