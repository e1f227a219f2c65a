"""Images of the user's own files: IDX, NumPy's .npy and PNG, checked before they are read.

Sizes are taken from the headers: a file that claims more than it may hold, or more than it holds,
is refused without the memory for its content.
"""

import gzip
import io
import math
import os
import stat
import zlib
from pathlib import Path

import numpy as np

from experiments.data.datasets import DataError, enlarge_digits, parse_idx

LARGEST_FILE = 2**29
"""Bytes of a file, and of its content once decompressed."""
_LARGEST_PNG = 2**24
"""Pixels."""
_DIGITS_SHAPE, _DIGITS_LARGEST = (8, 8), 16  # scikit-learn's digits


def read_images(path: Path, shape: tuple[int, int], resize: bool = False) -> np.ndarray:
    """Images from a file: IDX (also gzipped), NumPy's .npy, or PNG.

    Args:
      path: the file; one image or many, of integers from 0 to 255 or floats from 0 to 1. Integers
        or booleans of which none is above 1 are pixels that are off or on. PNG of 16 bits a pixel
        are read with all of them.
      shape: height and width that the images must have.
      resize: scale images of another size, bilinearly; those of 8x8 pixels from 0 to 16, as
        scikit-learn's digits are, get the margin that the digits have in the data set of that name.

    Returns:
      float32 [n, height * width] in [0, 1].

    Raises:
      DataError: the file is missing, not a regular file, empty, too large, or holds something else.
    """
    try:
        content = _content(path)
        if content.startswith(b"\x93NUMPY"):
            images = _npy(content)
        elif content.startswith(b"\x89PNG"):
            images = _png(content)
        elif content.startswith(b"\x1f\x8b"):
            images = parse_idx(_decompressed(content), None, str(path))
        elif content.startswith(b"\0\0\x08"):
            images = parse_idx(content, None, str(path))
        else:
            raise ValueError("neither IDX of bytes, nor .npy, nor PNG")
        return _scaled(_of_shape(images, shape, resize)).reshape(-1, math.prod(shape))
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # of damaged files NumPy and Pillow raise nearly every kind
        raise DataError(f"{path}: {' '.join(str(error).split())[:200]}") from None


def _content(path: Path) -> bytes:
    """All bytes of a regular file of a reasonable size."""
    status = os.stat(path)  # before it is opened: a pipe would block
    if stat.S_ISDIR(status.st_mode):
        raise ValueError("a folder, not a file of images")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if not status.st_size:
        raise ValueError("the file is empty")
    if status.st_size > LARGEST_FILE:
        raise ValueError(
            f"the file has {status.st_size:,} bytes; {LARGEST_FILE:,} at most are read"
        )
    return path.read_bytes()


def _decompressed(content: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(content)) as file:
            raw = file.read(LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not a whole gzip file ({error})") from None
    if len(raw) > LARGEST_FILE:
        raise ValueError(f"its content has more than {LARGEST_FILE:,} bytes")
    return raw


def _npy(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(np.lib.format.read_magic(file))
    if read_header is None:
        raise ValueError("a version of .npy that holds named fields, no images")
    shape, _, dtype = read_header(file)
    if dtype.kind not in "buif":
        raise ValueError(f"expected integers from 0 to 255, or floats from 0 to 1; found {dtype}")
    expected, found = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if expected != found:
        raise ValueError(
            f"expected {expected:,} bytes of data for shape {shape} of {dtype}, found {found:,}"
        )
    return np.load(io.BytesIO(content), allow_pickle=False)


def _png(content: bytes) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    width, height = (int.from_bytes(content[i : i + 4]) for i in (16, 20))  # of its first chunk
    if width * height > _LARGEST_PNG:
        raise ValueError(f"{width}x{height} pixels; {_LARGEST_PNG:,} at most are read")
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG"])
    except UnidentifiedImageError:
        raise ValueError("cannot identify image: a damaged PNG") from None
    with image:
        if image.mode.startswith("I"):  # 16 bits; convert("L") would cut them off at 255
            return np.asarray(image).astype(np.float32) / 65_535
        return np.asarray(image.convert("L"))


def _of_shape(images: np.ndarray, shape: tuple[int, int], resize: bool) -> np.ndarray:
    """Images as ``[n, height, width]``."""
    flat = math.prod(shape)
    found = images.shape
    if images.size and images.ndim in (1, 2) and found[-1] == flat:
        return images.reshape(-1, *shape)
    if images.ndim == 2:
        images = images[None]
    if images.ndim == 3 and images.size:
        if images.shape[1:] == shape:
            return images
        if resize:
            return _resized(images, shape)
    advice = "; --resize scales them" if images.ndim == 3 and images.size else ""
    raise ValueError(
        f"expected images of {shape[0]}x{shape[1]} pixels; found shape {found}{advice}"
    )


def _resized(images: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    of_digits = images.shape[1:] == _DIGITS_SHAPE and images.max() <= _DIGITS_LARGEST
    if of_digits and shape == (28, 28) and images.max() > 1 and (images == images.round()).all():
        return enlarge_digits(images.astype(np.int64)).reshape(-1, *shape)
    height, width = shape
    grey = (Image.fromarray(image) for image in _scaled(images))
    bilinear = Image.Resampling.BILINEAR
    return np.stack([np.asarray(one.resize((width, height), bilinear)).clip(0, 1) for one in grey])


def _scaled(images: np.ndarray) -> np.ndarray:
    """float32 from 0 to 1."""
    largest = 1 if images.dtype.kind in "bf" or images.max() <= 1 else 255
    if not ((images >= 0) & (images <= largest)).all():  # NaN is neither
        raise ValueError("expected integers from 0 to 255, or floats from 0 to 1")
    return images.astype(np.float32) / largest
