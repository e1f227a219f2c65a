"""Datasets: readers, checksums, search order, splits, binarisation, and what every fault says.

No network. Tests on real files read GSM_DATA_DIR and are skipped without it:

    GSM_DATA_DIR=path/to/data python -m pytest tests/test_data.py
"""

import functools
import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.data import datasets as data
from tests.experiments.runs import ROOT

REAL_DATA_DIR = os.environ.get("GSM_DATA_DIR")  # read before the fixture below hides it
TINY_SIZES = {"train": 6, "valid": 2, "test": 3}


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No GSM_DATA_DIR, an empty TFDS cache and no network, unless a test says otherwise."""
    monkeypatch.delenv("GSM_DATA_DIR", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(data, "_why_unreachable", lambda url, seconds: "tests have no network")


def real_data(name, *filenames):
    """The folder of folders that has this dataset's real files, or skips."""
    if not REAL_DATA_DIR:
        pytest.skip("GSM_DATA_DIR is not set")
    if not all(
        (Path(REAL_DATA_DIR).expanduser() / name / filename).is_file() for filename in filenames
    ):
        pytest.skip(f"GSM_DATA_DIR has no {name}/{filenames[0]}")
    return REAL_DATA_DIR


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def idx_bytes(array, *, magic=b"\0\0\x08", dimensions=None):
    """A gzipped IDX file, as its format page describes it (independent of the reader)."""
    dimensions = array.shape if dimensions is None else dimensions
    header = magic + bytes([len(dimensions)])
    header += b"".join(int(size).to_bytes(4, "big") for size in dimensions)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def url_info(content, filename):
    from tensorflow_datasets.core.download import checksums
    from tensorflow_datasets.core.utils import Size

    return checksums.UrlInfo(size=Size(len(content)), checksum=sha256(content), filename=filename)


def images_and_labels(rows, seed):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
    return images, np.arange(rows, dtype=np.uint8) % 10


def tiny_files(seed=0):
    training_images, training_labels = images_and_labels(8, seed)
    test_images, test_labels = images_and_labels(3, seed + 100)
    arrays = (training_images, training_labels, test_images, test_labels)
    return dict(zip(data.IDX_FILENAMES, map(idx_bytes, arrays), strict=True))


