"""Datasets as uint8 arrays: find, download, verify, parse, binarise, split.

    dataset = binarize(load("mnist"), "fixed")
    dataset.train.images        # uint8 [50000, 784], 0 or 1
    dataset.test.labels         # uint8 [10000]

A file that `load` returns pixels from has passed its checksum, whether it came from a folder, from
the TFDS cache or from the network. TFDS gives addresses, checksums, cache and download; TensorFlow
is never imported. Everything that a user can put right is a `DataError` of one line.

Heavy packages (TFDS, scikit-learn, SciPy) are imported inside the functions that use them: they
cost seconds, and most runs need at most one of them.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import importlib.util
import io
import logging
import math
import os
import threading
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BINARIZATIONS = ("fixed", "dynamic", "threshold", "none")

# MNIST and its drop-in replacements: the first 50,000 images of the training file, its last 10,000,
# and the test file. The fixed binarisation has the same sizes (its rows are shuffled).
SPLIT_SIZES = {"train": 50_000, "valid": 10_000, "test": 10_000}

# SHA-256 of the pixels, one byte 0 or 1 each, row by row. One value serves the text files and the
# MATLAB files, however the latter were saved. Written as Larochelle's text, these very pixels have
# the checksums that TFDS registers for his files, so both forms are the same data.
BINARIZED_MNIST_SHA256 = {
    "train": "43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a",
    "valid": "069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e",
    "test": "ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86",
}

BINARIZATION_SEED = 2017
DIGITS_SPLIT_SEED = 2017
DIGITS_HELD_OUT_PER_CLASS = 30  # in each of valid and test

PROBE_SECONDS = 5.0

# In the order of `Dataset`: the training pair, then the test pair.
IDX_FILENAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


class DataError(ValueError):
    """A dataset cannot be had as asked, for a reason that the user can put right."""


class Split(NamedTuple):
    """Images uint8 [n, d], row-major; labels uint8 [n], or None where the source has none."""

    images: np.ndarray
    labels: np.ndarray | None


class Dataset(NamedTuple):
    """Three splits; `max_value` is what a fully white pixel holds: 255 (grey) or 1 (binary)."""

    name: str
    train: Split
    valid: Split
    test: Split
    max_value: int
    shape: tuple[int, int] = (28, 28)
    """Height and width of an image; d is their product."""


# ------------------------------------------------------------------------------------------ public


def load(name: str, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Returns a dataset: from a folder, else the TFDS download cache, else the network.

    The folder is `data_dir`, else the environment variable GSM_DATA_DIR; it has one sub-folder for
    each dataset, e.g. `data_dir/mnist/train-images-idx3-ubyte.gz`. A folder without this dataset
    is no error: the cache and the network follow. `digits` comes with scikit-learn and looks in
    none of them. `binarized_mnist` is never looked for on the network: its host is gone.

    Args:
      name: a key of `DATASETS`.
      data_dir: folder of datasets, `~` allowed; None or "" stands for GSM_DATA_DIR.

    Returns:
      `Dataset` of 50,000 / 10,000 / 10,000 images (digits: 1,197 / 300 / 300). Treat the arrays as
      read-only; some share memory.

    Raises:
      DataError: unknown name; the folder does not exist or has only some of the files; a file is
        truncated, corrupted or another dataset's; the network does not answer (within 10 seconds).

    Cost: mnist 0.7 s from a folder or the cache and 1 s for importing TFDS; 12 to 55 MB once over
    the network.
    """
    if name not in DATASETS:
        raise DataError(f"unknown dataset {name!r}; {_choices(name, DATASETS)}")
    return DATASETS[name](name, data_dir)


