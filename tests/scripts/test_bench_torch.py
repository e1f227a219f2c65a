"""The PyTorch twin that speed is compared with has the networks that we have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments.tasks import semisupervised as models

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

    model = models.SemiSupervisedVAE(784, 10, 32)
    keys = random.split(key, 4)
    params = jax.tree.map(np.asarray, model.init(keys[0], jnp.zeros(784))["params"])
    twin = bench_torch.Twin()
    load(twin.classifier, of_convolutions(params["classifier"], 1))
    load(twin.encoder, of_convolutions(params["encoder"], 11))
    load(twin.decoder, of_decoder(params["decoder"]))

    x = random.bernoulli(keys[1], 0.2, (784,)).astype(jnp.float32)
    y = jax.nn.softmax(random.normal(keys[2], (1, 10)))
    z = random.normal(keys[3], (32,))
    apply = lambda method, *a: model.apply({"params": params}, *a, method=method)  # noqa: E731
    image, label, style = (torch.tensor(np.array(a)) for a in (x.reshape(1, 1, 28, 28), y, z[None]))
    with torch.no_grad():
        theirs = [
            twin.classifier(image), *twin.encode(image, label),
            twin.decoder(torch.cat([label, style], 1)),
        ]  # fmt: skip
    ours = [apply("classify", x)[0], *apply("encode", x, y), apply("decode", y, z)]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b[0], rtol=1e-3, atol=1e-4)
