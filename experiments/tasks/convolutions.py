"""Convolutions whose gradients are fast on a CPU, inside ``lax.scan`` as well.

XLA's CPU backend brings a convolution into the form of its fast kernels only outside of loops, and
computes the gradient of a strided one with the zeros between its rows: the gradients that jax
writes are up to 75 times slower in a scanned training step than they need to be (jax issue 12868).
Here a convolution, its transposition and the gradient of its kernel are three primitives, in a
program for a CPU each a plain convolution or a matrix product without a needless zero. They are
the three ways to compute one argument of a trilinear form from the other two, so differentiation
in either mode, to any order, stays inside. In a program for another platform they are jax's own
convolution and its transpositions.
"""

import functools
from typing import NamedTuple

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
    sides = [
        _Side(stride, size, taps, -(-size // stride), before)
        for size, taps, (before, _) in zip(x.shape[:2], kernel.shape[:2], padding, strict=True)
    ]
    return _output.bind(x[None], kernel, sides=tuple(sides))[0]


def convolve_transposed(
    x: Float[Array, "h w i"], kernel: Float[Array, "a b i o"], stride: int = 1
) -> Float[Array, "p q o"]:
    """The transposed convolution ("SAME"): ``p = h * stride``, as in ``flax.linen.ConvTranspose``.

    Args:
      x: image ``[h, w, i]`` of i channels.
      kernel: ``[a, b, i, o]``.
      stride: of the input, in both directions.
    """
    sides = []
    for size, taps in zip(x.shape[:2], kernel.shape[:2], strict=True):
        after = stride - 1 if stride >= taps else (taps + stride - 2) // 2  # as jax counts it
        sides.append(_Side(stride, size * stride, taps, size, after - stride + 1))
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _image.bind(x[None], turned, sides=tuple(sides))[0]


# --- the form: sum of image[stride * p + a - before] kernel[a] output[p] -------------------------


class _Side(NamedTuple):
    """One direction of the form, in pixels."""

    stride: int
    image: int
    kernel: int
    output: int
    before: int  # zeros before the image

    def phase(self, first: int) -> tuple[int, int, int, int]:
        """Which outputs reach the image's pixels ``first + stride * m``, and by which taps.

        Tap ``a + stride * j``, for j below the count of them, reaches m from output
        ``m + shift - j``.

        Returns:
          a, that count, and the zeros before and after the outputs that let a plain convolution
          with the taps turned round run over all m.
        """
        shift, a = divmod(first + self.before, self.stride)
        count = len(range(a, self.kernel, self.stride))
        last = -(-self.image // self.stride) - 1
        return a, count, count - 1 - shift, last + shift - (self.output - 1)

    @property
    def zeros(self) -> tuple[int, int]:
        """Zeros before and after the image; negative: pixels that no output sees."""
        reach = self.stride * (self.output - 1) + self.kernel
        return self.before, reach - self.image - self.before


def _plain(x, kernel, stride, padding):
    return lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=_LAYOUT)


def _patches(x: Float[Array, "n h w i"], sides) -> Float[Array, "npq abi"]:
    """What each output sees of the image."""
    zeros = [(*side.zeros, 0) for side in sides]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *zeros, (0, 0, 0)])
    rows, columns = sides
    tapped = [
        x[:, a :: rows.stride, b :: columns.stride][:, : rows.output, : columns.output]
        for a in range(rows.kernel)
        for b in range(columns.kernel)
    ]
    return jnp.concatenate(tapped, axis=-1).reshape(-1, len(tapped) * x.shape[-1])


def _compute_output(x, kernel, *, sides):
    """The convolution."""
    out = _patches(x, sides) @ kernel.reshape(-1, kernel.shape[-1])
    return out.reshape(x.shape[0], *(side.output for side in sides), -1)


