"""Polynomial programming over Bernoulli units, a task without a data set.

Minimises ``E (1/n) sum_i |b_i - target| ** power`` over the probabilities of n independent units.
With one unit and power 2 it is the toy problem of Tucker et al. 2017 (REBAR), with 128 units and
powers 1.5, 2 and 3 that of Liu et al. 2023 (ReinMax). The optimum is ``b = 0`` for sure.
"""

import functools

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from configs import defaults
from experiments.tasks import base
from experiments.tasks.base import HeldOut, Metric, Task
from experiments.tasks.checks import Checks
from gsm.distributions import two_class_logits


def default_config(dataset: str = "") -> ConfigDict:
    """Fields of the task, with their defaults: the problem of Liu et al. 2023."""
    del dataset
    config = defaults.common("polynomial")
    config.select = "cost"
    config.batch_size = 64
    config.num_steps = 8_000
    config.eval_every = config.log_every = 200
    config.model = model = ConfigDict()
    model.num_units = 128  # n, over which the cost is the mean
    model.power = 2.0  # of the distance to the target
    model.target = 0.45  # between the two values of a unit, 0 and 1
    model.init_scale = 0.01  # logits start uniform in [-init_scale, init_scale]
    config.temperature.rate = 0.0
    return config


def check(config: ConfigDict, checks: Checks) -> None:
    """Raise ConfigError for values that the task cannot serve."""
    checks.one_of("select", ("cost",))
    checks.whole(1, "model.num_units")
    checks.positive("model.power")
    checks.share("model.target")
    checks.not_negative("model.init_scale")
    base.check_num_samples(checks)
    base.check_estimator(checks, config.model.num_units, 2)


def build(config: ConfigDict, dataset: None = None) -> Task:
    """The task of a checked configuration."""
    del dataset
    model = config.model
    parts = base.learned_parts(config, base.estimator(config), 1, (model.num_units, 2))
    cost = functools.partial(mean_power, model.power, model.target)

    def init(key):
        scale = model.init_scale
        logits = random.uniform(key, (model.num_units,), minval=-scale, maxval=scale)
        return {"model": {"logits": logits}, "estimator": parts.init(random.fold_in(key, 1))}

    def loss(params, key, x, hyperparams):
        estimator, hyperparams = parts.attach(params["estimator"], x, hyperparams)
        return estimator(key, two_class_logits(params["model"]["logits"]), cost, hyperparams)

    def measure_cost(params, key, x):
        return expected_power(model.power, model.target, params["model"]["logits"])

    nothing = jnp.zeros((1, 1))  # the one example, which baselines read
    of_cost = {"cost": Metric(measure_cost)}
    return Task(
        init=init,
        loss=base.mean_over_examples(loss, config.num_estimates),
        prepare=lambda key, x: x,
        train=nothing,
        held_out={"valid": HeldOut(nothing, of_cost), "test": HeldOut(nothing, of_cost)},
        latents=((model.num_units, 2),),
    )


def mean_power(power: float, target: float, z: Float[Array, "n 2"]) -> Float[Array, ""]:
    """``(1/n) sum_i |b_i - target| ** power`` of units ``b = z[:, 0]``, one-hot or relaxed."""
    distance = jnp.abs(z[:, 0] - target)
    if power == 2:
        return jnp.mean(distance**2)
    # RELAX and REBAR take second derivatives at relaxed units, and one in many millions of these is
    # the target itself, where that of a power below 2 is infinite.
    away = jnp.where(distance > 0, distance, 1)
    return jnp.mean(jnp.where(distance > 0, away**power, 0))


def expected_power(power: float, target: float, logits: Float[Array, " n"]) -> Float[Array, ""]:
    """Exact expectation of :func:`mean_power` under units with these log-odds."""
    on = jax.nn.sigmoid(logits)
    return jnp.mean(on * abs(1 - target) ** power + (1 - on) * abs(target) ** power)
