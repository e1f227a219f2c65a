"""Datasets: :func:`load` and :func:`binarize`; a new one is an entry in :data:`DATASETS`."""

from experiments.data.datasets import (
    BINARIZATIONS,
    DATASETS,
    DataError,
    Dataset,
    Split,
    binarize,
    labelled_subset,
    load,
)
from experiments.data.image_files import read_images

__all__ = [
    "BINARIZATIONS",
    "DATASETS",
    "DataError",
    "Dataset",
    "Split",
    "binarize",
    "labelled_subset",
    "load",
    "read_images",
]
