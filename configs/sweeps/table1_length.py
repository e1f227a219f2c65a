"""Table 1 of Jang et al. 2017 at the paper's length: 28 cells, each offered the same.

    python -m experiments.sweep --sweep=configs/sweeps/table1_length.py:binarized_mnist

The learning rate, the form of the KL term, the slope and the rate of the temperature are those that
the pilots of ``table1.py`` chose (``results/table1/pilots.csv``, 20,000 steps). Weight decay of
kernels shows its effect after 100,000 steps and more, so runs of that length chose it, on both
VAEs (``table1_seeds.py``). The checkpoint with the best validation bound is tested.
"""

from configs.sweeps import grid

# NOTE(paper): it does not say how the slope rises. Chosen for all four columns: from 0.5 or 1 to 2.
_FROM_HALF = {"slope.initial": (0.5,), "slope.rate": (5e-6,), "slope.cap": (2.0,)}
_FROM_ONE = {**_FROM_HALF, "slope.initial": (1.0,)}
_NORMALIZED = {"signal.normalize": (True,)}
_ANALYTIC = {"kl": ("analytic",), "temperature.rate": (1e-4,)}

CELLS: dict[str, dict[str, dict[str, tuple]]] = {
    "bern_sbn": {
        "score_function": {"optimizer.learning_rate": (3e-3,), **_NORMALIZED},
        "darn": {"optimizer.learning_rate": (3e-3,), **_NORMALIZED},
        "muprop": {"optimizer.learning_rate": (3e-3,), **_NORMALIZED},
        "straight_through": {"optimizer.learning_rate": (3e-3,)},
        "slope_annealed_st": {"optimizer.learning_rate": (3e-3,), **_FROM_ONE},
        "gumbel_softmax": {"optimizer.learning_rate": (3e-3,)},
        "st_gumbel_softmax": {"optimizer.learning_rate": (3e-3,)},
    },
    "cat_sbn": {
        "score_function": {"optimizer.learning_rate": (3e-3,), **_NORMALIZED},
        "darn": {"optimizer.learning_rate": (1e-3,), **_NORMALIZED},
        "muprop": {"optimizer.learning_rate": (3e-3,), **_NORMALIZED},
        "straight_through": {"optimizer.learning_rate": (3e-3,)},
        "slope_annealed_st": {"optimizer.learning_rate": (3e-3,), **_FROM_HALF},
        "gumbel_softmax": {"optimizer.learning_rate": (3e-3,)},
        "st_gumbel_softmax": {"optimizer.learning_rate": (3e-3,)},
    },
    "bern_vae": {
        "score_function": {"optimizer.learning_rate": (1e-3,), **_ANALYTIC},
        "darn": {"optimizer.learning_rate": (3e-3,), **_ANALYTIC},
        "muprop": {"optimizer.learning_rate": (1e-3,), **_ANALYTIC},
        "straight_through": {"optimizer.learning_rate": (3e-3,), **_ANALYTIC},
        "slope_annealed_st": {"optimizer.learning_rate": (3e-3,), **_ANALYTIC, **_FROM_HALF},
        "gumbel_softmax": {"optimizer.learning_rate": (3e-3,), **_ANALYTIC},
        "st_gumbel_softmax": {"optimizer.learning_rate": (3e-3,), **_ANALYTIC},
    },
    "cat_vae": {
        "score_function": {"optimizer.learning_rate": (1e-3,), **_ANALYTIC},
        "darn": {"optimizer.learning_rate": (1e-3,), **_ANALYTIC},
        "muprop": {"optimizer.learning_rate": (1e-3,), **_ANALYTIC},
        "straight_through": {"optimizer.learning_rate": (3e-3,), **_ANALYTIC},
        "slope_annealed_st": {"optimizer.learning_rate": (3e-3,), **_ANALYTIC, **_FROM_HALF},
        "gumbel_softmax": {"optimizer.learning_rate": (3e-3,), **_ANALYTIC},
        "st_gumbel_softmax": {"optimizer.learning_rate": (3e-3,), **_ANALYTIC},
    },
}
"""What the short pilots chose, by config and estimator."""


DECAYED = {
    "cat_vae": ("score_function", "darn", "muprop", "slope_annealed_st", "gumbel_softmax"),
    "bern_vae": ("darn", "muprop", "gumbel_softmax"),
}
"""Cells for which validation chose a weight decay of 0.01; for the others it chose none.

The runs of both are in ``results/table1_seeds``; ``results/table1_length/pilots.csv`` has all that
was tried for these cells.
"""


ORDER = (
    "gumbel_softmax", "slope_annealed_st", "st_gumbel_softmax", "straight_through",
    "muprop", "darn", "score_function",
)  # fmt: skip
"""Of the runs: those that lead a column come first."""


def weight_decay(config: str, estimator: str) -> float:
    return 1e-2 if estimator in DECAYED.get(config, ()) else 0.0


def get_sweep(dataset: str = "binarized_mnist"):
    protocol = {
        "num_steps": (545_000,),
        "eval_every": (20_000,),
        "evaluation.curve_images": (500,),
        "keep": ("best",),
        "seed": (0,),
    }
    points = []
    for estimator in ORDER:
        for config, cells in CELLS.items():
            decay = {"optimizer.weight_decay": (weight_decay(config, estimator),)}
            axes = {"estimator": (estimator,), **decay, **cells[estimator], **protocol}
            points += grid(f"configs/{config}.py:{dataset}", axes)
    return points
