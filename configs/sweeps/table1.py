"""Table 1 of Jang et al. 2017: two tasks, two kinds of latents, seven estimators.

    python -m experiments.sweep --sweep=configs/sweeps/table1.py:binarized_mnist \\
        --num_steps=100000 --pilot_steps=20000
    python -m experiments.report --runs=runs/sweep-table1-binarized_mnist

Pilots are short: in 20,000 steps an annealing rate of 1e-5 brings the temperature to 0.82 only; to
its floor it takes 69,000. Without ``--pilot_steps`` everything is run in full, and without
``--num_steps`` for the paper's 545,000 steps.
"""

from configs.sweeps import grid

PILOT = (
    "optimizer.learning_rate", "slope.initial", "kl", "signal.normalize", "temperature.rate",
)  # fmt: skip

# Of Adam. NOTE(paper): its grid, 1e-5 to 3e-3, is of SGD.
LEARNING_RATES = (1e-3, 3e-3)

# NOTE(paper): variance normalisation is "necessary" for these, with its SGD. It divides the whole
# signal, which must then hold the VAE's KL term too; with Adam, neither is tried as well.
SIGNALLED = ("score_function", "darn", "muprop")
OTHERS = ("straight_through", "gumbel_softmax", "st_gumbel_softmax")
# NOTE(paper): it does not say how the slope rises. Steep rises did worse on validation.
SLOPE = {
    "estimator": ("slope_annealed_st",),
    "slope.initial": (0.5, 1.0),
    "slope.rate": (5e-6,),
    "slope.cap": (2.0,),
}
SLOPE_OF_BERNOULLI_VAE = {**SLOPE, "slope.initial": (0.5,), "slope.rate": (1e-6,)}
ANNEALED = ("gumbel_softmax", "st_gumbel_softmax")


def get_sweep(dataset: str = "mnist"):
    protocol = {
        "num_steps": (545_000,),
        "eval_every": (10_000,),
        "evaluation.curve_images": (500,),
        "seed": (0,),
        "optimizer.learning_rate": LEARNING_RATES,
    }
    points = []
    for latents in ("bern", "cat"):
        sbn, vae = (f"configs/{latents}_{task}.py:{dataset}" for task in ("sbn", "vae"))
        signalled = {"estimator": SIGNALLED, "signal.normalize": (True,), **protocol}
        points += grid(sbn, signalled)
        points += grid(sbn, {"estimator": OTHERS, **protocol})
        points += grid(sbn, {**SLOPE, **protocol})
        points += grid(vae, {"kl": ("sampled",), **signalled})
        points += grid(vae, {"estimator": SIGNALLED, "kl": ("analytic",), **protocol})
        points += grid(vae, {"estimator": OTHERS, "temperature.rate": (1e-4,), **protocol})
        points += grid(vae, {**SLOPE, **protocol})
        if latents == "bern":
            points += grid(vae, {**SLOPE_OF_BERNOULLI_VAE, **protocol})
        points += grid(vae, {"estimator": ANNEALED, "temperature.rate": (1e-5,), **protocol})
    return points
