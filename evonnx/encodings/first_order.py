"""First-order strengths: how much the model's answers are expected to change when a synapse goes.

s = E[(w dL/dw)^2] over batches, with targets drawn from the model's own softened answers: the diagonal of the
Fisher information times w^2 (Theis et al., "Faster gaze prediction with dense networks and Fisher pruning",
2018; Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019). It needs no scale of a
layer's own, so layers compare as they are. x is the rank of s among all live synapses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evonnx.encodings._ranks import Read, express_ranks, take_census
from evonnx.errors import EvonnxError
from evonnx.genome import Block, Expression, Floats, Parent


def _sensitivities(parent: Parent, name: str) -> Read:
    assert parent.sensitivities is not None
    canonical = parent.network.weights[name].to_canonical(parent.sensitivities[name])

    def of_block(block: Block) -> Floats:
        return np.asarray(canonical[block.rows], dtype=np.float32)

    return of_block


@dataclass(frozen=True)
class FirstOrder:
    """Rank of a synapse's sensitivity among all live synapses; of a cluster: rank of the mean over
    members."""

    name: str = "first-order"
    from_gradients: ClassVar[bool] = True

    def express(self, parent: Parent, truncation: float) -> Expression:
        """Ranks in (0, 1]. Synapses under tau times their layer's largest sensitivity count 0 in their
        clusters' means.

        Raises:
            EvonnxError: nothing was measured.
        """
        if parent.sensitivities is None:
            raise EvonnxError(
                f"Strength {self.name!r} is read from gradients, which an adapter measures during `evonnx "
                "evolve`; there are none here. Choose another encoding, such as adaptive."
            )
        names = parent.network.weights
        censuses = {name: take_census(parent, name, _sensitivities(parent, name)) for name in names}
        scores = {name: census.measures() for name, census in censuses.items()}
        return express_ranks(parent, censuses, scores, truncation)
