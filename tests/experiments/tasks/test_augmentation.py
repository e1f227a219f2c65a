"""Random changes of an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments.tasks.augmentation import random_affine

IMAGE = jnp.zeros((15, 15)).at[3:12, 7].set(1.0).at[3, 7:11].set(1.0)  # a hook about the centre


def test_nothing_asked_changes_nothing(key):
    np.testing.assert_allclose(random_affine(key, IMAGE), IMAGE, atol=1e-5)


def center_of(image):
    places = jnp.stack(jnp.meshgrid(*map(jnp.arange, image.shape), indexing="ij"), -1)
    return jnp.einsum("hw,hwc->c", image, places) / image.sum()


def test_a_shift_moves_the_image_by_at_most_that(key):
    moved = jax.jit(jax.vmap(lambda k: random_affine(k, IMAGE, shift=2.0)))(random.split(key, 500))
    by = jax.vmap(center_of)(moved) - center_of(IMAGE)[None]
    assert abs(by).max() <= 2.001
    assert (by.max(axis=0) > 1.8).all()
    assert (by.min(axis=0) < -1.8).all()
    np.testing.assert_allclose(moved.sum((1, 2)), IMAGE.sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("asked", "lowest", "highest"),
    [({"rotation": 40.0}, -40, 40), ({"shear": 0.5}, -26.6, 26.6), ({"scale": 0.3}, 0, 0)],
    ids=lambda value: str(value),
)
def test_a_line_turns_by_at_most_the_angle(asked, lowest, highest, key):
    """A vertical line: its angle by second moments. Shear of s turns it by atan s."""
    line = jnp.zeros((31, 31)).at[6:25, 15].set(1.0)

    def angle(image):
        rows, columns = jnp.meshgrid(jnp.arange(31.0) - 15, jnp.arange(31.0) - 15, indexing="ij")
        return jnp.rad2deg(jnp.arctan2((image * rows * columns).sum(), (image * rows**2).sum()))

    @jax.jit
    @jax.vmap
    def angle_of(key):
        return angle(random_affine(key, line, **asked))

    angles = angle_of(random.split(key, 300))
    assert angles.min() >= lowest - 1.5
    assert angles.max() <= highest + 1.5
    if highest:
        assert angles.min() < 0.9 * lowest
        assert angles.max() > 0.9 * highest


def test_scale_enlarges_and_shrinks_by_the_share(key):
    square = jnp.zeros((31, 31)).at[8:23, 8:23].set(1.0)
    enlarged = jax.jit(jax.vmap(lambda k: random_affine(k, square, scale=0.2)))
    images = enlarged(random.split(key, 300))
    sides = jnp.sqrt(images.sum((1, 2))) / 15
    assert 0.79 < sides.min() < 0.83
    assert 1.17 < sides.max() < 1.21
