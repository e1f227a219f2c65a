"""Where a result comes from: command, commit, versions and device."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SWEEP = "GSM_SWEEP_COMMAND"
"""The environment variable by which a sweep tells its jobs the command of the user."""

_OPTIONS = {
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_enable_x64": False,
    "jax_default_matmul_precision": None,
}
"""JAX's options that change a run's numbers, and their defaults."""

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_collections")


def provenance(*, device: bool = True) -> dict[str, Any]:
    """Command, git commit, versions and device of this process.

    Args:
      device: whether to include the device, the flags of XLA and the options of JAX that are not
        at their defaults, for which jax is imported and started.
    """
    about = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        **({"sweep": sweep} if (sweep := os.environ.get(SWEEP)) else {}),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    return about | _computer() if device else about


def command() -> str:
    """The command of this process."""
    return shlex.join(["python", "-m", _module_name(), *sys.argv[1:]])


def portable(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance to publish: its command and flags without folders of the machine that ran it."""
    places = ("--workdir=", "--config.data.dir=", "--xla_dump_to=", "--xla_gpu_cuda_data_dir=")
    kept = {
        name: shlex.join(one for one in shlex.split(text) if not one.startswith(places))
        for name, text in provenance.items()
        if name in ("command", "sweep", "xla_flags")
    }
    return {**provenance, **kept}


def _computer() -> dict[str, Any]:
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = jax.devices()[0].device_kind
    about: dict[str, Any] = {
        "device": f"{kind}, {jax.device_count()} device(s), {cores} CPU core(s)"
    }
    values = {name: getattr(jax.config, name) for name in _OPTIONS}
    if changed := {name: value for name, value in values.items() if value != _OPTIONS[name]}:
        about["jax_options"] = changed
    if flags := os.environ.get("XLA_FLAGS"):
        about["xla_flags"] = flags
    return about


def _module_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else Path(sys.argv[0]).name


def _git_commit() -> str | None:
    """The commit of the code that runs, with "+changes" where the tree differs from it."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        command = ("git", "-C", str(folder), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "-uno")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None
