"""Whether a sample still connects its outputs with its inputs, and what to let live so that it does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.synthesis.connectivity import Link, through, through_living, trace, walk
from evonnx.synthesis.solution import Solution
from evonnx.synthesis.trimming import Canonical

_WAKING = -1e6
"""Score of waking a dead synapse, far below any log probability: chains wake as few as they can."""
_TIE = 1e-3
"""Weight of log probabilities among synapses that live."""


class Chains:
    """Chains of slices from inputs to the outputs that a solution keeps; masks are in the canonical view."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution

    def cut(self, masks: Canonical) -> bool:
        """Whether some output has lost every input."""
        step = through_living(lambda name, rows: masks[name][rows])
        reach = walk(self.solution.network, self.solution.coupling, step)
        return not all(reach.reached(value) for value in self._outputs())

    def chain(self, masks: Canonical, fewest: bool = False) -> list[Link]:
        """Slices that connect every output with an input.

        Args:
            masks: what lives.
            fewest: the cheapest in the budget's own terms, whether they live or not; else the fewest dead
                ones, then the most probable.
        """
        solution = self.solution
        genome = solution.genome
        log_clusters = genome.cluster_log_probability()
        links: list[Link] = []

        def edges(name: str, rows: slice) -> NDArray[np.floating]:
            block = genome.parent.block(name, rows)
            log_p = genome.synapse_log_probability(block)
            if fewest:
                scores = np.full(block.live.shape[:2], -solution.prices[name])
            else:
                log_c = genome.parent.clusters.layers[name].spread(log_clusters, rows, np.add)
                log_p = np.where(block.live, log_p, -np.inf) + log_c
                here = masks[name][rows]
                scores = np.where(here, log_p * _TIE, log_p + _WAKING).max(axis=2)
            scores[~block.live.any(axis=2)] = -np.inf
            for link in links:
                if link.weight == name and rows.start <= link.output < rows.stop:
                    scores[link.output - rows.start, link.input] = 0
            return scores

        for value in self._outputs():
            links += trace(walk(solution.network, solution.coupling, through(edges)), edges, value)
        return list(dict.fromkeys(links))

    def tap(self, masks: Canonical, link: Link) -> int:
        """The most probable synapse of a slice: a live one if there is any, else one the parent has."""
        block = self.solution.genome.parent.block(link.weight, slice(link.output, link.output + 1))
        log_p = self.solution.genome.synapse_log_probability(block)[0, link.input]
        here = masks[link.weight][link.output, link.input]
        candidates = here if here.any() else block.live[0, link.input]
        return int(np.argmax(np.where(candidates, log_p, -np.inf)))

    def _outputs(self) -> list[ir.Value]:
        wanted = set(self.solution.outputs)
        return [value for value in self.solution.network.model.graph.outputs if value.name in wanted]