def binarize(dataset: Dataset, method: str) -> Dataset:
    """Returns the dataset with pixels 0 or 1, or unchanged where that is the method's meaning.

    Args:
      dataset: grey (`max_value` 255) or binary (`max_value` 1).
      method: one of `BINARIZATIONS`:
        fixed: one Bernoulli draw for each pixel with probability pixel / 255, always the same bits:
          the seed is a constant, each split has its own stream. (These are not the bits of
          `binarized_mnist`, whose draw Salakhutdinov & Murray made.)
        threshold: 1 where pixel > 127.
        dynamic: unchanged; the training scan draws anew at every step, on the device.
        none: unchanged; grey values serve as probabilities.
      A binary dataset comes back unchanged from every method: a draw with probability 0 or 1, and
      a threshold between them, leave each pixel as it is. So `binarize` is idempotent.

    Returns:
      `Dataset`, `max_value` 1 after fixed and threshold; labels and name as before.

    Raises:
      DataError: unknown method.

    Cost: fixed 0.3 s for MNIST, threshold 0.1 s.
    """
    if method not in BINARIZATIONS:
        raise DataError(f"unknown binarization {method!r}; {_choices(method, BINARIZATIONS)}")
    if dataset.max_value == 1 or method in ("dynamic", "none"):
        return dataset

    def binary(split: Split, stream: int) -> Split:
        if method == "fixed":
            return Split(_bernoulli_pixels(split.images, stream), split.labels)
        return Split((split.images > 127).astype(np.uint8), split.labels)

    return dataset._replace(
        train=binary(dataset.train, 0),
        valid=binary(dataset.valid, 1),
        test=binary(dataset.test, 2),
        max_value=1,
    )


# ---------------------------------------------------------------------------------------- datasets


