"""Steps of a generation that belong together whoever calls them: the command line, the Python API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from evonnx.compaction import Compacted, Plan, apply_plan, plan_compaction
from evonnx.dependency import analyse
from evonnx.errors import ModelError
from evonnx.network import Network, load_network
from evonnx.onnx_io import (
    Detached,
    check_detached,
    check_file,
    detach,
    drop_weights,
    load_model,
    save_model,
)
from evonnx.proof import Proof, prove, prove_pair, require
from evonnx.sessions import give_back_memory

_READ_AGAIN_FROM_BYTES = 1 << 25
"""Weights of a compact model that are not kept in memory while the proof has copies of them."""

Timing = Callable[[str], AbstractContextManager[object]]
"""Called with the name of a stage; what it gives is entered while the stage lasts."""


def untimed(stage: str) -> AbstractContextManager[object]:
    """Nobody asks how long a stage takes."""
    return nullcontext()


@dataclass(frozen=True)
class Removal:
    """A compact model with the plan that made it and the proof that it is equal."""

    plan: Plan
    compacted: Compacted
    proof: Proof


def compact(
    masked: Network,
    *,
    align: int = 1,
    seed: int = 0,
    threads: int | None = None,
    timing: Timing = untimed,
    scratch: Path | None = None,
) -> Removal:
    """Remove physically what is dead in a model, and prove that its function stayed the same.

    Args:
        masked: a model whose dead synapses are zero, as `load` gives it.
        align: keep channel counts at multiples of this.
        seed: of the proof's random inputs.
        threads: of onnxruntime, for the proof.
        timing: is told of the stages "compact" and "prove".
        scratch: where the proof of a large model has its temporary files; None: where the system has them.

    Raises:
        ProofError: masked and compact model differ, or the proof has no power.
    """
    with timing("compact"):
        plan = plan_compaction(masked, analyse(masked), align=align)
        compacted = apply_plan(masked, plan)
    shapes = masked.input_shapes or None
    with timing("prove"):
        proof = prove(
            masked.model, compacted, input_shapes=shapes, seed=seed, threads=threads, scratch=scratch
        )
    require(proof)
    return Removal(plan, compacted, proof)


@dataclass(frozen=True)
class WrittenRemoval:
    """A compact model in its file, with what is known of it."""

    plan: Plan
    lineage: Mapping[tuple[str, int], NDArray[np.int64]]
    proof: Proof
    model: ir.Model
    """What the file holds."""


def compact_file(
    masked: Path,
    target: Path,
    parent: Path,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    align: int = 1,
    seed: int = 0,
    threads: int | None = None,
    timing: Timing = untimed,
    network: Network | None = None,
) -> WrittenRemoval:
    """As `compact`, from file to file: of the masked model no more is in memory than the proof needs.

    Args:
        masked: file of a model whose dead synapses are zero.
        target: file to write, before it is proven; the caller drops it where this raises.
        parent: the file it descends from, see `write_checked`.
        input_shapes: concrete shapes of inputs with symbolic dimensions.
        align: keep channel counts at multiples of this.
        seed: of the proof's random inputs.
        threads: of onnxruntime, for the proof.
        timing: is told of the stages "load", "compact", "save" and "prove".
        network: what `masked` holds, where it is in memory; it loses its weights. None: it is read.

    Raises:
        ModelError: the masked model cannot be read, or the compact one written.
        ProofError: they differ, or the proof has no power.
    """
    if network is None:
        with timing("load"):
            network = load_network(masked, input_shapes)
    with timing("compact"):
        plan = plan_compaction(network, analyse(network), align=align)
        compacted = apply_plan(network, plan)
    with timing("save"):
        written = write_checked(compacted.model, target, parent)
    with timing("prove"):
        shapes = network.input_shapes or None
        model = compacted.model
        again = written.nbytes > _READ_AGAIN_FROM_BYTES
        at_hand = [(detach(network.model), written)]
        drop_weights(network.model)
        del written
        if again:
            drop_weights(model)
        give_back_memory()

        def models() -> tuple[Detached, Detached]:
            if at_hand:
                return at_hand.pop()
            return detach(load_network(masked, input_shapes).model), detach(load_model(target))

        proof = prove_pair(
            models,
            plan,
            compacted.kept,
            input_shapes=shapes,
            seed=seed,
            threads=threads,
            scratch=target.absolute().parent,
        )
        give_back_memory()
    require(proof)
    if again:
        with timing("load"):
            model = load_model(target)
    return WrittenRemoval(plan, compacted.lineage, proof, model)


def write_checked(model: ir.Model, path: str | Path, parent: str | Path) -> Detached:
    """Write a model that passes the ONNX checker and shape inference where its parent does, or nothing.

    Returns:
        What was written; its weights are shared with the model.

    Args:
        model: what to write.
        path: where.
        parent: the file it was made from; some real models fail the checker as given and still run.

    Raises:
        ModelError: it fails where its parent does not, or the place cannot be written.
    """
    detached = detach(model)
    _check_like(detached, Path(path), parent)
    save_model(model, path, detached)
    return detached


def _check_like(model: Detached, path: Path, parent: str | Path) -> None:
    """The parent is checked only where the model fails, which is rare: checking a large file takes long."""
    try:
        check_detached(model, str(path))
    except ModelError:
        try:
            check_file(parent)
        except ModelError:
            return
        raise
