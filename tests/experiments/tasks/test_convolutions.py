"""Convolutions and their gradients, against jax's own."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random

from experiments.tasks import convolutions
from experiments.tasks import semisupervised as models

LAYOUT = ("NHWC", "HWIO", "NHWC")
FORMS = [(5, 5, 2), (3, 3, 1), (4, 3, 2), (2, 2, 3)]
of_each_form = pytest.mark.parametrize(
    "form",
    [pytest.param(f, id=str(f), marks=[pytest.mark.slow] if f[0] in (2, 4) else []) for f in FORMS],
)


def pair(form, transposed):
    """The same function of images ``[n, h, w, i]`` and a kernel, here and by jax."""
    stride = form[2]
    one = convolutions.convolve_transposed if transposed else convolutions.convolve
    theirs = lax.conv_transpose if transposed else lax.conv_general_dilated
    return (
        lambda x, kernel: jax.vmap(lambda image: one(image, kernel, stride))(x),
        lambda x, kernel: theirs(x, kernel, (stride, stride), "SAME", dimension_numbers=LAYOUT),
    )


@pytest.fixture
def arguments(key):
    keys = random.split(key, 3)
    x = random.normal(keys[0], (3, 9, 7, 2))
    return lambda form: (
        x, random.normal(keys[1], (*form[:2], 2, 4)), random.normal(keys[2], (*form[:2], 2, 4))
    )  # fmt: skip


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3), a, b)


@pytest.mark.parametrize("transposed", [False, True])
@of_each_form
def test_value_and_derivatives_are_those_of_jax(form, transposed, arguments):
    """Reverse mode by images and kernel, and forward mode over reverse."""
    x, kernel, direction = arguments(form)
    losses = [lambda x, k, f=f: jnp.mean(jnp.sin(f(x, k))) for f in pair(form, transposed)]
    close(*(f(x, kernel) for f in pair(form, transposed)))
    gradients = [jax.jit(jax.grad(loss, (0, 1))) for loss in losses]
    close(*(gradient(x, kernel) for gradient in gradients))

    def curvature(gradient):
        return jax.jvp(lambda k: gradient(x, k), (kernel,), (direction,))[1]

    close(*map(curvature, gradients))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("several", [False, True])
def test_each_platform_has_its_own_form(platform, several, arguments):
    """That of the program's platform, whichever one this process runs on."""
    x, kernel, _ = arguments(FORMS[0])

    def loss(x, kernel):
        y = jax.vmap(lambda image: convolutions.convolve(image, kernel, 2))(x)
        return jnp.mean(jnp.sin(y))

    gradient = jax.grad(loss, (0, 1))
    if several:  # models
        gradient, kernel = jax.vmap(gradient, (None, 0)), jnp.stack([kernel, kernel])
    lowered = jax.jit(gradient).trace(x, kernel).lower(lowering_platforms=(platform,))
    text = lowered.as_text()
    # On a CPU no convolution is strided and patches are multiplied, one model after the other.
    on_cpu = platform == "cpu"
    assert ("stride = [2, 2]" not in text) == on_cpu
    assert ("stablehlo.dot_general" in text) == on_cpu
    assert ("stablehlo.while" in text) == (on_cpu and several)
    assert ("feature_group_count = 2" in text) == (several and not on_cpu)


@pytest.mark.parametrize("transposed", [False, True])
@of_each_form
def test_other_platforms_compute_the_same(form, transposed, key):
    convolve = convolutions.convolve_transposed if transposed else convolutions.convolve
    kernel = jnp.ones((*form[:2], 2, 4))
    called = jax.make_jaxpr(lambda x: convolve(x, kernel, form[2]))(jnp.ones((9, 7, 2)))
    (sides,) = [eqn.params["sides"] for eqn in called.eqns if "sides" in eqn.params]
    keys = random.split(key, 3)
    image = random.normal(keys[0], (3, *(side.image for side in sides), 2))
    output = random.normal(keys[1], (3, *(side.output for side in sides), 4))
    kernel = random.normal(keys[2], kernel.shape)
    for arguments, ours, theirs in (
        ((image, kernel), convolutions._compute_output, convolutions._jax_output),
        ((output, kernel), convolutions._compute_image, convolutions._jax_image),
        ((image, output), convolutions._compute_kernel, convolutions._jax_kernel),
    ):
        close(ours(*arguments, sides=sides), theirs(*arguments, sides=sides))


def test_kernels_of_several_models_are_batched(arguments):
    x, kernel, other = arguments(FORMS[0])
    ours, theirs = (
        lambda x, k, f=f: jax.grad(lambda x, k: jnp.mean(jnp.sin(f(x, k))), (0, 1))(x, k)
        for f in pair(FORMS[0], False)
    )
    kernels, images = jnp.stack([kernel, other]), jnp.stack([x, 2 * x])
    close(jax.vmap(ours)(images, kernels), jax.vmap(theirs)(images, kernels))
    close(jax.vmap(ours, (None, 0))(x, kernels), jax.vmap(theirs, (None, 0))(x, kernels))


def test_modules_are_those_of_flax(arguments):
    x, _, _ = arguments(FORMS[0])
    for transposed, theirs in ((False, nn.Conv), (True, nn.ConvTranspose)):
        ours = models.Convolution(4, size=3, stride=2, transposed=transposed)
        other = theirs(4, (3, 3), strides=(2, 2))
        params = ours.init(random.key(0), x[0])
        close(ours.apply(params, x[0]), other.apply(params, x[0]))
        close(params, other.init(random.key(0), x[0]))


@pytest.mark.parametrize("transposed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_constant_channels_are_channels(transposed, arguments):
    x, _, _ = arguments(FORMS[0])
    image, constants = x[0], jnp.array([0.3, -1.0, 2.0])
    layer = models.Convolution(4, size=5, stride=2, transposed=transposed)
    spread = jnp.broadcast_to(constants[None, None], (*image.shape[:2], 3))
    whole = jnp.concatenate([image, spread], axis=-1)
    params = layer.init(random.key(0), whole)
    close(layer.apply(params, image, constants), layer.apply(params, whole))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's CPU backend")
def test_the_options_of_the_commands_leave_convolutions_to_eigen():
    """Which is faster at them than YNNPACK, to which XLA hands them by default."""
    x = jnp.ones((4, 8, 8, 64))
    kernel, matrix = jnp.ones((3, 3, 64, 64)), jnp.ones((64, 64))

    def loss(kernel, matrix):
        y = jax.vmap(lambda image: convolutions.convolve_transposed(image, kernel, 2))(x)
        return jnp.mean(jnp.sin(y @ matrix))

    text = jax.jit(jax.grad(loss, (0, 1))).lower(kernel, matrix).compile().as_text()
    assert " convolution(" in text
    assert not re.search(r"ROOT .* convolution\(", text)  # as a library's part of the program is
