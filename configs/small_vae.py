"""A categorical VAE small enough to enumerate, 784-(2x8)-784: every estimator beside the exact one.

    python -m experiments.variance --config=configs/small_vae.py:digits
    python -m experiments.train --config=configs/small_vae.py

The second trains it: seconds, and no number to expect; its 64 outcomes are what it is for.
"""

from experiments.tasks import vae


def get_config(dataset: str = "mnist"):
    config = vae.default_config(dataset)
    config.model.num_latents = 2
    config.model.num_classes = 8
    config.num_steps = 5_000
    return config