def labelled_subset(
    labels: np.ndarray | None, num_labels: int, num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and labels of as many examples of each class as of any other, drawn by a seed.

    Args:
      labels: classes of all examples, integers [n].
      num_labels: how many examples to draw, a multiple of the number of classes.
      num_classes: how many classes there are.
      seed: of the draw, which depends on nothing else.

    Returns:
      Positions [num_labels], ascending, and their labels.

    Raises:
      DataError: there are no labels, other classes, or too few examples of one.
    """
    if labels is None:
        raise DataError("this data set has no labels; use mnist, fashion_mnist, kmnist or digits")
    counts = np.bincount(labels, minlength=num_classes)
    if len(counts) > num_classes or not counts.all():
        raise DataError(f"labels are of {np.count_nonzero(counts)} classes; expected {num_classes}")
    each, rest = divmod(num_labels, num_classes)
    if each == 0 or rest:
        raise DataError(
            f"num_labels must be a multiple of the {num_classes} classes, at least one of each; "
            f"got {num_labels}"
        )
    if each > counts.min():
        raise DataError(
            f"num_labels = {num_labels} asks for {each} examples of each class; class "
            f"{counts.argmin()} has {counts.min()}"
        )
    # The generator's words are the same on every version of NumPy; its methods need not be.
    words = np.random.Philox(key=seed).random_raw(len(labels))
    chosen = [
        members[np.argsort(words[members], kind="stable")[:each]]
        for members in (np.flatnonzero(labels == label) for label in range(num_classes))
    ]
    positions = np.sort(np.concatenate(chosen))
    return positions, labels[positions]


def _load_idx_dataset(name: str, data_dir: str | os.PathLike | None) -> Dataset:
    """MNIST, Fashion-MNIST or KMNIST, from four gzipped IDX files that TFDS registers."""
    folder = _dataset_folder(name, data_dir)
    url_infos = _url_infos(name)
    paths = _paths_in_folder(folder, IDX_FILENAMES) or _cached_or_downloaded(
        name, url_infos, folder
    )
    sha256 = {info.filename: info.checksum for info in url_infos.values()}
    contents = {
        filename: _read_verified(paths[filename], sha256[filename]) for filename in IDX_FILENAMES
    }

    training_rows, test_rows = SPLIT_SIZES["train"] + SPLIT_SIZES["valid"], SPLIT_SIZES["test"]
    shapes = ((training_rows, 28, 28), (training_rows,), (test_rows, 28, 28), (test_rows,))
    training_images, training_labels, test_images, test_labels = (
        _parse_gzipped_idx(contents[filename], shape, str(paths[filename]))
        for filename, shape in zip(IDX_FILENAMES, shapes, strict=True)
    )
    for filename, labels in zip(IDX_FILENAMES[1::2], (training_labels, test_labels), strict=True):
        if labels.max() > 9:
            raise DataError(f"{paths[filename]}: expected labels 0 to 9, found {labels.max()}")

    training_images, first = training_images.reshape(-1, 784), SPLIT_SIZES["train"]
    return Dataset(
        name=name,
        train=Split(training_images[:first], training_labels[:first]),
        valid=Split(training_images[first:], training_labels[first:]),
        test=Split(test_images.reshape(-1, 784), test_labels),
        max_value=255,
    )


def _load_binarized_mnist(name: str, data_dir: str | os.PathLike | None) -> Dataset:
    """The fixed binarisation of MNIST, from Larochelle's text files or MATLAB files.

    Source: Salakhutdinov & Murray (2008); distributed by Larochelle & Murray (2011).
    """
    folder = _dataset_folder(name, data_dir)
    text_names = {split: f"binarized_mnist_{split}.amat" for split in SPLIT_SIZES}
    matlab_names = {split: f"{split}.mat" for split in SPLIT_SIZES}
    if paths := _paths_in_folder(folder, text_names.values()):
        filenames, parse = text_names, _parse_amat
    elif paths := _paths_in_folder(folder, matlab_names.values()):
        filenames, parse = matlab_names, _parse_mat
    else:
        filenames, parse = text_names, _parse_amat
        url_infos = _url_infos(name)
        paths = {
            info.filename: path
            for url, info in url_infos.items()
            if (path := _cached_path(name, url, info.checksum))
        }
        if len(paths) < len(url_infos):
            raise DataError(
                f"binarized_mnist: not found in {_places(folder)}, and its host has been gone "
                f"since 2023. Put {', '.join(text_names.values())} (or "
                f"{', '.join(matlab_names.values())}, key X) in {_destination(name, folder)}; or "
                "use mnist with binarization fixed, or the embedded digits, which need no file "
                "(configs/cat_vae.py:digits)"
            )
    splits: dict[str, Any] = {}
    for split, filename in filenames.items():
        source, shape = str(paths[filename]), (SPLIT_SIZES[split], 784)
        images = parse(_read(paths[filename]), shape, source)
        _check_shape(images.shape, shape, source)
        _check_sha256(images.tobytes(), BINARIZED_MNIST_SHA256[split], f"{source} (its pixels)")
        splits[split] = Split(images, None)
    return Dataset(name=name, **splits, max_value=1)


def _scikit_learn_digits() -> np.ndarray:
    """``int64[1797, 65]``: the pixels of each image, and its label.

    Read from scikit-learn's own file, as importing scikit-learn takes a second.
    """
    package = importlib.util.find_spec("sklearn")
    folders = (package and package.submodule_search_locations) or []
    for folder in folders:
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",", dtype=np.int64)
    from sklearn.datasets import load_digits  # another layout of its files

    images, labels = load_digits(return_X_y=True)
    return np.column_stack([images, labels]).astype(np.int64)


def _load_digits(name: str, data_dir: str | os.PathLike | None) -> Dataset:
    """scikit-learn's 1,797 digits in MNIST's framing; embedded, so `data_dir` plays no part.

    The 8x8 images (0 to 16) are enlarged to 20x20 bilinearly and given a margin of 4 pixels. All
    arithmetic is on integers, so the bytes are the same on every machine. The split is random with
    a fixed seed and stratified: valid and test have 30 images of each class, train the other 114 to
    123. Numbers on it are NOT comparable with MNIST's.

    Source: Alpaydin & Kaynak, Optical Recognition of Handwritten Digits (UCI), its test part.
    Cost: 0.1 s.
    """
    del data_dir
    rows = _scikit_learn_digits()
    images = enlarge_digits(rows[:, :64].reshape(-1, 8, 8))
    labels = rows[:, 64].astype(np.uint8)

    # Raw words of a counter-based generator: NumPy promises this stream, unlike `permutation`'s.
    # One order chooses the splits, another arranges them, or a split would begin with few classes.
    words = np.random.Philox(key=DIGITS_SPLIT_SEED).random_raw(2 * len(labels)).reshape(2, -1)
    choice, order = np.argsort(words, axis=1, kind="stable")
    held_out = DIGITS_HELD_OUT_PER_CLASS
    part = np.zeros(len(labels), dtype=np.uint8)
    for label in range(10):
        members = choice[labels[choice] == label]
        part[members[:held_out]] = 1
        part[members[held_out : 2 * held_out]] = 2
    images, labels, part = images[order], labels[order], part[order]
    train, valid, test = (Split(images[part == index], labels[part == index]) for index in range(3))
    return Dataset(name=name, train=train, valid=valid, test=test, max_value=255)


# Each value is called with the name and `load`'s data_dir.
DATASETS: dict[str, Callable[[str, str | os.PathLike | None], Dataset]] = {
    "mnist": _load_idx_dataset,
    "fashion_mnist": _load_idx_dataset,
    "kmnist": _load_idx_dataset,
    "binarized_mnist": _load_binarized_mnist,
    "digits": _load_digits,
}


# ------------------------------------------------------------------------------------------ pixels


def _bernoulli_pixels(images: np.ndarray, stream: int) -> np.ndarray:
    """One draw for each pixel [n, 784], P(1) = pixel / 255: 0 stays 0 and 255 becomes 1, surely.

    Integers only, on raw words of a counter-based generator: the bits depend neither on NumPy's
    version nor on the machine. A 32-bit word u gives the level u * 255 >> 32, uniform on 0..254
    but for 2^-32 * 255; the pixel is on where it exceeds its level.
    """
    key = np.array([BINARIZATION_SEED, stream], dtype=np.uint64)
    generator = np.random.Philox(key=key)
    draws = np.empty(images.shape, dtype=np.uint8)
    for start in range(0, len(images), 1000):  # blocks, for 6 MB of words in place of 300
        block = images[start : start + 1000]
        words = generator.random_raw(block.size // 2).astype("<u8").view("<u4")  # two pixels each
        level = (words.astype(np.uint64) * 255) >> np.uint64(32)
        draws[start : start + 1000] = block > level.reshape(block.shape)
    return draws


def enlarge_digits(images: np.ndarray) -> np.ndarray:
    """int [n, 8, 8], 0..16, to uint8 [n, 784], 0..255: bilinear to 20x20, then a margin of 4.

    The centre of new pixel i lies at (i + 1/2) * 8/20 - 1/2 = (4 i - 3) / 10 old pixels, so tenths
    are exact weights.
    """
    tenths = np.clip(4 * np.arange(20) - 3, 0, 70)
    left = np.minimum(tenths // 10, 6)
    weights = np.zeros((20, 8), dtype=np.int64)
    weights[np.arange(20), left] = 10 - (tenths - 10 * left)
    weights[np.arange(20), left + 1] = tenths - 10 * left
    enlarged = weights @ images @ weights.T  # 0..1600
    pixels = (enlarged * 255 + 800) // 1600  # rounded, halves up
    return np.pad(pixels, ((0, 0), (4, 4), (4, 4))).reshape(-1, 784).astype(np.uint8)


# ----------------------------------------------------------------------------------------- parsing


def _parse_gzipped_idx(content: bytes, shape: tuple[int, ...], source: str) -> np.ndarray:
    try:
        raw = gzip.decompress(content)  # whose checksum is right: it is no bomb
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source}: not a whole gzip file ({error})") from error
    return parse_idx(raw, shape, source)


def parse_idx(raw: bytes, shape: tuple[int, ...] | None, source: str) -> np.ndarray:
    """An IDX file of bytes as a read-only uint8 array of exactly the given shape, or of any.

    Format: two zero bytes, the type (8: unsigned byte), the rank, the dimensions as big-endian
    32-bit integers, the data in C order. Source: LeCun, Cortes and Burges, "The MNIST database".

    Raises:
      DataError: it is something else; the message names ``source``.
    """
    if raw[:3] != b"\0\0\x08" or len(raw) < 4:
        raise DataError(f"{source}: expected IDX magic 00 00 08, found {raw[:3].hex(' ')}")
    header_bytes = 4 + 4 * raw[3]
    if len(raw) < header_bytes:
        raise DataError(f"{source}: the IDX header is cut off after {len(raw)} bytes")
    found = tuple(np.frombuffer(raw, dtype=">u4", count=raw[3], offset=4).tolist())
    if shape is None:
        shape = found
    if found != shape:
        raise DataError(f"{source}: expected shape {shape}, found {found}")
    if len(raw) - header_bytes != math.prod(shape):
        raise DataError(
            f"{source}: expected {math.prod(shape)} bytes of data for shape {shape}, "
            f"found {len(raw) - header_bytes}"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=header_bytes).reshape(shape)


def _parse_amat(content: bytes, shape: tuple[int, int], source: str) -> np.ndarray:
    """Larochelle's text, 784 times "0 " or "1 " a row, the last space a newline: uint8 [n, 784]."""
    del shape  # that of all whole rows is checked by the caller
    row_bytes = 2 * 784
    if not content or len(content) % row_bytes:
        raise DataError(
            f"{source}: expected whole rows of {row_bytes} bytes, found {len(content)} bytes, "
            f"which is {len(content) / row_bytes:.2f} rows"
        )
    pixels = np.frombuffer(content, dtype=np.uint8).reshape(-1, 784, 2)[..., 0] - ord("0")
    return _zeros_and_ones(pixels, source)


def _parse_mat(content: bytes, shape: tuple[int, int], source: str) -> np.ndarray:
    """The matrix X of a MATLAB v5 file, of any numeric type, as uint8 [n, 784]."""
    import scipy.io

    try:
        # The sizes that the headers claim, before memory is given to them.
        claimed = {name: size for name, size, _ in scipy.io.whosmat(io.BytesIO(content))}
        _check_shape(claimed["X"], shape, source)
        matrix = scipy.io.loadmat(io.BytesIO(content), variable_names=["X"])["X"]
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"{source}: expected a matrix with the key X, found none") from error
    except Exception as error:  # on damaged files SciPy raises nearly every kind there is
        raise DataError(f"{source}: not a whole MATLAB v5 file ({error})") from error
    if not isinstance(matrix, np.ndarray) or matrix.ndim != 2 or matrix.dtype.kind not in "buif":
        raise DataError(f"{source}: expected X to be a matrix of numbers")
    return _zeros_and_ones(matrix, source)


