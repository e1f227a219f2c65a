"""Sums are right in the process of a user, or a warning says that they may be wrong."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from gsm import estimators, xla


@pytest.fixture
def jaxlib_is(monkeypatch):
    """Pretend that another version is installed and XLA has not started."""

    def pretend(version, flags="", started=False):
        monkeypatch.setattr(jaxlib, "__version__", version)
        monkeypatch.setattr(xla.xla_bridge, "backends_are_initialized", lambda: started)
        monkeypatch.setenv("XLA_FLAGS", flags)

    return pretend


@pytest.mark.parametrize("version", ["0.10.2", "0.11.0", "0.11.2", "0.12.0", "0.12.0.1", "1.0.0"])
def test_on_a_wrong_version_the_option_is_set_and_a_user_without_it_is_warned(jaxlib_is, version):
    jaxlib_is(version, "--xla_other=1")
    with pytest.warns(xla.WrongSumsWarning, match=f"{version}.*sums wrong.*XLA_FLAGS={xla.OPTION}"):
        xla.warn_of_wrong_sums()
    xla.keep_sums_right()
    assert os.environ["XLA_FLAGS"] == f"--xla_other=1 {xla.OPTION}"
    assert not xla.computes_wrong_sums()
    xla.warn_of_wrong_sums()  # pytest would turn a warning into an error
    xla.keep_sums_right()
    assert os.environ["XLA_FLAGS"].count(xla.OPTION) == 1


def test_right_versions_are_not_warned_of_and_do_not_get_options_that_they_do_not_know(jaxlib_is):
    for version, flags in (("0.10.0", ""), ("0.10.1", xla.OPTION)):
        jaxlib_is(version)
        xla.warn_of_wrong_sums()
        xla.keep_sums_right()
        assert os.environ["XLA_FLAGS"] == flags


def test_an_option_that_comes_too_late_is_warned_of(jaxlib_is):
    jaxlib_is("0.10.2", started=True)
    with pytest.warns(xla.WrongSumsWarning):
        xla.keep_sums_right()
    assert os.environ["XLA_FLAGS"] == ""


def test_accelerators_are_not_warned_of(jaxlib_is, monkeypatch):
    jaxlib_is("0.10.2")
    config = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", "cuda,cpu")
        xla.warn_of_wrong_sums()
        jax.config.update("jax_platforms", "cpu")
        with pytest.warns(xla.WrongSumsWarning):
            xla.warn_of_wrong_sums()
    finally:
        jax.config.update("jax_platforms", config)


def test_importing_gsm_warns_once():
    code = "import jaxlib; jaxlib.__version__ = '0.10.2'; import gsm; from gsm import estimators"
    fresh = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    warned = subprocess.run([sys.executable, "-c", code], env=fresh, capture_output=True, text=True)
    assert warned.returncode == 0, warned.stderr
    assert warned.stderr.count("WrongSumsWarning") == 1


def test_exact_does_not_evaluate_f_as_it_compiles():
    """No table over the 65,536 outcomes is in the program; with one it compiled for minutes."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(32, 32)), jnp.float32)

    def value(logits):
        return estimators.exact(logits, lambda z: jnp.sum((matrix @ z.reshape(-1)) ** 2))

    text = jax.jit(jax.grad(value)).lower(jnp.zeros((16, 2))).compile().as_text()
    assert "[65536" in text
    assert not re.search(r"\[65536,[^=]* constant\(", text)
