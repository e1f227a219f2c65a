"""What the benchmarks train on."""

import numpy as np

from experiments import data


def random_images() -> data.Dataset:
    """As many binary images as MNIST has, one pixel in eight on."""
    generator = np.random.default_rng(0)
    splits = [
        data.Split((generator.random((n, 784)) < 0.125).astype(np.uint8), None)
        for n in (50_000, 100, 10_000)
    ]
    return data.Dataset("random", *splits, max_value=1)
