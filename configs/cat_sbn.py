"""Structured prediction with categorical latents, 392-(20x10)-(20x10)-392 (Jang et al. 2017, 4.1).

    python -m experiments.train --config=configs/cat_sbn.py:binarized_mnist

The lower half of a digit from the upper one, linear maps between the layers, temperature 1.
"""

from configs import defaults


def get_config(dataset: str = "mnist"):
    return defaults.sbn(dataset)
