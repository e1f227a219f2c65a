"""Sums are right in the process of a user, and of every command."""

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
from scripts import check_sums


def run(code_or_module, **environment):
    """Standard output of a fresh process, without the options of this one."""
    fresh = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    fresh["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    return subprocess.run(
        [sys.executable, *code_or_module], env=fresh | environment, capture_output=True, text=True
    )


def test_every_pattern_is_right_in_the_process_of_a_user():
    """Among them estimators at 40,000 keys, ``exact`` at 59,049 outcomes, a chunk of evaluation."""
    done = run(["-m", "scripts.check_sums"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("right") == len(check_sums.PATTERNS) >= 14
    assert "Constant folding" not in done.stderr


def test_a_wrong_sum_is_found_and_ends_with_status_1(monkeypatch, capsys):
    one_row_wrong = np.ones(3), np.array([1.0, 1.0, 1.001])
    monkeypatch.setattr(check_sums, "PATTERNS", {"one row": lambda: one_row_wrong})
    with pytest.raises(SystemExit, match="True"):
        check_sums.main()
    assert "WRONG  one row" in capsys.readouterr().out
    not_a_number = np.array(np.nan), np.array(1.0)
    monkeypatch.setattr(check_sums, "PATTERNS", {"NaN": lambda: not_a_number})
    assert check_sums.error("NaN") == float("inf")


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


def test_importing_gsm_warns_once_and_the_commands_do_not():
    pretend = "import jaxlib; jaxlib.__version__ = '0.10.2'; "
    warned = run(["-c", pretend + "import gsm; from gsm import estimators"])
    assert warned.stderr.count("WrongSumsWarning") == 1
    quiet = run(["-c", pretend + "from experiments import train"])
    assert quiet.returncode == 0
    assert "WrongSumsWarning" not in quiet.stderr


@pytest.mark.parametrize(
    "module",
    ["experiments.sweep", "experiments.toy", "scripts.bench", "scripts.bench_sweep"],
)
def test_a_command_s_process_has_the_option_before_xla_starts(module):
    """The sums of every command: each is a module of the package whose import sets the option."""
    code = f"import {module}, os; print(os.environ['XLA_FLAGS'])"
    assert run(["-c", code]).stdout.strip() == xla.OPTION


def test_exact_does_not_evaluate_f_as_it_compiles():
    """No table over the 65,536 outcomes is in the program; with one it compiled for minutes."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(32, 32)), jnp.float32)

    def value(logits):
        return estimators.exact(logits, lambda z: jnp.sum((matrix @ z.reshape(-1)) ** 2))

    text = jax.jit(jax.grad(value)).lower(jnp.zeros((16, 2))).compile().as_text()
    assert "[65536" in text
    assert not re.search(r"\[65536,[^=]* constant\(", text)
