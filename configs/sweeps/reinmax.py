"""The table of Liu et al. 2023 (ReinMax): six shapes of latents, five estimators, grey MNIST.

    python -m experiments.sweep --sweep=configs/sweeps/reinmax.py:mnist
    python -m experiments.report --runs=runs/sweep-reinmax-mnist --out=results/reinmax

The argument after the colon is the dataset. Learning rates, temperatures and optimisers are those
that their authors chose for each cell. Straight-through at a temperature t is
``slope_annealed_st`` with the slope 1 / t. Ten to twenty minutes for each run on a core, several
times that for ``gumbel_rao``, which averages 100 samples.
"""

# Of each shape, classes x latents: learning rate, temperature, optimiser.
_SHAPES = ((8, 4), (4, 24), (8, 16), (16, 12), (64, 8), (10, 30))
_CELLS = {
    "reinmax": (
        (5e-4, 1.3, "adam"), (5e-4, 1.5, "radam"), (7e-4, 1.5, "radam"), (7e-4, 1.5, "radam"),
        (5e-4, 1.5, "radam"), (5e-4, 1.3, "radam"),
    ),
    "st_gumbel_softmax": (
        (3e-4, 0.5, "adam"), (5e-4, 0.3, "radam"), (5e-4, 0.5, "radam"), (7e-4, 0.7, "radam"),
        (7e-4, 0.7, "radam"), (5e-4, 0.5, "radam"),
    ),
    # NOTE(paper): 7e-3 is listed at 10x30, where the loss ends at 136 nats; with 7e-4 it ends at
    # the published value, so the listed one is taken for a misprint.
    "slope_annealed_st": (
        (1e-3, 1.3, "adam"), (1e-3, 1.5, "radam"), (1e-3, 1.5, "radam"), (5e-4, 1.5, "adam"),
        (5e-4, 1.5, "adam"), (7e-4, 1.4, "radam"),
    ),
    "gapped_straight_through": (
        (5e-4, 1.0, "adam"), (5e-4, 0.5, "radam"), (7e-4, 0.5, "radam"), (7e-4, 0.5, "radam"),
        (7e-4, 0.7, "radam"), (5e-4, 0.5, "radam"),
    ),
    "gumbel_rao": (
        (5e-4, 0.5, "adam"), (5e-4, 0.3, "radam"), (7e-4, 0.7, "radam"), (5e-4, 1.0, "adam"),
        (7e-4, 2.0, "adam"), (5e-4, 1.0, "radam"),
    ),
}  # fmt: skip


def _temperature(estimator: str, temperature: float) -> dict[str, float]:
    if estimator == "reinmax":
        return {"temperature.backward": temperature}
    if estimator == "slope_annealed_st":
        slope = 1 / temperature
        return {"slope.initial": slope, "slope.rate": 0.0, "slope.cap": slope}
    return {"temperature.initial": temperature, "temperature.floor": min(0.5, temperature)}


def get_sweep(dataset: str = "mnist"):
    points = []
    for estimator, cells in _CELLS.items():
        for (classes, latents), (rate, temperature, optimizer) in zip(_SHAPES, cells, strict=True):
            points.append(
                {
                    "config": f"configs/reinmax_vae.py:{dataset}",
                    "estimator": estimator,
                    "model.num_classes": classes,
                    "model.num_latents": latents,
                    "optimizer.learning_rate": rate,
                    "optimizer.name": optimizer,
                    **_temperature(estimator, temperature),
                    **({"num_samples": 100} if estimator == "gumbel_rao" else {}),
                }
            )
    return points
