"""What tests over the registry share: the problems of :mod:`gsm.testing`, and required keywords."""

import jax.numpy as jnp

from gsm.testing import PROBLEMS

BEDS = {name: PROBLEMS[name] for name in PROBLEMS if name != "one Bernoulli unit"}

REQUIRED = {
    "nvil": {"baseline": 0.3},
    "slope_annealed_st": {"slope": 1.5},
    "relax": {"control": lambda y: jnp.sum(jnp.sin(3 * y[:, 0]) + y[:, -1] ** 2)},
}
"""Keywords of the registry entries that have no default for all that they need."""
