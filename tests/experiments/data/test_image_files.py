"""Images of the user's own files: what is read, and how the rest is refused."""

import gzip
import io
import os
import struct
import zlib

import numpy as np
import pytest

from experiments import data
from experiments.data import image_files

IMAGES = (np.arange(2 * 784) % 256).astype(np.uint8).reshape(2, 28, 28)
IDX = struct.pack(">BBBBIII", 0, 0, 8, 3, 2, 28, 28) + IMAGES.tobytes()


def test_images_are_read_from_every_format(tmp_path):
    from PIL import Image

    (tmp_path / "a.idx").write_bytes(IDX)
    (tmp_path / "a.gz").write_bytes(gzip.compress(IDX))
    np.save(tmp_path / "a.npy", IMAGES)
    np.save(tmp_path / "floats.npy", IMAGES.reshape(2, 784) / 255)
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    expected = IMAGES.reshape(2, 784) / np.float32(255)
    for name in ("a.idx", "a.gz", "a.npy", "floats.npy"):
        np.testing.assert_allclose(data.read_images(tmp_path / name, (28, 28)), expected, rtol=1e-6)
    np.testing.assert_allclose(
        data.read_images(tmp_path / "a.png", (28, 28)), expected[:1], rtol=1e-6
    )


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def png(pixels, **options):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content)
    )  # fmt: skip


def bomb(width, height):
    """A PNG of a few hundred bytes that claims to be huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(100_000), 9)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def npy_header(shape, dtype="<f8"):
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def test_all_bits_of_a_png_are_read(tmp_path):
    """16 bits a pixel, which Pillow's own conversion would cut off at 255."""
    deep = (IMAGES[0].astype(np.uint32) * 257).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(png(deep))
    expected = IMAGES[0].reshape(1, 784) / np.float32(255)
    np.testing.assert_allclose(
        data.read_images(tmp_path / "deep.png", (28, 28)), expected, atol=1e-6
    )


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32])
def test_pixels_that_are_off_or_on_are_read_as_such(tmp_path, kind):
    pixels = IMAGES > 127
    np.save(tmp_path / "binary.npy", pixels.astype(kind))
    images = data.read_images(tmp_path / "binary.npy", (28, 28))
    np.testing.assert_array_equal(images, pixels.reshape(2, 784).astype(np.float32))


def test_images_of_another_size_are_scaled_where_asked(tmp_path):
    large = np.kron(IMAGES, np.ones((1, 2, 2), np.uint8))
    np.save(tmp_path / "large.npy", large)
    (tmp_path / "large.png").write_bytes(png(large[0]))
    found = data.read_images(tmp_path / "large.npy", (28, 28), resize=True)
    assert found.shape == (2, 784)
    # The centre of a small pixel lies between four equal ones; bilinear weights reach one further.
    assert np.abs(found[:, 29:755] - IMAGES.reshape(2, 784)[:, 29:755] / 255).mean() < 0.06
    of_png = data.read_images(tmp_path / "large.png", (28, 28), resize=True)
    np.testing.assert_array_equal(of_png, found[:1])
    with pytest.raises(data.DataError, match=r"found shape \(2, 56, 56\); --resize scales them"):
        data.read_images(tmp_path / "large.npy", (28, 28))


def test_scikit_learn_s_digits_are_framed_as_in_the_data_set(tmp_path):
    from sklearn.datasets import load_digits

    images = load_digits().images  # float64 from 0 to 16, [1797, 8, 8]
    np.save(tmp_path / "digits.npy", images)
    found = np.round(255 * data.read_images(tmp_path / "digits.npy", (28, 28), resize=True))
    whole = data.load("digits")
    known = {image.tobytes() for split in whole[1:4] for image in split.images}
    assert {image.astype(np.uint8).tobytes() for image in found} == known


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        (b"", "the file is empty"),
        (b"hello", "neither IDX of bytes, nor .npy, nor PNG"),
        (IDX[:-1], "expected 1568 bytes of data"),
        (b"\x1f\x8bxx", "not a whole gzip file"),
        (b"\x89PNG broken", "cannot identify image"),
        (bomb(60_000, 60_000), "60000x60000 pixels; 16,777,216 at most"),
        (bomb(2**31 - 1, 2**31 - 1), "2147483647x2147483647 pixels"),
        (png(IMAGES[0])[:-40], "truncated|broken"),
        (npy_header((2**40, 784)), "expected 6,896,136,929,411,072 bytes of data"),
        (npy_header((10**30,)), "bytes of data"),
        (npy_header((1, 28, 28)) + bytes(100), "expected 6,272 bytes of data .* found 100"),
        (npy(np.zeros((28, 28), complex)), "found complex128"),
        (npy(np.zeros(784, [("a", "f4")])), "found"),
        (struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 28, 28), "bytes of data"),
        (gzip.compress(bytes(2**29 + 1), 1), "more than 536,870,912 bytes"),
        (npy(np.zeros((8, 8))), r"found shape \(8, 8\); --resize scales them"),
        (npy(np.zeros((3, 9, 9))), r"expected images of 28x28 pixels; found shape \(3, 9, 9\)"),
        (npy(np.zeros((0, 28, 28))), r"found shape \(0, 28, 28\)"),
        (npy(np.full((1, 28, 28), np.nan)), "expected integers from 0 to 255, or floats"),
        (npy(np.full((28, 28), -1)), "expected integers from 0 to 255"),
        (npy(np.full((28, 28), "a")), "expected integers from 0 to 255, .* found <U1"),
    ],
)
def test_files_that_hold_no_images_are_named_in_one_line(tmp_path, content, told):
    path = tmp_path / "images"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(data.DataError, match=told) as refusal:
        data.read_images(path, (28, 28))
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_only_regular_files_of_a_reasonable_size_are_opened(tmp_path, monkeypatch):
    """A pipe without a writer would block, /dev/zero never ends."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**40)
    for name, told in (
        (tmp_path / "pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (tmp_path / "folder", "a folder"),
        (tmp_path / "loop", "symbolic links"),
        (tmp_path / "sparse", "1,099,511,627,776 bytes; 536,870,912 at most"),
    ):
        with pytest.raises(data.DataError, match=told):
            data.read_images(image_files.Path(name), (28, 28))
