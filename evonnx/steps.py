"""Steps of a generation that belong together whoever calls them: the command line, the Python API."""

from __future__ import annotations

from dataclasses import dataclass

from evonnx.compaction import Compacted, Plan, apply_plan, plan_compaction
from evonnx.dependency import analyse
from evonnx.network import Network
from evonnx.proof import Proof, prove, require


@dataclass(frozen=True)
class Removal:
    """A compact model with the plan that made it and the proof that it is equal."""

    plan: Plan
    compacted: Compacted
    proof: Proof


def compact(masked: Network, *, align: int = 1, seed: int = 0) -> Removal:
    """Remove physically what is dead in a model, and prove that its function stayed the same.

    Args:
        masked: a model whose dead synapses are zero, as `load` gives it.
        align: keep channel counts at multiples of this.
        seed: of the proof's random inputs.

    Raises:
        ProofError: masked and compact model differ, or the proof has no power.
    """
    plan = plan_compaction(masked, analyse(masked), align=align)
    compacted = apply_plan(masked, plan)
    proof = prove(masked.model, compacted, input_shapes=masked.input_shapes or None, seed=seed)
    require(proof)
    return Removal(plan, compacted, proof)