def _compute_image(output, kernel, *, sides):
    """The transposed convolution: pixels of one phase are a plain convolution of the output."""
    rows, columns = sides
    kernel = kernel.swapaxes(2, 3)
    phases = []
    for r in range(rows.stride):
        a, height, above, below = rows.phase(r)
        for c in range(columns.stride):
            b, width, left, right = columns.phase(c)
            taps = kernel[a :: rows.stride, b :: columns.stride][::-1, ::-1]
            if height and width:
                phase = _plain(output, taps, (1, 1), ((above, below), (left, right)))
            else:  # a stride longer than the kernel leaves pixels that nothing reaches
                size = [-(-side.image // side.stride) for side in sides]
                phase = jnp.zeros((output.shape[0], *size, kernel.shape[-1]), output.dtype)
            phases.append(phase)
    n, h, w, channels = phases[0].shape
    image = jnp.stack(phases, axis=3).reshape(n, h, w, rows.stride, columns.stride, channels)
    image = image.transpose(0, 1, 3, 2, 4, 5)
    image = image.reshape(n, h * rows.stride, w * columns.stride, channels)
    return image[:, : rows.image, : columns.image]


def _compute_kernel(x, output, *, sides):
    """The gradient of the kernel: one matrix product."""
    channels = output.shape[-1]
    product = output.reshape(-1, channels).T @ _patches(x, sides)
    return product.T.reshape(*(side.kernel for side in sides), -1, channels)


# The same three in a program for another platform.


def _jax_output(x, kernel, *, sides):
    return _plain(x, kernel, [side.stride for side in sides], [side.zeros for side in sides])


def _jax_image(output, kernel, *, sides):
    shape = (output.shape[0], *(side.image for side in sides), kernel.shape[2])
    image = jax.ShapeDtypeStruct(shape, output.dtype)
    return jax.linear_transpose(lambda x: _jax_output(x, kernel, sides=sides), image)(output)[0]


def _jax_kernel(x, output, *, sides):
    shape = (*(side.kernel for side in sides), x.shape[-1], output.shape[-1])
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    return jax.linear_transpose(lambda k: _jax_output(x, k, sides=sides), kernel)(output)[0]


def _primitive(on_cpu, elsewhere) -> Primitive:
    primitive = Primitive(on_cpu.__name__.replace("_compute", "convolution"))
    primitive.def_impl(jax.jit(primitive.bind, static_argnames="sides"))
    primitive.def_abstract_eval(
        lambda *arguments, sides: jax.typeof(
            jax.eval_shape(functools.partial(on_cpu, sides=sides), *arguments)
        )
    )
    mlir.register_lowering(
        primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu"
    )
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))
    return primitive


_output = _primitive(_compute_output, _jax_output)
_image = _primitive(_compute_image, _jax_image)
_kernel = _primitive(_compute_kernel, _jax_kernel)

ad.defbilinear(
    _output,
    lambda cotangent, x, kernel, **form: _image.bind(cotangent, kernel, **form),
    lambda cotangent, x, kernel, **form: _kernel.bind(x, cotangent, **form),
)
ad.defbilinear(
    _image,
    lambda cotangent, output, kernel, **form: _output.bind(cotangent, kernel, **form),
    lambda cotangent, output, kernel, **form: _kernel.bind(cotangent, output, **form),
)
ad.defbilinear(
    _kernel,
    lambda cotangent, x, output, **form: _image.bind(output, cotangent, **form),
    lambda cotangent, x, output, **form: _output.bind(x, cotangent, **form),
)


def _several_kernels(primitive, elsewhere, arguments, axes, **form):
    """Kernels of several models: on a CPU a grouped convolution is slower than one by one."""
    batched = [axis is not None for axis in axes]
    moved = [
        x if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(arguments, axes, strict=True)
    ]

    def one_by_one(*arguments):
        def one(batch):
            rest = iter(batch)
            return primitive.bind(
                *(next(rest) if own else x for x, own in zip(arguments, batched, strict=True)),
                **form,
            )

        return lax.map(one, [x for x, own in zip(arguments, batched, strict=True) if own])

    at_once = jax.vmap(
        functools.partial(elsewhere, **form), [0 if own else None for own in batched]
    )
    return lax.platform_dependent(*moved, cpu=one_by_one, default=at_once), 0


def _several_images(primitive, elsewhere, arguments, axes, **form):
    """A larger batch of images, unless there are several kernels as well."""
    if axes[1] is not None:
        return _several_kernels(primitive, elsewhere, arguments, axes, **form)
    x = jnp.moveaxis(arguments[0], axes[0], 0)
    out = primitive.bind(x.reshape(-1, *x.shape[2:]), arguments[1], **form)
    return out.reshape(*x.shape[:2], *out.shape[1:]), 0


def _batcher(rule, primitive, elsewhere):
    batching.primitive_batchers[primitive] = functools.partial(rule, primitive, elsewhere)


_batcher(_several_images, _output, _jax_output)
_batcher(_several_images, _image, _jax_image)
_batcher(_several_kernels, _kernel, _jax_kernel)