def _zeros_and_ones(pixels: np.ndarray, source: str) -> np.ndarray:
    if not ((pixels == 0) | (pixels == 1)).all():
        raise DataError(f"{source}: expected pixels 0 and 1 only, found others")
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def _check_shape(found: tuple[int, ...], expected: tuple[int, ...], source: str) -> None:
    if found != expected:
        raise DataError(f"{source}: expected shape {expected}, found {found}")


# --------------------------------------------------------------------------- folder, cache, network


def _dataset_folder(name: str, data_dir: str | os.PathLike | None) -> Path | None:
    """The sub-folder for a dataset, which need not exist; its parent must. None: nowhere named."""
    argument = "data_dir" if data_dir else "GSM_DATA_DIR"
    parent = data_dir or os.environ.get("GSM_DATA_DIR")
    if not parent:
        return None
    if not Path(parent).expanduser().is_dir():
        raise DataError(f"{argument} must be an existing folder; found {os.fspath(parent)!r}")
    return Path(parent).expanduser() / name


def _paths_in_folder(folder: Path | None, filenames: Collection[str]) -> dict[str, Path] | None:
    """Path of each file, None if none is there. Only some is an error: somebody meant this folder.

    Falling back to the network would hide the misspelt or forgotten file.
    """
    if folder is None:
        return None
    missing = [filename for filename in filenames if not (folder / filename).is_file()]
    if len(missing) == len(filenames):
        return None
    if missing:
        raise DataError(f"{folder} has only some of the files; missing: {', '.join(missing)}")
    return {filename: folder / filename for filename in filenames}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _read_verified(path: Path, sha256: str) -> bytes:
    content = _read(path)
    _check_sha256(content, sha256, str(path))
    return content


