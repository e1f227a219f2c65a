"""Sums that XLA computes wrong on a CPU, and the option that keeps them right.

Since jaxlib 0.10.2 XLA hands programs that end in a sum to a library (YNNPACK) that computes some
of them wrong, without any sign of it: rows beyond the 32,768th of a vectorised sum of squares, or
the sum of a product by a constant (jax issues 39103, 39257, 40412). ``python -m
scripts.check_sums`` measures an installed version: 0.10.0 and 0.10.1 are right; 0.10.2, 0.11.0 to
0.11.2, 0.12.0 and 0.12.0.1 are wrong, and right with :data:`OPTION`. ``pyproject.toml`` excludes
the wrong ones. Where one is installed all the same, ``import gsm`` warns once.
"""

import importlib.metadata
import importlib.util
import os
import warnings

import jax
import jaxlib
from jax._src import xla_bridge

OPTION = "--xla_cpu_experimental_ynn_fusion_type=individual_dot"
"""For ``XLA_FLAGS``: the library computes single matrix products and nothing else."""

_NAME = OPTION.partition("=")[0]


class WrongSumsWarning(UserWarning):
    """This process may compute sums wrong."""


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in jaxlib.__version__.split(".")[:3] if part.isdigit())


def computes_wrong_sums() -> bool:
    """Whether programs that this process compiles for a CPU may compute sums wrong.

    True of jaxlib 0.10.2 and later, unless ``XLA_FLAGS`` has the option. A version that is newer
    than the measured ones counts as wrong until it is measured.
    """
    return _version() >= (0, 10, 2) and _NAME not in os.environ.get("XLA_FLAGS", "")


def keep_sums_right() -> None:
    """Add :data:`OPTION` to ``XLA_FLAGS``; call it before jax computes anything.

    XLA reads the variable once, when it starts. The option concerns CPUs alone. It also leaves
    convolutions to Eigen, which is faster at them, so jaxlib 0.10.1 gets it too; older versions do
    not know it.

    Warns:
      WrongSumsWarning: XLA has started already, without the option.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _version() < (0, 10, 1) or _NAME in flags:
        return
    if xla_bridge.backends_are_initialized():
        warn_of_wrong_sums()
        return
    os.environ["XLA_FLAGS"] = f"{flags} {OPTION}".strip()


def warn_of_wrong_sums() -> None:
    """Warn if this process may compute sums wrong, with the remedy."""
    if computes_wrong_sums() and _runs_on_cpu():
        warnings.warn(
            f"jaxlib {jaxlib.__version__} computes some sums wrong on a CPU, without any sign of "
            f"it. Install jaxlib 0.10.1, or set XLA_FLAGS={OPTION} before jax computes anything "
            f"(gsm.xla.keep_sums_right() does it)",
            WrongSumsWarning,
            stacklevel=3,  # the line that imports gsm
        )


def _runs_on_cpu() -> bool:
    """Whether jax computes on a CPU by default; asked before it has started, the likely answer."""
    if xla_bridge.backends_are_initialized():
        return jax.default_backend() == "cpu"
    if platforms := jax.config.jax_platforms:  # type: ignore[attr-defined]
        return platforms.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None
