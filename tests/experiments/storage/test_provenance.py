"""Where a result comes from, and what of it is published."""

import subprocess
import sys
from pathlib import Path

import jax

from experiments.storage.provenance import SWEEP, portable, provenance


def test_provenance_names_command_commit_versions_and_device():
    about = provenance()
    assert {"time", "command", "git_commit", "python", "jax", "numpy"} < set(about)
    assert "CPU core(s)" in about["device"]


def test_options_of_jax_and_flags_of_xla_that_change_numbers_are_named(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert not {"jax_options", "xla_flags"} & set(provenance())
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/secret --xla_other=1")
    with jax.default_prng_impl("rbg"), jax.default_matmul_precision("highest"):
        about = portable(provenance())
    assert about["xla_flags"] == "--xla_other=1"
    assert about["jax_options"] == {
        "jax_default_prng_impl": "rbg",
        "jax_default_matmul_precision": "highest",
    }


def test_provenance_without_the_device_does_not_import_jax():
    code = (
        "import sys; from experiments.storage.provenance import provenance;"
        "about = provenance(device=False); print('device' in about, 'jax' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert ended.stdout == "False False\n", ended.stderr


def test_a_job_names_the_sweep_that_it_is_of(monkeypatch):
    assert "sweep" not in provenance(device=False)
    monkeypatch.setenv(SWEEP, "python -m a --workdir=/secret --sweep=b")
    about = portable(provenance(device=False))
    assert about["sweep"] == "python -m a --sweep=b"


def test_places_are_not_published():
    command = "python -m a --workdir=/secret --config.data.dir=/secret '--b=1 2'"
    assert portable({"command": command, "jax": "0.10"}) == {
        "command": "python -m a '--b=1 2'",
        "jax": "0.10",
    }
