"""Categorical VAE with hidden layers: 784-512-256-(20x10)-256-512-784, as in the author's notebook.

    python -m experiments.train --config=configs/cat_vae_mlp.py:binarized_mnist

Adam overfits the fixed binarisation within the run, so the checkpoint is chosen on validation, and
so was the learning rate: 5e-4 of 3e-4, 5e-4 and 1e-3.
"""

from configs import defaults


def get_config(dataset: str = "mnist"):
    config = defaults.vae(dataset)
    config.model.hidden_sizes = (512, 256)
    config.optimizer.learning_rate = 5e-4
    config.keep = "best"
    if dataset != "digits":
        config.num_steps = 50_000
        config.eval_every = 2_500
        config.log_every = 250
    return config
