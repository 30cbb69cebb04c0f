"""Encode and sample a network of 100 million synapses: under 5 s on 2 cores, under 3x the weights' memory.

    python benchmarks/genetics.py [--synapses 100] [--encoding adaptive] [--density 1.0]

Prints seconds and peak memory per encoding, and exits with 1 if one is over a limit. Meant for an idle
machine with 2 cores: other work shows in the seconds. Peak memory is the whole process at its largest
(weights, Python, libraries) while encoding and sampling; every encoding runs in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import numpy as np
import onnx_ir as ir

from evonnx import encodings
from evonnx.clusters import find_clusters
from evonnx.dependency import analyse
from evonnx.encodings import Encoding
from evonnx.environment import Budget
from evonnx.genome import encode
from evonnx.network import Network, network_of
from evonnx.synthesis import Sample, sample, solve

SECONDS = 5.0
TIMES_WEIGHTS = 3.0
PRESETS: dict[str, Encoding] = {
    "cluster-driven": encodings.cluster_driven,
    "synaptic": encodings.synaptic,
    "adaptive": encodings.adaptive,
}


def big_network(synapses: int, density: float = 1.0) -> Network:
    """Two convolutions and three wide Gemms of about `synapses` weights in all, normally distributed."""
    rng = np.random.default_rng(0)
    wide = max(8, int(np.sqrt(synapses / 2.15)) // 8 * 8)
    shapes = [
        (wide // 8, 16, 3, 3),
        (wide // 4, wide // 8, 3, 3),
        (wide, wide // 4),
        (wide, wide),
        (10, wide),
    ]
    spent = sum(int(np.prod(shape)) for shape in shapes)
    shapes.insert(4, (max(1, (synapses - spent) // wide), wide))
    shapes[5] = (10, shapes[4][0])
    value = ir.val("x", ir.DataType.FLOAT, ir.Shape([1, 16, 8, 8]))
    nodes: list[ir.Node] = []
    initializers: list[ir.Value] = []
    inputs = [value]
    for index, shape in enumerate(shapes):
        array = rng.standard_normal(shape, dtype=np.float32)
        if density < 1:
            array[rng.random(shape, dtype=np.float32) >= density] = 0
        weight = ir.Value(name=f"w{index}", const_value=ir.tensor(array, name=f"w{index}"))
        weight.shape, weight.dtype = ir.Shape(shape), ir.DataType.FLOAT
        initializers.append(weight)
        if len(shape) == 4:
            nodes.append(ir.node("Conv", [value, weight], {"pads": [1, 1, 1, 1]}, name=f"conv{index}"))
        else:
            if index == 2:
                nodes.append(ir.node("GlobalAveragePool", [value], name="pool"))
                nodes.append(ir.node("Flatten", [nodes[-1].outputs[0]], name="flatten"))
                value = nodes[-1].outputs[0]
            nodes.append(ir.node("Gemm", [value, weight], {"transB": 1}, name=f"gemm{index}"))
        value = nodes[-1].outputs[0]
    for index, node in enumerate(nodes):
        node.outputs[0].name = f"t{index}"
    value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape([1, 10])
    graph = ir.Graph(
        inputs, [value], nodes=nodes, initializers=initializers, opset_imports={"": 17}, name="big"
    )
    return network_of(ir.Model(graph, ir_version=8), "big.onnx")


def breed(network: Network, encoding: Encoding, share: float = 0.7) -> tuple[Sample, dict[str, float]]:
    """Encode, solve and sample once; gives the sample and seconds per step."""
    coupling = analyse(network)
    seconds = {}
    start = time.perf_counter()
    genome = encode(network, find_clusters(network, coupling, encoding.granularity), encoding)
    seconds["encode"] = time.perf_counter() - start
    solution = solve(network, coupling, genome, Budget(share))
    seconds["solve"] = time.perf_counter() - start - seconds["encode"]
    one = sample(solution, np.random.default_rng(0))
    seconds["sample"] = time.perf_counter() - start - seconds["encode"] - seconds["solve"]
    return one, seconds


def run(preset: str, synapses: int, density: float) -> bool:
    network = big_network(synapses, density)
    weight_bytes = sum(network.array(name).nbytes for name in network.weights)
    one, seconds = breed(network, PRESETS[preset])
    total = sum(seconds.values())
    times = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / weight_bytes
    steps = ", ".join(f"{name} {spent:.2f}" for name, spent in seconds.items())
    print(
        f"{preset:15s} {one.parent_synapses / 1e6:.1f} million synapses: {total:.2f} s ({steps}); "
        f"peak memory {times * weight_bytes / 2**30:.2f} GiB = {times:.2f}x the weights; "
        f"kept {one.achieved_share:.4f} of a bound of 0.7"
    )
    return total <= SECONDS and times < TIMES_WEIGHTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--synapses", type=float, default=100, help="millions")
    parser.add_argument("--encoding", choices=PRESETS, help="only this one, in this process")
    parser.add_argument("--density", type=float, default=1.0, help="share of the parent's synapses that live")
    options = parser.parse_args()
    if options.encoding:
        return 0 if run(options.encoding, int(options.synapses * 1e6), options.density) else 1
    again = [sys.executable, __file__, "--synapses", str(options.synapses), "--density", str(options.density)]
    failed = [name for name in PRESETS if subprocess.run([*again, "--encoding", name]).returncode]
    print(f"over {SECONDS} s or {TIMES_WEIGHTS}x: {', '.join(failed)}" if failed else "all within the limits")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
