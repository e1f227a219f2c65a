"""The commands. Run from the repository root: ``python -m experiments.train --config=...``.

XLA reads its options once, when jax first computes. So they are set here, for every command,
without importing jax, which the commands that only read files do without.
"""

import os
import sys

# In the process of a command, ``python -m experiments.NAME``, before all that takes time.
if sys.argv[0] == "-m" and any(name.startswith("experiments.") for name in sys.orig_argv):
    from experiments.running import interrupts

    interrupts.install()

import importlib.metadata
import warnings

_OPTION = "--xla_cpu_experimental_ynn_fusion_type=individual_dot"  # see gsm/xla.py
_VERSION = tuple(int(p) for p in importlib.metadata.version("jaxlib").split(".")[:3] if p.isdigit())

if "jax" in sys.modules:
    with warnings.catch_warnings():  # importing gsm warns about what the next line sets right
        warnings.simplefilter("ignore")
        from gsm import xla
    xla.keep_sums_right()  # which warns where jax has computed already
elif _VERSION >= (0, 10, 1) and _OPTION.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_OPTION}".strip()
