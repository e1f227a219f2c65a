"""Structured prediction with Bernoulli units, 392-200-200-392 (Jang et al. 2017, section 4.1).

    python -m experiments.train --config=configs/bern_sbn.py:binarized_mnist

The lower half of a digit from the upper one: a sigmoid belief network of two stochastic layers.
With binarized_mnist 59.0 nats on the test set (results/table1; the paper's curve: 59.1).
"""

from experiments.tasks import sbn


def get_config(dataset: str = "mnist"):
    config = sbn.default_config(dataset)
    config.model.num_latents = 200
    config.model.num_classes = 2
    config.optimizer.learning_rate = 3e-3
    return config
