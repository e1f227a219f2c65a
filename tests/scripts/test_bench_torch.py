"""The models in PyTorch that speed is compared with compute what ours do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments.running import config as configuration
from experiments.running import loop
from experiments.tasks import base
from experiments.tasks import semisupervised as models
from gsm import distributions
from scripts import bench_data

torch = pytest.importorskip("torch", reason="needs the extra bench")


def load(module, params):
    """Fill a module's weights, in the order of its parameters."""
    with torch.no_grad():
        for target, value in zip(module.parameters(), params, strict=True):
            target.copy_(torch.tensor(np.ascontiguousarray(value)))


def of_convolutions(params, inputs_of_first):
    arrays = []
    for name in sorted(name for name in params if name.startswith("Convolution_")):
        arrays += [params[name]["kernel"].transpose(3, 2, 0, 1), params[name]["bias"]]
    assert arrays[0].shape[1] == inputs_of_first
    return [*arrays, params["Dense_0"]["kernel"].T, params["Dense_0"]["bias"]]


def of_decoder(params):
    arrays = [params["Dense_0"]["kernel"].T, params["Dense_0"]["bias"]]
    for name in sorted(name for name in params if name.startswith("Convolution_")):
        arrays += [params[name]["kernel"].transpose(2, 3, 0, 1), params[name]["bias"]]
    last = params["MLP_0"]["Dense_0"]
    mirrored = last["kernel"].reshape(16, 16, 32, 784)[::-1, ::-1].reshape(-1, 784)
    return [*arrays, mirrored.T, last["bias"]]


def test_the_twin_computes_what_the_model_does(key):
    from scripts import bench_torch

    model = models.SemiSupervisedVAE((28, 28), 10, 32)
    keys = random.split(key, 4)
    params = jax.tree.map(np.asarray, model.init(keys[0], jnp.zeros(784))["params"])
    twin = bench_torch.Twin()
    load(twin.classifier, of_convolutions(params["classifier"], 1))
    load(twin.encoder, of_convolutions(params["encoder"], 11))
    load(twin.decoder, of_decoder(params["decoder"]))

    x = random.bernoulli(keys[1], 0.2, (784,)).astype(jnp.float32)
    y = jax.nn.softmax(random.normal(keys[2], (1, 10)))
    z = random.normal(keys[3], (32,))
    on_device = jax.tree.map(jnp.asarray, params)
    apply = lambda method, *a: model.apply({"params": on_device}, *a, method=method)  # noqa: E731
    image, label, style = (torch.tensor(np.array(a)) for a in (x.reshape(1, 1, 28, 28), y, z[None]))
    with torch.no_grad():
        theirs = [
            twin.classifier(image), *twin.encode(image, label),
            twin.decoder(torch.cat([label, style], 1)),
        ]  # fmt: skip
    ours = [apply("classify", x)[0], *apply("encode", x, y), apply("decode", y, z)]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b[0], rtol=1e-3, atol=1e-4)


LINEAR = ("cat_vae", "bern_vae", "cat_vae_mlp", "cat_sbn", "bern_sbn")


def dense(params):
    """Arrays of an MLP in the order of its twin's parameters."""
    return [a for _, d in sorted(params.items()) for a in (d["kernel"].T, d["bias"])]


def in_order_of_twin(params):
    if "encoder" in params:
        return [params["prior_logits"], *dense(params["encoder"]), *dense(params["decoder"])]
    maps = [a for i in range(2) for a in dense(params[f"maps_{i}"])]
    return [*maps, *dense(params["decoder"])]


def copy_center(twin, task):
    mean = np.asarray(task.constants["mean_image"], np.float32).reshape(-1)
    twin.center.copy_(torch.tensor(mean[: twin.center.numel()]))


def noises_of(config, keys):
    """The noise of each layer in our loss at the keys of the examples."""
    n, k = config.model.num_latents, config.model.num_classes
    layers = []
    for _ in range(config.model.get("num_layers", 1)):
        here = keys
        if config.task == "sbn":
            here, keys = jnp.moveaxis(jax.vmap(random.split)(keys), 1, 0)
        draw = distributions.logistic if k == 2 else distributions.gumbel
        layers.append(jax.vmap(lambda key, draw=draw: draw(key, (n,) if k == 2 else (n, k)))(here))
    return layers


@pytest.mark.parametrize("name", LINEAR)
def test_losses_and_gradients_are_ours_at_equal_parameters_and_noise(name, key):
    from scripts import bench_torch

    config = configuration.check(configuration.load(f"configs/{name}.py"))
    task = loop.build(config, bench_data.random_images()).task
    keys = random.split(key, 3)
    params = task.init(keys[0])
    leaves, tree = jax.tree.flatten(params)
    moved = [
        p + 0.1 * random.normal(k, p.shape)
        for p, k in zip(leaves, random.split(keys[1], len(leaves)), strict=True)
    ]
    params = jax.tree.unflatten(tree, moved)
    batch = jnp.asarray(task.train[:4], jnp.float32)
    hyperparams = base.hyperparams(config)(jnp.int32(0), base.settings(config))
    ours, gradient = jax.value_and_grad(task.loss)(params, keys[2], batch, hyperparams)

    twin = bench_torch.model_of(config)
    load(twin, in_order_of_twin(jax.tree.map(np.asarray, params["model"])))
    copy_center(twin, task)
    with jax.debug_key_reuse(False):  # the loss's own noise, once more
        noises = noises_of(config, random.split(keys[2], len(batch)))
    noises = [torch.tensor(np.asarray(noise)) for noise in noises]
    loss = twin.loss(torch.tensor(np.asarray(batch)), noises, config.temperature.initial)
    loss.backward()
    np.testing.assert_allclose(loss.item(), ours, rtol=1e-5)
    expected = in_order_of_twin(jax.tree.map(np.asarray, gradient["model"]))
    for theirs, array in zip(twin.parameters(), expected, strict=True):
        np.testing.assert_allclose(theirs.grad, array, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LINEAR)
def test_the_bound_is_ours(name, key):
    """Its mean over draws, by a test of 16 draws each; 5 standard errors: once in 20,000 tests."""
    from scripts import bench_torch

    config = configuration.check(configuration.load(f"configs/{name}.py"))
    task = loop.build(config, bench_data.random_images()).task
    # Logits of pixels that differ little: the bound of wilder ones varies by several nats.
    params = jax.tree.map(lambda p: 0.5 * p, task.init(key))
    torch.manual_seed(0)
    twin = bench_torch.model_of(config).requires_grad_(False)
    load(twin, in_order_of_twin(jax.tree.map(np.asarray, params["model"])))
    copy_center(twin, task)
    held_out = task.held_out["test"]
    stored, measure = held_out.examples[0], held_out.metrics["nll"].measure
    ours = -np.asarray(jax.vmap(lambda k: measure(params, k, stored))(random.split(key, 16)))
    x = torch.tensor(np.asarray(stored, np.float32))
    for lookup in (False, True):
        theirs = np.array([float(twin.bound(x, 1_000, lookup)) for _ in range(16)])
        error = np.hypot(ours.std(ddof=1), theirs.std(ddof=1)) / 4
        assert error < 0.2
        assert abs(ours.mean() - theirs.mean()) < 5 * error
