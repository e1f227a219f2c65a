"""Convolutions whose gradients are fast inside ``lax.scan`` on a CPU as well.

XLA's CPU backend brings a convolution into the form of its fast kernels only outside of loops. The
gradient that jax writes for a convolution is not in that form, so in a scanned training step it
falls to plain loops, 20 to 75 times slower (jax issue 12868). The primitive here is a convolution
in the fast form, and its gradients are convolutions in the fast form again: differentiation in
either mode, to any order, stays inside. On other backends it is jax's own convolution.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: Float[Array, "h w i"], kernel: Float[Array, "a b i o"], stride: int = 1
) -> Float[Array, "p q o"]:
    """Convolution of one image with zeros around it ("SAME"): ``p = ceil(h / stride)``.

    Args:
      x: image ``[h, w, i]`` of i channels.
      kernel: ``[a, b, i, o]``.
      stride: of the output, in both directions.
    """
    padding = lax.padtype_to_pads(x.shape[:2], kernel.shape[:2], (stride, stride), "SAME")
    return _bind(x, kernel, (stride, stride), padding, (1, 1))


def convolve_transposed(
    x: Float[Array, "h w i"], kernel: Float[Array, "a b i o"], stride: int = 1
) -> Float[Array, "p q o"]:
    """The transposed convolution ("SAME"): ``p = h * stride``, as in ``flax.linen.ConvTranspose``.

    Args:
      x: image ``[h, w, i]`` of i channels.
      kernel: ``[a, b, i, o]``.
      stride: of the input, in both directions.
    """
    padding = []
    for size in kernel.shape[:2]:
        total = size + stride - 2
        before = size - 1 if stride > size - 1 else -(-total // 2)
        padding.append((before, total - before))
    return _bind(x, kernel, (1, 1), padding, (stride, stride))


def _bind(x, kernel, strides, padding, x_dilation):
    params = {
        "strides": strides, "padding": tuple(map(tuple, padding)), "x_dilation": x_dilation,
        "kernel_dilation": (1, 1),
    }  # fmt: skip
    operation = _convolution.bind if _is_cpu() else _plain
    return operation(x[None], kernel, **params)[0]


def _is_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _plain(x, kernel, *, strides, padding, x_dilation, kernel_dilation):
    return lax.conv_general_dilated(
        x, kernel, strides, padding, x_dilation, kernel_dilation, dimension_numbers=_LAYOUT
    )


# --- the primitive: bilinear in a batch of images [n, h, w, i] and a kernel [a, b, i, o] ---------

_convolution = Primitive("convolution")
_convolution.def_impl(jax.jit(_plain, static_argnames=(
    "strides", "padding", "x_dilation", "kernel_dilation")))  # fmt: skip
mlir.register_lowering(_convolution, mlir.lower_fun(_plain, multiple_results=False))


def _abstract(x, kernel, **params):
    return jax.typeof(jax.eval_shape(functools.partial(_plain, **params), x, kernel))


def _dilated(sizes: Sequence[int], dilation: Sequence[int]) -> list[int]:
    return [(size - 1) * by + 1 for size, by in zip(sizes, dilation, strict=True)]


def _by_x(cotangent, x, kernel, *, strides, padding, x_dilation, kernel_dilation):
    """What reaches the images: the convolution of the cotangent with the kernel turned round."""
    spread = _dilated(x.aval.shape[1:3], x_dilation)
    reach = _dilated(kernel.shape[:2], kernel_dilation)
    out = _dilated(cotangent.shape[1:3], strides)
    before = [size - 1 - low for size, (low, _) in zip(reach, padding, strict=True)]
    after = [s + r - 1 - o - b for s, r, o, b in zip(spread, reach, out, before, strict=True)]
    return _convolution.bind(
        cotangent,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        strides=x_dilation,
        padding=tuple(zip(before, after, strict=True)),
        x_dilation=strides,
        kernel_dilation=kernel_dilation,
    )


def _by_kernel(cotangent, x, kernel, *, strides, padding, x_dilation, kernel_dilation):
    """What reaches the kernel: the images, channels as the batch, convolved with the cotangent."""
    spread = _dilated(x.shape[1:3], x_dilation)
    reach = _dilated(kernel.aval.shape[:2], kernel_dilation)
    out = _dilated(cotangent.shape[1:3], strides)
    low = [low for low, _ in padding]
    high = [o - s + r - 1 - b for o, s, r, b in zip(out, spread, reach, low, strict=True)]
    moved = _convolution.bind(
        x.transpose(3, 1, 2, 0),
        cotangent.transpose(1, 2, 0, 3),
        strides=kernel_dilation,
        padding=tuple(zip(low, high, strict=True)),
        x_dilation=x_dilation,
        kernel_dilation=strides,
    )
    return moved.transpose(1, 2, 0, 3)


def _batched(arguments, axes, **params):
    x, kernel = arguments
    x_axis, kernel_axis = axes
    if kernel_axis is None:  # a larger batch of images
        x = jnp.moveaxis(x, x_axis, 0)
        out = _convolution.bind(x.reshape(-1, *x.shape[2:]), kernel, **params)
        return out.reshape(*x.shape[:2], *out.shape[1:]), 0
    # Kernels of several models: a grouped convolution is slower than one after the other.
    kernel = jnp.moveaxis(kernel, kernel_axis, 0)
    if x_axis is None:
        return lax.map(lambda one: _convolution.bind(x, one, **params), kernel), 0
    x = jnp.moveaxis(x, x_axis, 0)
    return lax.map(lambda both: _convolution.bind(*both, **params), (x, kernel)), 0


_convolution.def_abstract_eval(_abstract)
ad.defbilinear(_convolution, _by_x, _by_kernel)
batching.primitive_batchers[_convolution] = _batched
