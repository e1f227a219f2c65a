"""Class probabilities of images by a trained classifier.

    python -m experiments.classify --workdir=RUN --images=FILE [--images=FILE ...] --out=probs.csv

Files are IDX (also .gz), NumPy's .npy or PNG, of the size that the model was trained on, white on
black: integers from 0 to 255, or floats from 0 to 1. Pixels of one half or more are on, as the
classifier was trained on binary images. A row for each image: file, position in it, the likeliest
class, all probabilities. A file that cannot be read is reported in one line; the others are still
classified. ``--resize`` scales images of another size.
"""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import flags

import experiments
from experiments.data import DataError, read_images
from experiments.running import command_line
from experiments.running.terminal import say
from experiments.storage.files import csv_text, write_csv
from experiments.tasks.checks import ConfigError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run, or of a published model.")
_IMAGES = flags.DEFINE_multi_string("images", [], "File of images; repeatable.")
_RESIZE = flags.DEFINE_bool("resize", False, "Scale images of another size.")
_OUT = flags.DEFINE_string("out", None, "CSV file for the probabilities; default: printed.")

_IMAGES_PER_CALL = 1_000


def main() -> None:
    if not _WORKDIR.value:
        raise ConfigError("name the model, such as --workdir=results/models/semisup")
    if not _IMAGES.value:
        raise ConfigError("name a file of images, such as --images=digit.png")
    model = experiments.load(_WORKDIR.value)
    model.function("classify")  # reports a model that has none
    rows, failed = [], 0
    for name in _IMAGES.value:
        try:
            images = read_images(Path(name), model.image_shape, _RESIZE.value)
        except DataError as error:
            say(f"error: {error}")
            failed += 1
            continue
        binary = jnp.asarray(images >= 0.5, jnp.float32)
        for first in range(0, len(binary), _IMAGES_PER_CALL):
            found = np.asarray(model.classify(binary[first : first + _IMAGES_PER_CALL]))
            for i, probabilities in enumerate(found, first):
                of_classes = {f"p_{k}": float(p) for k, p in enumerate(probabilities)}
                row = {"file": name, "index": i, "class": int(probabilities.argmax())}
                rows.append(row | of_classes)
    if rows and _OUT.value:
        write_csv(Path(_OUT.value), rows, decimals=6)
        say(f"{len(rows):,} images, written to {_OUT.value}")
    elif rows:
        sys.stdout.write(csv_text(rows, decimals=6))
    if failed:
        sys.exit(f"{failed} of {len(_IMAGES.value)} files could not be read")


if __name__ == "__main__":
    command_line.run(main)
