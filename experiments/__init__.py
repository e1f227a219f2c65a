"""The commands. Run from the repository root: ``python -m experiments.train --config=...``.

:func:`load` gives a trained model to programs of your own.

XLA reads its options once, when jax first computes. So they are set here, for every command,
without importing jax, which the commands that only read files do without.
"""

import os
import sys

# In the process of a command, ``python -m experiments.NAME``, before all that takes time.
if sys.argv[0] == "-m" and any(name.startswith("experiments.") for name in sys.orig_argv):
    from experiments.running import interrupts

    interrupts.install()
    if sys.stderr.isatty():  # somebody waits
        from experiments.running import terminal

        terminal.loading.enter_context(terminal.waiting("loading jax and the experiments"))

import importlib.metadata
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.running.trained import Trained

_OPTION = "--xla_cpu_experimental_ynn_fusion_type=individual_dot"  # see gsm/xla.py
_VERSION = tuple(int(p) for p in importlib.metadata.version("jaxlib").split(".")[:3] if p.isdigit())

if "jax" in sys.modules:
    with warnings.catch_warnings():  # importing gsm warns about what the next line sets right
        warnings.simplefilter("ignore")
        from gsm import xla
    xla.keep_sums_right()  # which warns where jax has computed already
elif _VERSION >= (0, 10, 1) and _OPTION.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_OPTION}".strip()


def load(folder: str | Path) -> "Trained":
    """The trained model in the folder of a run, or in a published one, which stays as it is.

    Args:
      folder: of a run, for which the dataset is read too, or a folder of ``results/models``, which
        needs no dataset and no training.

    Returns:
      The model: ``config``, ``params``, and those of ``encode(x)``, ``decode(z)``,
      ``sample(key, n)`` and ``classify(x)`` that its task has
      (:class:`experiments.running.trained.Trained`, with shapes).

    Raises:
      RecordError: the folder holds no model, or a file in it is damaged.
      ConfigError: the configuration is not one that this version can build.
      DataError: the dataset of a run cannot be read.

    >>> import experiments, jax
    >>> model = experiments.load("results/models/cat_vae")
    >>> images = model.sample(jax.random.key(0), 4)  # pixel probabilities
    >>> z = jax.nn.softmax(model.encode(images > 0.5))  # 20 variables of 10 classes
    >>> images.shape, z.shape, model.decode(z).shape
    ((4, 784), (4, 20, 10), (4, 784))
    """
    from experiments.running import trained  # jax, flax and orbax take seconds to import

    return trained.load(Path(folder))
