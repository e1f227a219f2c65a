"""Structured prediction with categorical latents, 392-(20x10)-(20x10)-392 (Jang et al. 2017, 4.1).

    python -m experiments.train --config=configs/cat_sbn.py:binarized_mnist

The lower half of a digit from the upper one, linear maps between the layers, temperature 1. With
binarized_mnist 59.7 nats on the test set (results/table1; the paper's curve: 62.0).
"""

from experiments.tasks import sbn


def get_config(dataset: str = "mnist"):
    config = sbn.default_config(dataset)
    config.optimizer.learning_rate = 3e-3
    return config
