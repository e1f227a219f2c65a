"""Random changes of an image that leave its class."""

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Key


def random_affine(
    key: Key[Array, ""],
    image: Float[Array, "h w"],
    shift: float = 0.0,
    rotation: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
) -> Float[Array, "h w"]:
    """An image moved, turned, resized and slanted about its centre, each by a uniform draw.

    Args:
      key: random key.
      image: pixels ``[h, w]``; beyond them all is 0.
      shift: at most, in each direction, in pixels.
      rotation: at most, either way, in degrees.
      scale: at most, larger or smaller, as a share of the size: 0.1 draws from 0.9 to 1.1.
      shear: at most, either way: pixels that a row is moved for each row from the centre.

    Returns:
      ``[h, w]``, interpolated linearly between the four pixels around each place.
    """
    draw = random.uniform(key, (5,), minval=-1.0)
    angle = jnp.deg2rad(rotation) * draw[2]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.array([[cosine, -sine], [sine, cosine]])
    slant = jnp.array([[1.0, 0.0], [shear * draw[4], 1.0]])
    # From a place in the result to the place in the image that it shows.
    matrix = turn @ slant / (1 + scale * draw[3])
    center = ((jnp.array(image.shape) - 1) / 2)[:, None]
    places = jnp.indices(image.shape).reshape(2, -1)
    sources = matrix @ (places - center - shift * draw[:2, None]) + center
    pixels = jax.scipy.ndimage.map_coordinates(image, list(sources), order=1, mode="constant")
    return pixels.reshape(image.shape)
