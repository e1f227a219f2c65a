"""Training as a pure function: one interval of steps is one ``lax.scan``, without any I/O.

Everything comes in as functions and arrays, so one loop serves every task, and seeds and float
settings are added by ``vmap``::

    jax.vmap(functools.partial(run_interval, program, num_steps, data))(settings, states)
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import random
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from experiments.running import devices
from experiments.tasks import base
from experiments.tasks.base import Example, Params, Settings, Task
from gsm import learned, schedules

OPTIMIZERS = ("adam", "radam", "sgd")


class Program(NamedTuple):
    """What to train: functions and static sizes; hashable, so it may be a static argument."""

    init: Callable[[Key[Array, ""]], Params]
    """Parameters ``{"model": ..., "estimator": ...}`` from a key."""
    loss: Callable[[Params, Key[Array, ""], Example, Any], Float[Array, ""]]
    """Surrogate of a minibatch: ``loss(params, key, batch, hyperparams)``."""
    prepare: Callable[[Key[Array, ""], Example], Example]
    """One stored example (uint8) to one for the loss; draws a dynamic binarisation."""
    hyperparams: Callable[[Int[Array, ""], Settings], Any]
    """The estimator's hyperparameters at a step."""
    learning_rate: Callable[[Int[Array, ""], Settings], Float[Array, ""]]
    """The model's learning rate at a step."""
    optimizer: Callable[[Float[Array, ""]], optax.GradientTransformation]
    """The optimiser of all parameters at a learning rate of the model's."""
    batch_size: int
    mesh: Mesh | None = None
    """Devices over which a minibatch is divided; None: one device."""


class TrainState(NamedTuple):
    """All that a run carries from step to step; with the data it determines the rest of the run."""

    step: Int[Array, ""]
    key: Key[Array, ""]
    params: Params
    opt_state: optax.OptState


def program_of(config: ConfigDict, task: Task, mesh: Mesh | None = None) -> Program:
    """The program that trains a task as a checked configuration says, on the devices of a mesh."""

    def learning_rate(step, settings):
        rate = settings["optimizer.learning_rate"]
        return schedules.linear_decay(rate, settings["optimizer.final_share"], config.num_steps)(
            step
        )

    return Program(
        init=task.init,
        loss=task.loss,
        prepare=task.prepare,
        hyperparams=base.hyperparams(config),
        learning_rate=learning_rate,
        optimizer=functools.partial(
            optimizer,
            name=config.optimizer.name,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            average_decay=config.signal.decay,
            learned_rate=config.learned.learning_rate,
        ),
        batch_size=config.batch_size,
        mesh=mesh,
    )


def settings_of(config: ConfigDict) -> Settings:
    """The settings of a configuration, as arrays."""
    return {name: jnp.float32(value) for name, value in base.settings(config).items()}


def optimizer(
    learning_rate: Float[Array, ""],
    name: str = "adam",
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    average_decay: float = 0.9,
    learned_rate: float = 1e-3,
) -> optax.GradientTransformation:
    """One optimiser of ``{"model": ..., "estimator": ...}``.

    Args:
      learning_rate: of the model; may be traced.
      name: of the model's optimiser, one of OPTIMIZERS.
      momentum: of sgd.
      weight_decay: of the model's kernels, times the learning rate, beside the direction (AdamW).
      average_decay: of the estimator's moving averages, per step.
      learned_rate: learning rate of Adam for all else that the estimator learns.
    """
    directions = {
        "adam": optax.scale_by_adam,
        "radam": optax.scale_by_radam,
        "sgd": functools.partial(optax.trace, momentum),
    }
    steps = [directions[name]()]
    if weight_decay:
        steps.append(optax.add_decayed_weights(weight_decay, _kernels))
    of_model = optax.chain(*steps, optax.scale(-learning_rate))

    of_each = {"model": of_model, "estimator": learned.optimizer(average_decay, learned_rate)}
    return optax.multi_transform(of_each, {name: name for name in of_each})


def _kernels(params: Params) -> Params:
    """Which parameters decay: the kernels of maps, not biases, nor the logits of a prior."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def init_state(program: Program, key: Key[Array, ""]) -> TrainState:
    """State at step 0. The run's own key and the initial parameters come from ``key``."""

    def init(key):
        key_params, key_run = random.split(key)
        params = program.init(key_params)
        opt_state = program.optimizer(jnp.float32(0)).init(params)
        return TrainState(jnp.int32(0), key_run, params, opt_state)

    return jax.jit(init)(key)  # one program in place of a hundred small ones


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
    keys_prepare = random.split(key_prepare, program.batch_size)
    if program.mesh is not None:
        # All else follows: XLA divides what is computed for an example, and adds up gradients.
        over_devices = devices.divided(program.mesh)
        rows, keys_prepare = jax.lax.with_sharding_constraint((rows, keys_prepare), over_devices)
    stored = jax.tree.map(lambda x: x[rows], data)
    batch = jax.vmap(program.prepare)(keys_prepare, stored)
    hyperparams = program.hyperparams(state.step, settings)

    # One pass for model and estimator, both updated after it: what an estimator has learned never
    # saw the batch that it is used on.
    loss, gradient = jax.value_and_grad(program.loss)(state.params, key_loss, batch, hyperparams)
    learning_rate = _after(gradient["model"], program.learning_rate(state.step, settings))
    optimizer = program.optimizer(learning_rate)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, state.key, params, opt_state), loss


def _after(kernels: Params, value: Float[Array, ""]) -> Float[Array, ""]:
    """The same value, which XLA computes after all matrices of a tree.

    A gradient's products read the kernels. Where an update may come before the last of them, XLA
    copies the kernel in each step. ``lax.optimization_barrier`` is removed before that is decided.
    """
    firsts = [x.reshape(-1)[0] for x in jax.tree.leaves(kernels) if x.ndim > 1]
    return value + jax.lax.clamp(0.0, sum(firsts), 0.0) if firsts else value


@functools.partial(jax.jit, static_argnums=(0, 1))
def run_interval(
    program: Program, num_steps: int, data: Example, settings: Settings, state: TrainState
) -> tuple[TrainState, Float[Array, " num_steps"]]:
    """``num_steps`` updates in one scan; returns the state after them and each step's loss."""

    def body(state, _):
        return train_step(program, data, settings, state)

    return jax.lax.scan(body, state, length=num_steps)
