"""Training as a pure function: one interval of steps is one ``lax.scan``, without any I/O.

Everything comes in as functions and arrays, so one loop serves every task, and seeds and float
settings are added by ``vmap``::

    jax.vmap(functools.partial(run_interval, program, num_steps, data))(settings, states)
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import random
from jaxtyping import Array, Float, Int, Key

Params = Any
Learned = Any
Example = Any
Settings = Mapping[str, Float[Array, ""]]
"""Scalars that a sweep may trace (learning rate, annealing rate, ...); structure is Python."""


def constant_learning_rate(step: Int[Array, ""], settings: Settings) -> Float[Array, ""]:
    """``settings["learning_rate"]`` at every step."""
    return settings["learning_rate"]


class Program(NamedTuple):
    """What to train: functions and static sizes; hashable, so it may be a static argument."""

    init: Callable[[Key[Array, ""]], tuple[Params, Learned]]
    """The model's parameters, and the estimator's learned parts, from a key."""
    loss: Callable[[Params, Learned, Key[Array, ""], Example, Any], Float[Array, ""]]
    """Surrogate of one example: ``loss(params, learned, key, example, hyperparams)``."""
    prepare: Callable[[Key[Array, ""], Example], Example]
    """One stored example (uint8) to one for the loss; draws a dynamic binarisation."""
    hyperparams: Callable[[Int[Array, ""], Settings], Any]
    """The estimator's hyperparameters at a step."""
    optimizer: optax.GradientTransformation
    """Descent direction without the learning rate."""
    learned_optimizer: optax.GradientTransformation
    """Of the learned parts, with its own learning rates."""
    batch_size: int
    learning_rate: Callable[[Int[Array, ""], Settings], Float[Array, ""]] = constant_learning_rate
    """At a step."""
    other_loss: Callable[[Params, Key[Array, ""]], Float[Array, ""]] | None = None
    """Added to the mean over examples, if there is one: ``other_loss(params, key)``, a loss of what
    is not among the stored examples, such as labelled images."""


class TrainState(NamedTuple):
    """All that a run carries from step to step; with the data it determines the rest of the run."""

    step: Int[Array, ""]
    key: Key[Array, ""]
    params: Params
    opt_state: optax.OptState
    learned: Learned
    learned_opt_state: optax.OptState


def init_state(program: Program, key: Key[Array, ""]) -> TrainState:
    """State at step 0. The run's own key and the initial parameters come from ``key``."""

    def init(key):
        key_params, key_run = random.split(key)
        params, learned = program.init(key_params)
        return TrainState(
            jnp.int32(0),
            key_run,
            params,
            program.optimizer.init(params),
            learned,
            program.learned_optimizer.init(learned),
        )

    return jax.jit(init)(key)  # one program in place of a hundred small ones


def mean_loss(
    program: Program,
    params: Params,
    learned: Learned,
    key: Key[Array, ""],
    batch: Example,
    hyperparams: Any,
) -> Float[Array, ""]:
    """Mean surrogate of a batch of prepared examples, each with a key of its own, and the rest."""
    other: float | Float[Array, ""] = 0.0
    if program.other_loss is not None:
        key, key_other = random.split(key)
        other = program.other_loss(params, key_other)
    size = jax.tree.leaves(batch)[0].shape[0]
    losses = jax.vmap(program.loss, (None, None, 0, 0, None))(
        params, learned, random.split(key, size), batch, hyperparams
    )
    return jnp.mean(losses) + other


def train_step(
    program: Program, data: Example, settings: Settings, state: TrainState
) -> tuple[TrainState, Float[Array, ""]]:
    """One update. Its randomness is ``fold_in(run key, step)``: a resumed run is the same run.

    Args:
      program: what to train.
      data: stored examples, a pytree of arrays with leading axis N.
      settings: traced scalars.
      state: state before the step.

    Returns:
      The state after it, and the mean loss of the batch, drawn with replacement.
    """
    key_batch, key_prepare, key_loss = random.split(random.fold_in(state.key, state.step), 3)
    num_examples = jax.tree.leaves(data)[0].shape[0]
    rows = random.randint(key_batch, (program.batch_size,), 0, num_examples)
    stored = jax.tree.map(lambda x: x[rows], data)
    batch = jax.vmap(program.prepare)(random.split(key_prepare, program.batch_size), stored)
    hyperparams = program.hyperparams(state.step, settings)

    # Both gradients by one pass, both updates after it: the estimate never saw its own batch.
    loss, (gradient, learned_gradient) = jax.value_and_grad(mean_loss, (1, 2))(
        program, state.params, state.learned, key_loss, batch, hyperparams
    )
    direction, opt_state = program.optimizer.update(gradient, state.opt_state, state.params)
    rate = program.learning_rate(state.step, settings)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    updates, learned_opt_state = program.learned_optimizer.update(
        learned_gradient, state.learned_opt_state, state.learned
    )
    learned = optax.apply_updates(state.learned, updates)
    after = TrainState(state.step + 1, state.key, params, opt_state, learned, learned_opt_state)
    return after, loss


@functools.partial(jax.jit, static_argnums=(0, 1))
def run_interval(
    program: Program, num_steps: int, data: Example, settings: Settings, state: TrainState
) -> tuple[TrainState, Float[Array, " num_steps"]]:
    """``num_steps`` updates in one scan; returns the state after them and each step's loss."""

    def body(state, _):
        return train_step(program, data, settings, state)

    return jax.lax.scan(body, state, length=num_steps)
