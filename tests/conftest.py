"""Settings under which every test runs, and the fixtures that they share."""

import gc
import os
import shutil
from pathlib import Path

# Of each program from the cache jaxlib 0.10.1 logs 3,000 characters, as it takes hints for the
# compiler for features of the machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jaxtyping
import pytest
from jax import random
from jaxtyping import install_import_hook

# Every annotated shape is checked at run time. Not those of gsm.testing: beartype takes no plain
# number for NumPy's ArrayLike.
_MODULES = (
    "gsm.diagnostics", "gsm.distributions", "gsm.estimators", "gsm.learned", "gsm.registry",
    "gsm.schedules", "experiments.running.evaluation", "experiments.running.training",
    "experiments.tasks",
)  # fmt: skip
install_import_hook(_MODULES, "beartype.beartype")

import experiments  # noqa: E402, F401, sets the options of XLA, which jax reads once

# Most of a test's time is XLA's compilation of programs that run once. So LLVM's optimisation is
# left out, fusions take the older emitter, which compiles twice as fast, and a program is compiled
# as one module (jax reads the variable when it first computes; the commands that tests start
# compile as users do). What was compiled is kept for pytest's other processes and the next run.
_COMPILED = Path(__file__).parent.parent / ".pytest_cache" / "compiled"
_LARGEST = 2**29  # bytes; then it begins anew
if "PYTEST_XDIST_WORKER" not in os.environ and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    if sum(path.stat().st_size for path in _COMPILED.glob("*/*")) > _LARGEST:
        shutil.rmtree(_COMPILED)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_COMPILED / "optimized")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
_FLAGS = os.environ.get("XLA_FLAGS")
_FAST = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = f"{_FAST} {_FLAGS or ''}"
jax.config.update("jax_compilation_cache_dir", str(_COMPILED / "unoptimized"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_platforms", "cpu")
jax.config.update(
    "jax_num_cpu_devices", 8
)  # for tests of several devices; all else is on the first
jax.devices()
if _FLAGS is None:
    del os.environ["XLA_FLAGS"]
else:
    os.environ["XLA_FLAGS"] = _FLAGS
# The two commonest silent mistakes become errors: broadcasting by rank, and a key used twice.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


def pytest_collection_finish():
    """Leave what was imported out of garbage collection: a tenth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 50)


@pytest.fixture
def key():
    return random.key(20170424)


@pytest.fixture
def as_a_user():
    """Without the checks of types that the tests add, and with a key that may serve again."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with jax.debug_key_reuse(False):
            yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
