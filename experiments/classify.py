"""Class probabilities of images by a trained classifier.

    python -m experiments.classify --workdir=RUN --images=FILE [--images=FILE ...] --out=probs.csv

Files are IDX (also .gz), NumPy's .npy or PNG, of 28x28 pixels, white on black: integers from 0 to
255, or floats from 0 to 1. Pixels of one half or more are on, as the classifier was trained on
binary images. A row for each image: file, position in it, the likeliest class, all probabilities.
A file that cannot be read is told in one line; the others are still done.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

from experiments import config as configuration
from experiments import loop
from experiments.config import ConfigError
from experiments.console import say
from experiments.rundir import RunDirError
from gsm.data import DataError, read_images

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)
_IMAGES = flags.DEFINE_multi_string("images", None, "File of images; repeatable.", required=True)
_OUT = flags.DEFINE_string("out", None, "CSV file for the probabilities; default: printed.")

_IMAGES_PER_CALL = 1_000


def main(argv: list[str]) -> None:
    del argv
    configuration.quieten_libraries()
    try:
        task, params = loop.trained(Path(_WORKDIR.value))
    except (ConfigError, DataError, RunDirError) as error:
        sys.exit(f"error: {error}")
    if task.classify is None:
        sys.exit(f"error: {_WORKDIR.value} holds no classifier; train configs/semisup.py")
    rows, failed = [], 0
    for name in _IMAGES.value:
        try:
            images = read_images(Path(name))
        except DataError as error:
            say(f"error: {error}")
            failed += 1
            continue
        binary = (images >= 0.5).astype(np.float32)
        pieces = range(0, len(binary), _IMAGES_PER_CALL)
        for first in pieces:
            found = task.classify(params, binary[first : first + _IMAGES_PER_CALL])
            for i, probabilities in enumerate(np.asarray(found), first):
                rows.append([name, i, probabilities.argmax(), *(f"{p:.6f}" for p in probabilities)])
    if rows:
        classes = [f"p_{k}" for k in range(len(rows[0]) - 3)]
        try:
            with open(_OUT.value, "w", newline="") if _OUT.value else sys.stdout as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["file", "index", "class", *classes])
                writer.writerows(rows)
        except OSError as error:
            sys.exit(f"error: --out={_OUT.value}: {error.strerror}")
    if failed:
        sys.exit(f"{failed} of {len(_IMAGES.value)} files could not be read")


if __name__ == "__main__":
    app.run(main)
