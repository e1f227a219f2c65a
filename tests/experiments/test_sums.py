"""Sums are right in the process of every command, and ``scripts.check_sums`` finds wrong ones."""

import os
import subprocess
import sys

import numpy as np
import pytest

from gsm import xla
from scripts import check_sums


def run(code_or_module, **environment):
    """Standard output of a fresh process, without the options of this one."""
    fresh = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    fresh["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    return subprocess.run(
        [sys.executable, *code_or_module], env=fresh | environment, capture_output=True, text=True
    )


def test_every_pattern_is_right_in_the_process_of_a_command():
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


def test_a_command_does_not_warn():
    pretend = "import jaxlib; jaxlib.__version__ = '0.10.2'; "
    quiet = run(["-c", pretend + "from experiments import train"])
    assert quiet.returncode == 0
    assert "WrongSumsWarning" not in quiet.stderr


@pytest.mark.parametrize("module", ["experiments.toy", "scripts.bench"])
def test_a_command_s_process_has_the_option_before_xla_starts(module):
    """The sums of every command: each is a module of the package whose import sets the option."""
    code = f"import {module}, os; print(os.environ['XLA_FLAGS'])"
    assert run(["-c", code]).stdout.strip() == xla.OPTION
