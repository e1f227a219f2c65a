"""Hard samples as classes: the maps that read them give what they give for one-hot samples."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments.tasks import networks
from experiments.tasks.networks import MLP, Latents

CLASSES = [
    (n, k) for k in (2, 3, 4, 5, 10, 17) for n in (1, 4, 5, 7)
]  # groups of four, of two and of one, with and without a rest


@pytest.mark.parametrize("units", ["zero_one", "plus_minus_one"])
@pytest.mark.parametrize(("n", "k"), CLASSES)
def test_classes_are_read_as_their_one_hot_samples(n, k, units, key):
    key_params, key_classes = random.split(key)
    latents, network = Latents(n, k, units), MLP((6,), 9)
    classes = random.randint(key_classes, (8, n), 0, k)
    one_hot = jax.nn.one_hot(classes, k)
    params = network.init(key_params, latents.inputs(one_hot[0]))

    expected = jax.vmap(lambda z: network.apply(params, latents.inputs(z)))(one_hot)
    found = network.apply(params, latents.inputs(classes))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    over_examples = jax.vmap(lambda c: network.apply(params, latents.inputs(c)))(
        jnp.stack([classes, classes[::-1]])
    )
    np.testing.assert_allclose(over_examples[1], expected[::-1], rtol=1e-4, atol=1e-6)
    kernel = params["params"]["Dense_0"]["kernel"]
    product = networks._by_product(classes, latents.rows(kernel))  # of accelerators
    np.testing.assert_allclose(product, latents.inputs(classes) @ kernel, rtol=1e-4, atol=1e-6)


def test_a_sample_that_is_not_defined_gives_nan_and_leaves_the_others(key):
    rows = random.normal(key, (7, 2, 3))
    classes = jnp.ones((4, 7), jnp.int32)
    whole = networks.sum_of_rows(classes, rows)
    broken = networks.sum_of_rows(classes.at[2, 5].set(-1), rows)
    assert np.isnan(broken[2]).all()
    kept = np.array([0, 1, 3])
    np.testing.assert_array_equal(broken[kept], whole[kept])


def test_a_first_map_has_the_parameters_of_flax(key):
    """Names and initial values: checkpoints and published models are read by either."""

    class OfFlax(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(4)(x))
            return nn.Dense(3)(x)

    x = jnp.ones(5)
    ours, theirs = (one.init(key, x)["params"] for one in (MLP((4,), 3), OfFlax()))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
