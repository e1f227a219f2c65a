"""Settings under which every test runs, and the fixtures that they share."""

import jax
import pytest
from jax import random
from jaxtyping import install_import_hook

# Every annotated shape is checked at run time.
_ROOMS = (
    "diagnostics", "distributions", "estimators", "evaluation", "learned", "models", "objectives",
    "training",
)  # fmt: skip
install_import_hook([f"gsm.{room}" for room in _ROOMS], "beartype.beartype")

jax.config.update("jax_platforms", "cpu")
# The two commonest silent mistakes become errors: broadcasting by rank, and a key used twice.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture
def key():
    return random.key(20170424)
