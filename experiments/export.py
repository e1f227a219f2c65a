"""Encoder, decoder and classifier of a trained model as files that run without this project.

    python -m experiments.export --workdir=RUN --out=FOLDER

RUN is the folder of a run, or of a published model. Each of ``encode``, ``decode`` and ``classify``
that the model has becomes a file ``NAME.bin``: StableHLO with the parameters inside, written by
``jax.export``, for batches of any size on CPU, CUDA and TPU. ``export.json`` has the shapes. A
program that has jax and flatbuffers calls it so:

    encode = jax.export.deserialize(bytearray(Path("FOLDER/encode.bin").read_bytes())).call

Each file is read again and compared with the model before the command ends.
"""

from pathlib import Path

from absl import flags

import experiments
from experiments.running import command_line
from experiments.running.exporting import export
from experiments.running.terminal import say
from experiments.tasks.checks import ConfigError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run, or of a published model.")
_OUT = flags.DEFINE_string("out", None, "Folder for the files.")


def main() -> None:
    if not _WORKDIR.value:
        raise ConfigError("name the model, such as --workdir=results/models/cat_vae")
    if not _OUT.value:
        raise ConfigError("name a folder for the files, such as --out=exported")
    for path in export(experiments.load(_WORKDIR.value), Path(_OUT.value)):
        say(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    print(_OUT.value)


if __name__ == "__main__":
    command_line.run(main)
