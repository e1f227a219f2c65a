"""The paper's annealing schedules of the temperature, for the categorical VAE (section 4.2).

    python -m experiments.sweep --sweep=configs/sweeps/annealing.py:binarized_mnist

``max(floor, exp(-rate * step))``, updated every so many steps: rates and intervals of the paper,
and two floors beside its 0.5. ``--num_steps`` shortens every run. The paper's rates are for its
545,000 steps: 1e-5 takes 69,000 to the floor of 0.5. In a short run state what a rate comes to in
the whole of it, such as ``PerRun(1.0)`` (``configs.sweeps``), and update more often. Points whose
temperature is the same at every step, as with a floor of 1, are trained once.
"""

from configs.sweeps import grid


def get_sweep(dataset: str = "mnist"):
    return grid(
        f"configs/cat_vae.py:{dataset}",
        {
            "temperature.rate": (1e-5, 1e-4),
            "temperature.update_every": (500, 1_000),
            "temperature.floor": (0.25, 0.5, 1.0),
            "seed": (0, 1),
        },
    )