def _check_sha256(content: bytes, expected: str, source: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise DataError(
            f"{source}: expected SHA-256 {expected}, found {found} ({len(content)} bytes); the "
            "file is truncated, corrupted or another dataset's: replace or delete it"
        )


def _url_infos(name: str) -> dict[str, Any]:
    """What TFDS registers for a dataset: address -> (size, checksum: SHA-256 in hex, filename)."""
    import tensorflow_datasets as tfds

    # The class, not a builder: a builder reads prepared datasets and may want TensorFlow for them.
    return dict(tfds.builder_cls(name).url_infos)


def _cache_folder() -> Path:
    """TFDS's own download folder: ~/tensorflow_datasets/downloads, or below $TFDS_DATA_DIR."""
    import tensorflow_datasets as tfds

    return Path(tfds.core.constants.get_default_data_dir()).expanduser() / "downloads"


def _cached_path(name: str, url: str, sha256: str) -> Path | None:
    """Where TFDS has this file already, if it has; by dataset, or flat as older versions did."""
    from tensorflow_datasets.core.download import resource

    filename = resource.get_dl_fname(url, sha256)
    candidates = (_cache_folder() / name / filename, _cache_folder() / filename)
    return next((path for path in candidates if path.is_file()), None)


def _cached_or_downloaded(
    name: str, url_infos: dict[str, Any], folder: Path | None
) -> dict[str, Path]:
    """Path of each registered file, by file name, downloading those that the cache lacks."""
    found = {url: _cached_path(name, url, info.checksum) for url, info in url_infos.items()}
    cached = {url: path for url, path in found.items() if path is not None}
    missing = [url for url in url_infos if url not in cached]
    if missing:
        # Offline, TFDS alone retries for minutes.
        if reason := _why_unreachable(missing[0], PROBE_SECONDS):
            raise DataError(
                f"{name}: not found in {_places(folder)}, and {missing[0]} cannot be reached "
                f"({reason}). Put {', '.join(info.filename for info in url_infos.values())} in "
                f"{_destination(name, folder)}; or use the embedded digits, which need no file "
                "(configs/cat_vae.py:digits)"
            )
        cached |= _download(name, url_infos, missing)
    return {info.filename: cached[url] for url, info in url_infos.items()}


def _download(name: str, url_infos: dict[str, Any], urls: list[str]) -> dict[str, Path]:
    """Downloads into TFDS's cache, checksums forced; whole files only ever appear there."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()  # it shows a wrong unit, and two bars
    urllib3_log = logging.getLogger("urllib3")
    level_before = urllib3_log.level
    urllib3_log.setLevel(logging.ERROR)  # one line for each retry otherwise
    try:
        manager = tfds.download.DownloadManager(
            download_dir=_cache_folder(),
            dataset_name=name,
            url_infos=url_infos,
            force_checksums_validation=True,
        )
        paths = manager.download({url: url for url in urls})
    except tfds.core.download.download_manager.NonMatchingChecksumError as error:
        raise DataError(f"{name}: {' '.join(str(error).split())}") from error
    except (OSError, tfds.download.DownloadError) as error:  # `requests` raises OSErrors
        raise DataError(f"{name}: the download failed ({error})") from error
    finally:
        urllib3_log.setLevel(level_before)
    return {url: Path(path) for url, path in paths.items()}


def _why_unreachable(url: str, seconds: float) -> str | None:
    """None if the server answers for this address within the seconds, else the reason, briefly.

    Uses the HTTP client that TFDS downloads with, so both see the same proxies and certificates.
    In a thread, since no timeout of that client bounds the resolution of names.
    """
    from tensorflow_datasets.core.download import downloader

    outcome: list[str | None] = []

    def probe() -> None:
        try:
            answer = downloader.requests.head(url, timeout=seconds, allow_redirects=True)
        except OSError as error:  # the root of that client's errors; the download would meet it too
            outcome.append(type(error).__name__)
        else:
            outcome.append(None if answer.ok else f"HTTP status {answer.status_code}")

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else f"no answer in {seconds:g} seconds"


# ----------------------------------------------------------------------------------- message parts


def _choices(given: str, names: Collection[str]) -> str:
    nearest = difflib.get_close_matches(str(given), names, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    return f"{hint}choose one of {', '.join(names)}"


def _places(folder: Path | None) -> str:
    return f"{folder} or {_cache_folder()}" if folder else str(_cache_folder())


def _destination(name: str, folder: Path | None) -> str:
    return str(folder) if folder else f"a folder DIR/{name} and set GSM_DATA_DIR=DIR"
