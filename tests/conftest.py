"""Settings under which every test runs, and the fixtures that they share."""

import os
import re
import shutil
from pathlib import Path

# Of each program from the cache jaxlib 0.10.1 logs 3,000 characters, as it takes hints for the
# compiler for features of the machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

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

import experiments  # noqa: E402, F401, sets the options of XLA, which jax reads once

# Most of a test's time is XLA's compilation of programs that run once. So LLVM's optimisation is
# left out (jax reads the variable when it first computes; the commands that tests start compile as
# users do), and what was compiled is kept for pytest's other processes and for the next run.
_COMPILED = Path(__file__).parent.parent / ".pytest_cache" / "compiled"
_LARGEST = 2**29  # bytes; then it begins anew
if "PYTEST_XDIST_WORKER" not in os.environ and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    if sum(path.stat().st_size for path in _COMPILED.glob("*/*")) > _LARGEST:
        shutil.rmtree(_COMPILED)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_COMPILED / "optimized")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
_FLAGS = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {_FLAGS or ''}"
jax.config.update("jax_compilation_cache_dir", str(_COMPILED / "unoptimized"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_platforms", "cpu")
jax.devices()
if _FLAGS is None:
    del os.environ["XLA_FLAGS"]
else:
    os.environ["XLA_FLAGS"] = _FLAGS
# The two commonest silent mistakes become errors: broadcasting by rank, and a key used twice.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


# Cases that repeat, for another estimator or shape, what a case of the default run shows: slow, so
# that the default run stays under five minutes on two cores.
_SLOW_CASES = re.compile(
    r"test_jit_and_vmap_change_nothing\[(darn|nvil|straight_|slope_|decoupled|st_gumbel|reinmax|gapped)"
    r"|test_two_layers_nest_by_closure\[(exact|nvil|relax|local_expectation)\]"
    r"|test_extreme_temperatures_stay_finite\[.*100"
    r"|test_mean_gradient_and_mean_value\[(nvil|darn|straight_|slope_|reinmax|gapped).*Bernoulli"
    r"|test_mean_loss_of_hard_samples_is_the_negative_elbo\[analytic"
    r"|test_a_config_trains\[(cat_vae_mlp|bern_vae|bern_sbn|cat_sbn|semisup|semisup_best)\]"
    r"|test_every_estimator_trains_the_vae.*"
    r"\[(analytic-(rebar|relax|rloo|reinmax|exact|disarm)|sampled-score|relaxed_.*-(gumbel_s|decoup))"
    r"|test_eta_temperature_and_control_descend_on_the_length_of_the_estimate\[relax\]"
    r"|test_a_step_of_the_loop_is_unbiased_with_what_was_learned\[relax\]"
    r"|test_variance_measures_what_was_asked"
    r"|test_(consistency_is_the_cross|augmented_images_are_what)"
    r"|test_learning_eta_and_temperature_lowers_the_variance"
    r"|test_vimco_is_the_bound_with_its_unbiased_gradient_by_enumeration\[3\]"
    r"|test_vimco_loss_trains_every_parameter.*\[Bernoulli\]"
    r"|test_both_forms_of_the_kl_have_one_exact_gradient\[Bernoulli\]"
    r"|test_exact_loss_and_its_gradient_are_the_enumerated_ones\[Bernoulli\]"
    r"|test_every_unbiased_estimator_trains_every_parameter_without_bias\[rebar\]"
    r"|test_biased_estimators_are_unbiased_for.*\[(slope_|st_|gapped|decoupled|gumbel_rao)"
    # Entries that share their arithmetic with another, in what is not about the difference.
    r"|test_(value_is|algebra_of|masked_class|low_precision|extreme_logits|nan_logits|one_class|jit_and"
    r"|gradient_by_what|nothing_recomp|a_hyperparam).*\[(nvil|slope_|decoupled|gapped|straight_)"
    r"|test_a_masked_class_gets_no_gradient_and_makes_no_nan.*Bernoulli"
    r"|test_(extreme|nan)_logits_.*\[(score|muprop|rebar).*-2\]"
    r"|test_hard_samples_follow_the_logits\[gumbel_rao\]"
    r"|test_power_gumbel_rao_differentiated|test_gumbel_rao_has_the_mean"
    r"|test_noise_is_not_read_as_bias|test_predictions_keep_what_was_given"
    r"|test_draw_makes_the_committed_figures_anew_from_their_rows\[variance.(toy|small_vae)"
    r"|test_the_toy_reaches_its_optimum"
    r"|test_bound_reaches_the_likelihood\[Bernoulli"
    r"|test_streamed_bound_has_the_enumerated_mean\[3"
    r"|test_jit_and_vmap_change_nothing\[(exact|gumbel_rao|local)"
    r"|test_the_bound_lies_between_the_elbo_and_the_likelihood\[uniform"
    r"|test_hard_forward_is_exactly_one_hot.*bfloat16"
    r"|test_a_config_trains\[small_vae\]"
    r"|test_multi_sample_objectives_train_the_vae\[(iwae-gumbel|vimco)"
    r"|test_low_precision.*\[(exact|rloo|local_expectation|relax)-"
    r"|test_value_and_derivatives_are_those_of_jax\[\((4|2), .*"
    r"|test_unbiased_estimators_have_the_gradient_of_marginalisation\[score"
    r"|test_constant_channels_are_channels\[True"
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if _SLOW_CASES.search(item.name):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def key():
    return random.key(20170424)
