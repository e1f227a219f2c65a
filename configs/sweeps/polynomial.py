"""Polynomial programming of Liu et al. 2023: three powers, all estimators, ten seeds.

    python -m experiments.sweep --sweep=configs/sweeps/polynomial.py --backend=here --together=10
    python -m experiments.report --runs=runs/sweep-polynomial --out=results/polynomial

128 units, minibatches of 64, 8,000 steps of Adam at 1e-3. The relaxed estimators have the
temperature 1, those of several samples four; no setting was chosen.
"""

from configs.sweeps import grid
from gsm.registry import ESTIMATORS


def get_sweep(argument: str = ""):
    # Not exact, of 2 ** 128 outcomes; last those that take longer than all others together.
    slow = ["gumbel_rao", "local_expectation"]
    others = [name for name in ESTIMATORS if name not in ("exact", *slow)]
    powers, seeds = (1.5, 2.0, 3.0), range(10)
    return [
        point
        for estimators in (others, slow)
        for point in grid(
            "configs/polynomial.py",
            {"model.power": powers, "estimator": estimators, "seed": seeds},
        )
    ]