def write_files(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for filename, content in files.items():
        (folder / filename).write_bytes(content)


def register(monkeypatch, files, host="http://nowhere.invalid"):
    """Makes `files` the ones that TFDS registers, for every dataset name."""
    infos = {
        f"{host}/{filename}": url_info(content, filename) for filename, content in files.items()
    }
    monkeypatch.setattr(data, "_url_infos", lambda name: dict(infos))
    return infos


@pytest.fixture
def tiny(monkeypatch):
    """Registers four small IDX files and sizes to match; returns their contents by name."""
    for split, size in TINY_SIZES.items():
        monkeypatch.setitem(data.SPLIT_SIZES, split, size)
    files = tiny_files()
    register(monkeypatch, files)
    return files


def error_of(function, *arguments):
    """The message of the DataError that a call raises; it must be one line."""
    with pytest.raises(data.DataError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ------------------------------------------------------------------------------------------- names


def test_unknown_dataset_lists_the_names_and_the_nearest():
    message = error_of(data.load, "fashion-mnist")
    assert "did you mean fashion_mnist?" in message
    assert all(name in message for name in data.DATASETS)


def test_unknown_binarization_lists_the_methods():
    dataset = data.Dataset("any", *[data.Split(np.zeros((1, 784), np.uint8), None)] * 3, 255)
    message = error_of(data.binarize, dataset, "treshold")
    assert "did you mean threshold?" in message
    assert all(method in message for method in data.BINARIZATIONS)


def test_import_is_light():
    heavy = ("tensorflow", "tensorflow_datasets", "sklearn", "scipy.io", "requests", "jax", "flax")
    code = f"import sys, experiments.data; print([n for n in {heavy!r} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"


# --------------------------------------------------------------------------------------------- IDX


@pytest.mark.parametrize("shape", [(5,), (4, 28, 28), (2, 3, 5, 7)])
def test_idx_round_trip(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    read = data._parse_gzipped_idx(idx_bytes(array), shape, "here")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


LABELS = np.arange(10, dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (idx_bytes(LABELS)[:-12], "gzip"),  # cut within the compressed data
        (idx_bytes(LABELS)[:5], "gzip"),
        (idx_bytes(LABELS) + b"tail", "gzip"),
        (gzip.decompress(idx_bytes(LABELS)), "gzip"),  # not compressed at all
        (b"<html>not found</html>", "gzip"),
        (b"", "magic"),  # zero gzip members decompress to nothing
        (idx_bytes(LABELS, magic=b"\0\0\x0d"), "00 00 0d"),  # float32
        (idx_bytes(LABELS, magic=b"PK\x08"), "50 4b 08"),
        (gzip.compress(b"\0\0\x08"), "magic"),
        (gzip.compress(b"\0\0\x08\x03\0\0\0\x0a"), "header"),
        (idx_bytes(LABELS[:-1], dimensions=(10,)), "expected 10 bytes of data"),  # short
        (idx_bytes(np.arange(11), dimensions=(10,)), "found 11"),  # trailing byte
        (idx_bytes(np.arange(9)), "found (9,)"),
        (idx_bytes(LABELS, dimensions=(2, 5)), "found (2, 5)"),  # another rank
    ],
    ids=lambda value: "file" if isinstance(value, bytes) else value,
)
def test_idx_faults_name_the_file_and_the_fault(content, expected):
    message = error_of(data._parse_gzipped_idx, content, (10,), "here.gz")
    assert message.startswith("here.gz: ")
    assert expected in message


def test_split_of_an_idx_dataset(tiny, tmp_path):
    write_files(tmp_path / "kmnist", tiny)
    dataset = data.load("kmnist", tmp_path)
    training_images, training_labels = images_and_labels(8, 0)
    test_images, test_labels = images_and_labels(3, 100)
    assert (dataset.name, dataset.max_value) == ("kmnist", 255)
    np.testing.assert_array_equal(dataset.train.images, training_images[:6].reshape(6, 784))
    np.testing.assert_array_equal(dataset.valid.images, training_images[6:].reshape(2, 784))
    np.testing.assert_array_equal(dataset.test.images, test_images.reshape(3, 784))
    np.testing.assert_array_equal(dataset.train.labels, training_labels[:6])
    np.testing.assert_array_equal(dataset.valid.labels, training_labels[6:])
    np.testing.assert_array_equal(dataset.test.labels, test_labels)


def test_labels_beyond_nine_and_counts_that_differ(monkeypatch, tiny, tmp_path):
    for labels, expected in ((np.full(8, 10), "0 to 9, found 10"), (np.arange(7), "found (7,)")):
        files = tiny | {"train-labels-idx1-ubyte.gz": idx_bytes(labels)}
        register(monkeypatch, files)  # right checksums: the content itself must be refused
        write_files(tmp_path / "mnist", files)
        message = error_of(data.load, "mnist", tmp_path)
        assert "train-labels-idx1-ubyte.gz" in message
        assert expected in message


# ------------------------------------------------------------------- folder: checksums, wrong files


def test_truncated_file_names_both_checksums(tiny, tmp_path):
    name = "train-images-idx3-ubyte.gz"
    write_files(tmp_path / "mnist", tiny | {name: tiny[name][:-1]})
    message = error_of(data.load, "mnist", tmp_path)
    assert str(tmp_path / "mnist" / name) in message
    assert f"expected SHA-256 {sha256(tiny[name])}" in message
    assert f"found {sha256(tiny[name][:-1])}" in message


def test_one_flipped_bit_is_found(tiny, tmp_path):
    name = "t10k-labels-idx1-ubyte.gz"
    content = bytearray(tiny[name])
    content[len(content) // 2] ^= 1
    write_files(tmp_path / "mnist", tiny | {name: bytes(content)})
    assert name in error_of(data.load, "mnist", tmp_path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"),
        ("train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
    ],
)
def test_exchanged_files_are_found(tiny, tmp_path, one, other):
    write_files(tmp_path / "mnist", tiny | {one: tiny[other], other: tiny[one]})
    message = error_of(data.load, "mnist", tmp_path)
    assert sha256(tiny[one]) in message
    assert sha256(tiny[other]) in message


def test_files_of_another_dataset_with_the_same_names_are_found(tiny, tmp_path):
    write_files(tmp_path / "fashion_mnist", tiny_files(seed=7))
    assert "expected SHA-256" in error_of(data.load, "fashion_mnist", tmp_path)


def test_some_files_missing_names_them_and_the_folder(tiny, tmp_path):
    write_files(tmp_path / "mnist", dict(list(tiny.items())[:2]))
    message = error_of(data.load, "mnist", tmp_path)
    assert str(tmp_path / "mnist") in message
    assert "missing: t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz" in message
    assert "train-images" not in message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file(tiny, tmp_path):
    write_files(tmp_path / "mnist", tiny)
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").chmod(0)
    assert "cannot be read" in error_of(data.load, "mnist", tmp_path)


# ---------------------------------------------------------------------------------- search order


def test_data_dir_comes_before_the_environment(monkeypatch, tiny, tmp_path):
    write_files(tmp_path / "right" / "mnist", tiny)
    write_files(tmp_path / "wrong" / "mnist", tiny_files(seed=7))
    monkeypatch.setenv("GSM_DATA_DIR", str(tmp_path / "wrong"))
    assert len(data.load("mnist", tmp_path / "right").train.images) == 6
    assert "expected SHA-256" in error_of(data.load, "mnist")
    monkeypatch.setenv("GSM_DATA_DIR", str(tmp_path / "right"))
    assert len(data.load("mnist").train.images) == 6
    assert len(data.load("mnist", "").train.images) == 6


def test_a_folder_that_does_not_exist(monkeypatch, tmp_path):
    absent = tmp_path / "absent"
    message = error_of(data.load, "mnist", absent)
    assert message.startswith("data_dir must be an existing folder")
    assert str(absent) in message
    monkeypatch.setenv("GSM_DATA_DIR", str(absent))
    assert error_of(data.load, "binarized_mnist").startswith("GSM_DATA_DIR must be")


def cache_files(name, infos, files):
    from tensorflow_datasets.core.download import resource

    cache = Path(os.environ["TFDS_DATA_DIR"]) / "downloads" / name
    cached = {resource.get_dl_fname(url, i.checksum): files[i.filename] for url, i in infos.items()}
    write_files(cache, cached)
    return cache


def test_a_folder_without_the_dataset_falls_through_to_the_cache(monkeypatch, tiny, tmp_path):
    infos = register(monkeypatch, tiny)
    cache = cache_files("mnist", infos, tiny)
    assert len(data.load("mnist", tmp_path).test.images) == 3
    assert len(data.load("mnist").test.images) == 3
    damaged = next(path for path in cache.iterdir() if "train-images" in path.name)
    damaged.write_bytes(damaged.read_bytes()[:-3])
    message = error_of(data.load, "mnist")
    assert str(damaged) in message
    assert "expected SHA-256" in message


# ----------------------------------------------------------------------------------------- network


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serves tmp_path/served on this machine; proxies are switched off for it."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "served").mkdir()
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


WHY_UNREACHABLE = data._why_unreachable  # the real one, before the fixture replaces it


def test_download_goes_to_the_cache_once(monkeypatch, tiny, tmp_path, server, capfd):
    monkeypatch.setattr(data, "_why_unreachable", WHY_UNREACHABLE)
    register(monkeypatch, tiny, host=server)
    write_files(tmp_path / "served", tiny)
    assert len(data.load("mnist", tmp_path).train.images) == 6
    assert capfd.readouterr() == ("", "")  # no progress bars, no warnings
    for filename in tiny:
        (tmp_path / "served" / filename).unlink()
    assert len(data.load("mnist").train.images) == 6
    assert "tensorflow" not in sys.modules


def test_a_wrong_download_is_refused_and_not_kept(monkeypatch, tiny, tmp_path, server):
    monkeypatch.setattr(data, "_why_unreachable", WHY_UNREACHABLE)
    register(monkeypatch, tiny, host=server)
    write_files(tmp_path / "served", tiny_files(seed=7))
    for _ in range(2):  # nothing wrong may be left behind for the second call to use
        message = error_of(data.load, "mnist")
        assert "wrong checksum" in message
        assert any(sha256(content) in message for content in tiny.values())
        assert any(sha256(content) in message for content in tiny_files(seed=7).values())


def test_a_file_gone_from_the_server(monkeypatch, tiny, server):
    monkeypatch.setattr(data, "_why_unreachable", WHY_UNREACHABLE)
    register(monkeypatch, tiny, host=server)
    assert "HTTP status 404" in error_of(data.load, "mnist")


def test_unreachable_network_says_what_to_do(tmp_path):
    message = error_of(data.load, "fashion_mnist", tmp_path)
    assert all(filename in message for filename in data.IDX_FILENAMES)
    assert str(tmp_path / "fashion_mnist") in message
    assert str(tmp_path / "tfds" / "downloads") in message
    assert "tests have no network" in message
    assert "configs/cat_vae.py:digits" in message
    assert "GSM_DATA_DIR=DIR" in error_of(data.load, "fashion_mnist")


def test_the_probe_is_bounded_whatever_hangs(monkeypatch):
    assert data.PROBE_SECONDS <= 6  # leaves 4 of the 10 seconds for imports
    never = threading.Event()

    def hang(*arguments, **options):
        never.wait(60)
        raise OSError

    monkeypatch.setattr("requests.head", hang)
    start = time.monotonic()
    reason = WHY_UNREACHABLE("http://nowhere.invalid/file", 0.2)
    never.set()
    assert time.monotonic() - start < 5
    assert reason == "no answer in 0.2 seconds"


def test_the_probe_names_a_refused_connection(monkeypatch, server):
    assert WHY_UNREACHABLE(f"{server}/", 5) is None
    monkeypatch.setenv("no_proxy", "*")
    assert WHY_UNREACHABLE("http://127.0.0.1:1/file", 5) == "ConnectionError"


def test_the_probe_obeys_proxies(monkeypatch, server):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", server)  # answers 404, which no name server could
    assert WHY_UNREACHABLE("http://nowhere.invalid/file", 5) == "HTTP status 404"


# ---------------------------------------------------------------------------------- binarized_mnist


def amat_bytes(images):
    return b"".join(" ".join(map(str, row)).encode() + b"\n" for row in images.tolist())


@pytest.fixture
def tiny_binary(monkeypatch):
    """Small splits registered as the fixed binarisation; returns them by split name."""
    generator = np.random.default_rng(3)
    splits = {}
    for split, size in TINY_SIZES.items():
        splits[split] = generator.integers(0, 2, (size, 784), dtype=np.uint8)
        monkeypatch.setitem(data.SPLIT_SIZES, split, size)
        monkeypatch.setitem(data.BINARIZED_MNIST_SHA256, split, sha256(splits[split].tobytes()))
    return splits


def write_amat(folder, splits):
    write_files(folder, {f"binarized_mnist_{k}.amat": amat_bytes(v) for k, v in splits.items()})


def write_mat(folder, splits, **options):
    import scipy.io

    folder.mkdir(parents=True, exist_ok=True)
    for split, images in splits.items():
        scipy.io.savemat(folder / f"{split}.mat", {"other": 1, "X": images}, **options)


def check_binary(dataset, splits):
    assert (dataset.name, dataset.max_value) == ("binarized_mnist", 1)
    for split, images in splits.items():
        assert getattr(dataset, split).labels is None
        assert getattr(dataset, split).images.dtype == np.uint8
        assert getattr(dataset, split).images.flags.c_contiguous
        np.testing.assert_array_equal(getattr(dataset, split).images, images)


def test_amat_files(tiny_binary, tmp_path):
    write_amat(tmp_path / "binarized_mnist", tiny_binary)
    check_binary(data.load("binarized_mnist", tmp_path), tiny_binary)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.int32])
@pytest.mark.parametrize("compressed", [False, True])
def test_mat_files_however_they_were_saved(tiny_binary, tmp_path, dtype, compressed):
    saved = {split: images.astype(dtype) for split, images in tiny_binary.items()}
    write_mat(tmp_path / "binarized_mnist", saved, do_compression=compressed)
    check_binary(data.load("binarized_mnist", tmp_path), tiny_binary)


def test_amat_in_the_tfds_cache(monkeypatch, tiny_binary):
    names = {f"binarized_mnist_{split}.amat": images for split, images in tiny_binary.items()}
    files = {filename: amat_bytes(images) for filename, images in names.items()}
    cache_files("binarized_mnist", register(monkeypatch, files), files)
    check_binary(data.load("binarized_mnist"), tiny_binary)


@pytest.mark.parametrize("write", [write_amat, write_mat])
def test_binary_faults(tiny_binary, tmp_path, write):
    flipped = tiny_binary["valid"].copy()
    flipped[1, 300] ^= 1
    swapped = {"train": tiny_binary["train"][::-1]}
    for number, (change, expected) in enumerate(
        [
            ({"valid": flipped}, f"found {sha256(flipped.tobytes())}"),
            ({"valid": flipped}, f"SHA-256 {sha256(tiny_binary['valid'].tobytes())}"),
            (swapped, "expected SHA-256"),
            ({"test": tiny_binary["test"][:2]}, "expected shape (3, 784), found (2, 784)"),
            ({"train": tiny_binary["test"], "test": tiny_binary["train"]}, "found (3, 784)"),
            ({"valid": tiny_binary["valid"] * 2}, "0 and 1 only"),
        ]
    ):
        write(tmp_path / str(number) / "binarized_mnist", tiny_binary | change)
        message = error_of(data.load, "binarized_mnist", tmp_path / str(number))
        assert expected in message
        assert str(tmp_path / str(number) / "binarized_mnist") in message


def test_truncated_binary_files(tiny_binary, tmp_path):
    write_amat(tmp_path / "a" / "binarized_mnist", tiny_binary)
    write_mat(tmp_path / "m" / "binarized_mnist", tiny_binary)
    for path in (
        tmp_path / "a" / "binarized_mnist" / "binarized_mnist_valid.amat",
        tmp_path / "m" / "binarized_mnist" / "valid.mat",
    ):
        content = path.read_bytes()
        for kept in (len(content) - 1, len(content) // 2, 0):
            path.write_bytes(content[:kept])
            message = error_of(data.load, "binarized_mnist", path.parent.parent)
            assert str(path) in message


def test_mat_without_x(tiny_binary, tmp_path):
    import scipy.io

    folder = tmp_path / "binarized_mnist"
    write_mat(folder, tiny_binary)
    scipy.io.savemat(folder / "test.mat", {"Y": tiny_binary["test"]})
    assert "key X" in error_of(data.load, "binarized_mnist", tmp_path)
    scipy.io.savemat(folder / "test.mat", {"X": np.full((3, 784), "cells", object)})
    assert "matrix of numbers" in error_of(data.load, "binarized_mnist", tmp_path)


def test_missing_binary_files(tiny_binary, tmp_path, monkeypatch):
    def fail(*arguments):
        raise AssertionError("binarized_mnist must not try the network")

    monkeypatch.setattr(data, "_why_unreachable", fail)
    monkeypatch.setattr(data, "_download", fail)
    message = error_of(data.load, "binarized_mnist", tmp_path)
    assert all(f"binarized_mnist_{split}.amat" in message for split in TINY_SIZES)
    assert "train.mat" in message
    assert str(tmp_path / "binarized_mnist") in message
    assert "configs/cat_vae.py:digits" in message
    write_mat(tmp_path / "binarized_mnist", {"train": tiny_binary["train"]})
    assert "missing: valid.mat, test.mat" in error_of(data.load, "binarized_mnist", tmp_path)


# ------------------------------------------------------------------------------------------- digits


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


# scikit-learn documents 178, 182, 177, 183, 181, 182, 181, 179, 174, 180 images of each class.
CLASS_SIZES_LEFT = [118, 122, 117, 123, 121, 122, 121, 119, 114, 120]


def test_digits_shapes_and_strata(digits):
    assert (digits.name, digits.max_value) == ("digits", 255)
    for split, rows in ((digits.train, 1197), (digits.valid, 300), (digits.test, 300)):
        assert split.images.shape == (rows, 784)
        assert split.labels.shape == (rows,)
        assert split.images.dtype == split.labels.dtype == np.uint8
        assert split.images.max() == 255
    assert np.bincount(digits.valid.labels).tolist() == [30] * 10
    assert np.bincount(digits.test.labels).tolist() == [30] * 10
    assert np.bincount(digits.train.labels).tolist() == CLASS_SIZES_LEFT
    # In random order: the first hundred are no block of one class.
    assert all(len(set(split.labels[:100])) == 10 for split in digits[1:4])


def test_digits_are_each_used_once_with_their_own_label(digits):
    from sklearn.datasets import load_digits

    originals, labels = load_digits(return_X_y=True)
    expected = data.enlarge_digits(originals.reshape(-1, 8, 8).astype(np.int64))
    assert len(np.unique(expected, axis=0)) == len(np.unique(originals, axis=0)) == 1797

    def rows(images, labels):
        return sorted((image.tobytes(), int(y)) for image, y in zip(images, labels, strict=True))

    images = np.concatenate([split.images for split in digits[1:4]])
    assert rows(images, np.concatenate([s.labels for s in digits[1:4]])) == rows(expected, labels)


def test_digits_enlargement_against_floating_point():
    from scipy.ndimage import map_coordinates

    original = np.random.default_rng(5).integers(0, 17, (1, 8, 8))
    at = np.clip((np.arange(20) + 0.5) * 8 / 20 - 0.5, 0, 7)
    smooth = map_coordinates(original[0] / 16 * 255, np.meshgrid(at, at, indexing="ij"), order=1)
    framed = data.enlarge_digits(original).reshape(28, 28)
    assert np.abs(framed[4:24, 4:24] - smooth).max() <= 0.5 + 1e-9
    framed[4:24, 4:24] = 0
    assert not framed.any()
    white = data.enlarge_digits(np.full((1, 8, 8), 16))
    assert set(white.tolist()[0]) == {0, 255}


def test_digits_need_no_folder_and_never_change(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("GSM_DATA_DIR", str(tmp_path / "absent"))
    again = data.load("digits")
    for split, other in zip(digits[1:4], again[1:4], strict=True):
        np.testing.assert_array_equal(split.images, other.images)
        np.testing.assert_array_equal(split.labels, other.labels)
    assert digest(digits) == "ac16e6b92fe554bc05fd9b6d84affdb65cc25ccb87d4113526db78de0758b7a9"


# ------------------------------------------------------------------------------------- binarisation


def digest(dataset):
    return sha256(b"".join(split.images.tobytes() for split in dataset[1:4]))


def test_fixed_bits_are_the_same_for_ever(digits):
    binary = data.binarize(digits, "fixed")
    assert binary.max_value == 1
    assert digest(binary) == "38cd7871129bc881dbde54301c372dd363b07abe307ca3df4e9c8a9602658472"
    assert digest(data.binarize(digits, "fixed")) == digest(binary)
    for split, grey in zip(binary[1:4], digits[1:4], strict=True):
        assert split.images.dtype == np.uint8
        assert split.labels is grey.labels


def bernoulli_z_scores(grey, bits):
    """For each grey value, how many standard errors the frequency of ones is from value / 255."""
    counts = np.bincount(grey.ravel(), minlength=256)
    ones = np.bincount(grey.ravel(), weights=bits.ravel(), minlength=256)
    probability = np.arange(256) / 255
    deviation = np.sqrt(counts * probability * (1 - probability))
    return ((ones - counts * probability) / np.maximum(deviation, 1e-9))[counts > 0]


def test_fixed_bits_have_probability_pixel_over_255():
    grey = np.tile(np.arange(256, dtype=np.uint8), 3 * 784 * 4).reshape(-1, 784)
    bits = data._bernoulli_pixels(grey, 0)
    z_scores = bernoulli_z_scores(grey, bits)  # exact at 0 and 255: any miss there is astronomic
    assert np.abs(z_scores).max() < 4.5  # 254 draws; the key is fixed
    assert 0.8 < z_scores[1:-1].std() < 1.2
    # Power: the neighbours of the right rule are seen.
    levels = np.random.default_rng(0).integers(0, 255, grey.shape)
    assert np.abs(bernoulli_z_scores(grey, grey > levels)).max() < 4.5
    assert np.abs(bernoulli_z_scores(grey, grey >= levels)).max() > 100
    assert np.abs(bernoulli_z_scores(grey, grey > levels + 1)).max() > 100


def test_fixed_bits_are_independent_between_pixels_images_and_splits():
    grey = np.full((2500, 784), 128, dtype=np.uint8)  # more than two blocks of the generator
    first, second = (data._bernoulli_pixels(grey, stream).astype(float) for stream in (0, 1))
    probability = 128 / 255

    def z_score(left, right):
        product = (left - probability) * (right - probability)
        return product.sum() / (probability * (1 - probability) * np.sqrt(product.size))

    assert abs(z_score(first, second)) < 4.5
    assert abs(z_score(first[:, 1:], first[:, :-1])) < 4.5
    assert abs(z_score(first[1:], first[:-1])) < 4.5
    assert abs(z_score(first[1000:], first[:-1000])) < 4.5
    assert abs(z_score(first[:, ::2], first[:, 1::2])) < 4.5
    assert z_score(first, first) > 1000


def test_threshold(digits):
    binary = data.binarize(digits, "threshold")
    assert binary.max_value == 1
    for split, grey in zip(binary[1:4], digits[1:4], strict=True):
        assert split.images.dtype == np.uint8
        np.testing.assert_array_equal(split.images == 1, grey.images >= 128)
        assert split.images.max() == 1
    assert (digits.train.images == 127).any()  # the boundary is tested
    assert (digits.train.images == 128).any()


@pytest.mark.parametrize("method", ["dynamic", "none"])
def test_dynamic_and_none_leave_grey_values(digits, method):
    assert data.binarize(digits, method) is digits


@pytest.mark.parametrize("first", ["fixed", "threshold"])
@pytest.mark.parametrize("then", data.BINARIZATIONS)
def test_binary_data_stay_as_they_are(digits, first, then):
    binary = data.binarize(digits, first)
    assert data.binarize(binary, then) is binary


# ---------------------------------------------------------------------------------------- real data


def test_real_mnist():
    dataset = data.load("mnist", real_data("mnist", *data.IDX_FILENAMES))
    for split, rows in ((dataset.train, 50_000), (dataset.valid, 10_000), (dataset.test, 10_000)):
        assert split.images.shape == (rows, 784)
        assert split.labels.shape == (rows,)
        assert split.images.dtype == split.labels.dtype == np.uint8
        assert np.bincount(split.labels).shape == (10,)
    # The mean and deviation of the 60,000 that everybody normalises with.
    training = np.concatenate([dataset.train.images, dataset.valid.images])
    assert training.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert training.std() / 255 == pytest.approx(0.3081, abs=5e-5)
    assert dataset.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    binary = data.binarize(dataset, "fixed")
    assert binary.test.images.mean() == pytest.approx(dataset.test.images.mean() / 255, abs=2e-4)
    assert digest(binary) == "0aafca24845c1db97ccac43a4833b17a64226706e7b100f57e57ac2d1d61e4e4"


def test_real_mnist_in_the_folder_of_fashion_mnist(tmp_path):
    source = Path(real_data("mnist", *data.IDX_FILENAMES)).expanduser() / "mnist"
    (tmp_path / "fashion_mnist").symlink_to(source.resolve())
    message = error_of(data.load, "fashion_mnist", tmp_path)
    assert "train-images-idx3-ubyte.gz: expected SHA-256 3aede38d61863908" in message
    assert "found 440fcabf73cc546f" in message


def test_real_binarized_mnist():
    data_dir = real_data("binarized_mnist", "train.mat", "valid.mat", "test.mat")
    dataset = data.load("binarized_mnist", data_dir)
    assert dataset.max_value == 1
    means = {"train": 0.130562, "valid": 0.131127, "test": 0.132512}
    registered = {
        info.filename: info.checksum for info in data._url_infos("binarized_mnist").values()
    }
    for split, mean in means.items():
        images, labels = getattr(dataset, split)
        assert images.shape == (data.SPLIT_SIZES[split], 784)
        assert labels is None
        assert images.mean() == pytest.approx(mean, abs=5e-7)
        # Written as text, these are Larochelle's own files: the pinned digests serve both forms.
        text = np.full((len(images), 784, 2), ord(" "), dtype=np.uint8)
        text[..., 0] = images + ord("0")
        text[:, -1, 1] = ord("\n")
        assert sha256(text.tobytes()) == registered[f"binarized_mnist_{split}.amat"]
        if split == "test":
            np.testing.assert_array_equal(
                data._parse_amat(text.tobytes(), images.shape, "text"), images
            )
