"""Hard samples as classes: the maps that read them give what they give for one-hot samples."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments.tasks import networks
from experiments.tasks.networks import MLP, Latents

# Groups of four variables, of two and of one, each with and without a rest.
LATENTS = [Latents(n, k) for k in (2, 4, 5) for n in (1, 4, 5, 7)]
LATENTS += [Latents(7, k, "plus_minus_one") for k in (2, 5)]


@pytest.mark.parametrize("latents", LATENTS, ids=str)
def test_classes_are_read_as_their_one_hot_samples(latents, key):
    network = MLP((6,), 9)

    @jax.jit
    def read(key):
        key_params, key_classes = random.split(key)
        shape = (8, latents.num_variables)
        classes = random.randint(key_classes, shape, 0, latents.num_classes)
        one_hot = jax.nn.one_hot(classes, latents.num_classes)
        params = network.init(key_params, latents.inputs(one_hot[0]))
        kernel = params["params"]["Dense_0"]["kernel"]

        def of_classes(classes):
            return network.apply(params, latents.inputs(classes))

        return {
            "one-hot": jax.vmap(of_classes)(one_hot),
            "classes": of_classes(classes),
            "of examples": jax.vmap(of_classes)(jnp.stack([classes[::-1], classes]))[1],
            "looked up": latents.inputs(classes) @ kernel,
            "product, of accelerators": networks._by_product(classes, latents.rows(kernel)),
        }

    found = read(key)
    for way in ("classes", "of examples"):
        np.testing.assert_allclose(found[way], found["one-hot"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        found["product, of accelerators"], found["looked up"], rtol=1e-4, atol=1e-6
    )


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


def test_pytorch_initialises_kernels_and_biases_uniformly_by_the_number_of_inputs(key):
    """Variances within five standard errors."""
    params = MLP((10_000,), 400, initialization="pytorch").init(key, jnp.ones(9))["params"]
    for layer, inputs in ((params["Dense_0"], 9), (params["Dense_1"], 10_000)):
        for values in (layer["kernel"], layer["bias"]):
            scaled = np.asarray(values).ravel() * inputs**0.5
            assert -1 <= scaled.min() < -0.9
            assert 0.9 < scaled.max() <= 1
            error = (1 / 5 - 1 / 9) ** 0.5 / scaled.size**0.5
            assert abs(np.mean(scaled**2) - 1 / 3) < 5 * error


def test_an_initial_bias_is_kept_by_every_initialisation(key):
    for name in networks.INITIALIZATIONS:
        params = MLP((4,), 3, jnp.arange(3.0), name).init(key, jnp.ones(5))["params"]
        np.testing.assert_array_equal(params["Dense_1"]["bias"], [0, 1, 2])
