"""What is compiled: a training step, the loss in evaluation mode, norm statistics, the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from evonnx.masks import Masks
from evonnx_jax.module import Arrays, OnnxFunction, Variables
from evonnx_jax.objective import Objective, Piece
from evonnx_jax.ops import Context
from evonnx_jax.runtime import compiled
from evonnx_training.heads import Head
from evonnx_training.settings import Settings

_MOMENTUM = 0.9


class State(NamedTuple):
    """Everything that a step changes."""

    variables: Variables
    memory: Any
    """The optimizer's."""
    average: dict[str, Any]
    """Moving averages of the trained weights; empty where none are kept."""


def make_optimizer(settings: Settings, decayed: Mapping[str, bool]) -> optax.GradientTransformation:
    """Clipping, then SGD with Nesterov momentum or Adam with decoupled weight decay; all but the rate.

    Args:
        settings: which, and how.
        decayed: by weight, whether decay applies.
    """
    decay = optax.add_decayed_weights(settings.weight_decay, dict(decayed))
    parts = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm > 0 else []
    if settings.optimizer == "adam":
        return optax.chain(*parts, optax.scale_by_adam(), decay)
    return optax.chain(*parts, decay, optax.trace(_MOMENTUM, nesterov=True))


class Stepper:
    """Steps of one network towards one objective.

    Args:
        function: the network.
        objective: the loss.
        settings: how to train.
        masks: by tensor name; masked entries stay zero.
        frozen: whether norms keep their running statistics.
        seed: of random draws.
    """

    def __init__(
        self,
        function: OnnxFunction,
        objective: Objective,
        settings: Settings,
        masks: Masks,
        frozen: bool,
        seed: int,
    ) -> None:
        self.function, self.objective, self.frozen = function, objective, frozen
        self.trained = function.reached(objective.taps)
        self.optimizer = make_optimizer(
            settings, {name: name in function.roles.decayed for name in self.trained}
        )
        self.averaged = settings.ema_decay > 0
        # Handed to each step: as constants of the compiled function they would be compiled into it.
        self._masks = {name: jnp.asarray(mask) for name, mask in masks.items() if name in self.trained}
        self._seed = np.uint32(seed % 2**32)
        self._step, self._loss = compiled(self._train), compiled(self._evaluate)
        self._moments = compiled(self._observe)

    def begin(self, variables: Variables) -> State:
        """The state before the first step."""
        trained = self._part(variables.weights)
        return State(variables, self.optimizer.init(trained), dict(trained) if self.averaged else {})

    def step(self, state: State, piece: Piece, rate: float, share: float, number: int) -> tuple[State, Any]:
        """One step; the state after it and the loss before it.

        Args:
            state: as it is.
            piece: the data.
            rate: learning rate.
            share: of the new weights in the moving averages.
            number: of this step, which random draws follow from.
        """
        numbers = np.float32(rate), np.float32(share), np.uint32(number % 2**32)
        found: tuple[State, Any] = self._step(state, self._masks, piece, *numbers, self._seed)
        return found

    def loss(self, variables: Variables, piece: Piece) -> float:
        """In evaluation mode."""
        return float(self._loss(variables, piece))

    def statistics(self, variables: Variables, piece: Piece, share: float, number: int) -> Variables:
        """With this batch's norm statistics in the running ones at the given share."""
        found = self._moments(variables, piece, np.float32(share), np.uint32(number), self._seed)
        return Variables(variables.weights, found)

    def _part(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        return {name: weights[name] for name in sorted(self.trained)}

    def _masked(self, masks: Arrays, arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {n: jnp.where(masks[n], x, 0.0) if n in masks else x for n, x in arrays.items()}

    def _train(
        self, state: State, masks: Arrays, piece: Piece, rate: Any, share: Any, number: Any, seed: Any
    ) -> tuple[State, Any]:
        key = jax.random.fold_in(jax.random.PRNGKey(seed), number)
        old, fixed = self._part(state.variables.weights), state.variables

        def lossy(trained: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            variables = Variables({**fixed.weights, **trained}, fixed.statistics)
            context = Context(training=True, frozen=self.frozen, key=key)
            outputs, statistics = self.function(variables, piece.inputs, self.objective.taps, context)
            return self.objective(outputs, piece), statistics

        (loss, statistics), gradients = jax.value_and_grad(lossy, has_aux=True)(old)
        updates, memory = self.optimizer.update(self._masked(masks, gradients), state.memory, old)
        new = self._masked(masks, {name: old[name] - rate * updates[name] for name in old})
        average = {name: x + share * (new[name] - x) for name, x in state.average.items()}
        return State(Variables({**fixed.weights, **new}, statistics), memory, average), loss

    def _evaluate(self, variables: Variables, piece: Piece) -> Any:
        outputs, _ = self.function(variables, piece.inputs, self.objective.taps, Context())
        return self.objective(outputs, piece)

    def _observe(
        self, variables: Variables, piece: Piece, share: Any, number: Any, seed: Any
    ) -> dict[str, Any]:
        key = jax.random.fold_in(jax.random.PRNGKey(seed), number)
        context = Context(training=True, share=share, key=key)
        _, statistics = self.function(variables, piece.inputs, self.objective.taps, context)
        return statistics


class Teacher:
    """The ancestor in evaluation mode, read at the same places as the student. Compiled once for all
    generations.

    Args:
        function: the ancestor.
        heads: where its outputs are read.
    """

    def __init__(self, function: OnnxFunction, heads: tuple[Head, ...]) -> None:
        self.function = function
        self._variables = jax.device_put(function.variables({}))
        taps = tuple(head.tap for head in heads)

        def run(variables: Variables, inputs: Arrays) -> tuple[Any, ...]:
            outputs, _ = function(variables, inputs, taps, Context())
            return tuple(outputs[tap] for tap in taps)

        self._run = compiled(run)

    def __call__(self, piece: Piece) -> Piece:
        """The piece with what the teacher says of it."""
        return piece._replace(taught=self._run(self._variables, piece.inputs))
