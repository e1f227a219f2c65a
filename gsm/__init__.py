"""Gradients through discrete choices in JAX: Gumbel-Softmax and other gradient estimators.

An estimator is a function ``(key, logits, f) -> surrogate`` of one example: ``logits [n, k]`` are
``n`` categorical variables with ``k`` classes, ``f`` maps a sample ``z [n, k]`` to a scalar cost,
and ``jax.grad`` of the surrogate is the estimate of the gradient of ``E f(z)``.

>>> import gsm, jax, jax.numpy as jnp
>>> def f(z):
...     return jnp.sum((z[:, 0] - 0.45) ** 2)
>>> logits = jnp.zeros((4, 3))
>>> gradient = jax.grad(gsm.rloo, argnums=1)(jax.random.key(0), logits, f)

* samplers, of logits with any leading axes: :func:`gumbel_max`, :func:`gumbel_softmax`,
  :func:`st_gumbel_softmax`, :func:`straight_through`, :func:`reinmax` and others;
* operators, for a cost f: :func:`rloo`, :func:`rebar`, :func:`relax`, :func:`exact` and others;
* objectives of several samples: :func:`iwae`, :func:`vimco`;
* ``gsm.ESTIMATORS``: every estimator by name, with source, bias, cost and citation
  (``print(gsm.ESTIMATORS["rloo"])``), and :class:`Hyperparams`, what they share;
* :func:`batched`: any of them over a minibatch; :func:`compare`: their errors on your own cost;
* modules: :mod:`gsm.distributions` (mathematics on logits), :mod:`gsm.learned` (baselines and
  control variates for a training loop), :mod:`gsm.schedules` (of temperature and slope),
  :mod:`gsm.diagnostics` (bias and variance), :mod:`gsm.testing` (prove an estimator of your own).

The reference implementation of *Categorical Reparameterization with Gumbel-Softmax* (Jang, Gu,
Poole, ICLR 2017).
"""

from gsm import diagnostics, distributions, learned, schedules, testing, xla
from gsm.diagnostics import compare
from gsm.distributions import (
    conditional_gumbels,
    gumbel_max,
    gumbel_softmax_log_density,
    gumbel_top_k,
    gumbel_top_k_log_prob,
    inverse_cdf,
    inverse_cdf_classes,
    log_gumbel_softmax,
    log_gumbel_softmax_log_density,
    log_prob,
    two_class_logits,
)
from gsm.estimators import (
    arms,
    binary_concrete,
    darn,
    decoupled_gumbel_softmax,
    disarm,
    exact,
    gapped_straight_through,
    gumbel_rao,
    gumbel_softmax,
    iwae,
    local_expectation,
    muprop,
    nvil,
    rebar,
    redge,
    reinmax,
    relax,
    rloo,
    score_function,
    slope_annealed_st,
    st_gumbel_softmax,
    straight_through,
    vimco,
)
from gsm.registry import ESTIMATORS, Entry, Hyperparams, batched

__version__ = "0.1.0"

__all__ = [
    "ESTIMATORS",
    "Entry",
    "Hyperparams",
    "arms",
    "batched",
    "binary_concrete",
    "compare",
    "conditional_gumbels",
    "darn",
    "decoupled_gumbel_softmax",
    "diagnostics",
    "disarm",
    "distributions",
    "exact",
    "gapped_straight_through",
    "gumbel_max",
    "gumbel_rao",
    "gumbel_softmax",
    "gumbel_softmax_log_density",
    "gumbel_top_k",
    "gumbel_top_k_log_prob",
    "inverse_cdf",
    "inverse_cdf_classes",
    "iwae",
    "learned",
    "local_expectation",
    "log_gumbel_softmax",
    "log_gumbel_softmax_log_density",
    "log_prob",
    "muprop",
    "nvil",
    "rebar",
    "redge",
    "reinmax",
    "relax",
    "rloo",
    "schedules",
    "score_function",
    "slope_annealed_st",
    "st_gumbel_softmax",
    "straight_through",
    "testing",
    "two_class_logits",
    "vimco",
    "xla",
]

xla.warn_of_wrong_sums()
