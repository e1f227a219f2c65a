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

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_collections")


def provenance(*, device: bool = True) -> dict[str, Any]:
    """Command, git commit, versions and device of this process.

    Args:
      device: whether to include the device, for which jax is imported and started.
    """
    about = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", _module_name(), *sys.argv[1:]]),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    return about | {"device": _device()} if device else about


def portable(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance to publish: its command without the folders of the machine that ran it."""
    arguments = shlex.split(provenance.get("command", ""))
    places = ("--workdir=", "--config.data.dir=")
    kept = [argument for argument in arguments if not argument.startswith(places)]
    return {**provenance, "command": shlex.join(kept)}


def _device() -> str:
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = jax.devices()[0].device_kind
    return f"{kind}, {jax.device_count()} device(s), {cores} CPU core(s)"


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
