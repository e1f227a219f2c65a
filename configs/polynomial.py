"""Polynomial programming over Bernoulli units, a task without a data set (Liu et al. 2023).

    python -m experiments.train --config=configs/polynomial.py --config.model.power=1.5

Minimises ``E (1/128) sum_i |b_i - 0.45| ** power``; seconds on a CPU. The optimum of each power is
``0.45 ** power``: 0.302, 0.2025 and 0.0911 for 1.5, 2 and 3.
"""

from experiments.tasks import polynomial


def get_config(argument: str = ""):
    return polynomial.default_config(argument)
