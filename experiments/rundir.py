"""A run's folder: config, provenance, metrics, checkpoints, result. Nothing here knows a task.

config.json      the resolved config, flat
provenance.json  command, git commit, versions, device; one entry for each start
metrics.jsonl    one object a row, flushed as it comes
checkpoints/     orbax, the last two
result.json      written once, at the end
figures/         PNG
.lock            held by the process that runs here
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

import jax

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_collections")


class RunDirError(Exception):
    """The folder cannot serve this run; the message says why and what to do."""


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or nothing: a killed run leaves no half file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def provenance() -> dict[str, Any]:
    """Command, git commit, versions and device of this process."""
    device = jax.devices()[0]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", _module_name(), *sys.argv[1:]]),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": f"{device.device_kind}, {jax.device_count()} device(s), "
        f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} "
        "CPU core(s)",
    }


def portable(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance to publish: without the places of that machine in its command."""
    arguments = shlex.split(provenance.get("command", ""))
    places = ("--workdir=", "--config.data.dir=")
    kept = [argument for argument in arguments if not argument.startswith(places)]
    return {**provenance, "command": shlex.join(kept)}


def _module_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else Path(sys.argv[0]).name


def _git_commit() -> str | None:
    """Commit of the code that runs, with "+changes" where the tree differs from it."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).parent
        command = ("git", "-C", str(folder), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "-uno")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class RunDir:
    """One folder for one config. Opening it again with the same config goes on with the run.

    Args:
      path: the folder; made if it is not there.
      identity: fields that must be equal for the folder to be the same run's.
      config: all fields, for the record.

    Raises:
      RunDirError: the folder holds the run of another config, or other files.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], config: Mapping[str, Any]):
        self.path = path
        self._manager = None
        self._lock = None
        try:
            self._check(json.loads(json.dumps(identity)))
            (path / "figures").mkdir(parents=True, exist_ok=True)
            self._lock = _lock(path / ".lock")
            write_atomically(path / "config.json", json.dumps(dict(config), indent=1) + "\n")
            starts = self._read_json("provenance.json") or []
            text = json.dumps([*starts, provenance()], indent=1) + "\n"
            write_atomically(path / "provenance.json", text)
        except OSError as error:
            raise RunDirError(f"{path} cannot be a run's folder: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, identity: dict[str, Any]) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunDirError(f"{self.path} is a file; a run needs a folder")
        before = self._read_json("config.json", "choose another --workdir")
        if before is None:
            if self.path.exists() and any(self.path.iterdir()):
                raise RunDirError(
                    f"{self.path} holds other files and no config.json; choose another --workdir"
                )
            return
        different = [
            f"{name} ({before.get(name)!r} there, {value!r} now)"
            for name, value in identity.items()
            if before.get(name) != value
        ]
        if different:
            raise RunDirError(
                f"{self.path} holds a run of another config; they differ in "
                f"{', '.join(different)}. Choose another --workdir, or remove that folder"
            )

    def _read_json(self, name: str, advice: str = "remove it") -> Any:
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:  # not JSON, or not even text
            raise RunDirError(f"{self.path / name} is damaged ({error}); {advice}") from None

    # --- metrics and result ---

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a row to metrics.jsonl. A number that is not finite becomes null."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({k: _finite(v) for k, v in row.items()}) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a last row torn by a kill is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def truncate(self, step: int) -> list[dict[str, Any]]:
        """Drop the rows after ``step``, which a resumed run will write again; returns the rest."""
        rows = [row for row in self.rows() if row["step"] <= step]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(self.path / "metrics.jsonl", text)
        return rows

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run, else None."""
        return self._read_json("result.json")

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json: the run is finished."""
        finite = {k: _finite(v) for k, v in result.items()}
        write_atomically(self.path / "result.json", json.dumps(finite, indent=1) + "\n")

    # --- checkpoints ---

    def _checkpoints(self):
        if self._manager is None:
            import orbax.checkpoint as ocp  # takes seconds to import

            self._manager = ocp.CheckpointManager(
                (self.path / "checkpoints").absolute(),
                options=ocp.CheckpointManagerOptions(max_to_keep=2),
            )
        return self._manager

    def save(self, step: int, tree: Any) -> None:
        """Start writing a checkpoint of a pytree; the last two complete ones are kept."""
        import orbax.checkpoint as ocp

        if step != self.latest_step():
            self._checkpoints().save(step, args=ocp.args.StandardSave(tree))

    def latest_step(self) -> int | None:
        """Step of the last complete checkpoint."""
        if self._manager is None and not (self.path / "checkpoints").is_dir():
            return None
        return self._checkpoints().latest_step()

    def restore(self, like: Any) -> Any:
        """The last checkpoint as a pytree of the form of ``like``.

        Raises:
          RunDirError: the checkpoint does not have that form, or cannot be read.
        """
        return _restore(self._checkpoints(), self.path, like)

    def close(self) -> None:
        """Wait until what was saved is on disk, and let another process have the folder."""
        if self._manager is not None:
            self._manager.wait_until_finished()
            self._manager.close()
            self._manager = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def read_config(path: Path) -> dict[str, Any]:
    """The config of a run, flat, without touching its folder.

    Raises:
      RunDirError: there is none, or it is damaged.
    """
    try:
        return json.loads((path / "config.json").read_text())
    except OSError:
        raise RunDirError(f"{path} is not the folder of a run: it has no config.json") from None
    except ValueError as error:
        raise RunDirError(f"{path / 'config.json'} is damaged ({error})") from None


def read_checkpoint(path: Path, like: Any) -> Any:
    """The last checkpoint of a run as a pytree of the form of ``like``, its folder untouched.

    Raises:
      RunDirError: there is no checkpoint, it does not have that form, or it cannot be read.
    """
    import orbax.checkpoint as ocp

    folder = path / "checkpoints"
    if not folder.is_dir():
        raise RunDirError(f"{path} has no checkpoint yet")
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        if manager.latest_step() is None:
            raise RunDirError(f"{path} has no checkpoint yet")
        return _restore(manager, path, like)


def _restore(manager: Any, path: Path, like: Any) -> Any:
    import orbax.checkpoint as ocp

    step = manager.latest_step()
    template = jax.eval_shape(lambda: like)
    try:
        return manager.restore(step, args=ocp.args.StandardRestore(template))
    except Exception as error:  # orbax raises many kinds, some of them plain Exception
        place = path / "checkpoints" / str(step)
        reason = " ".join(str(error).split())[:100]
        raise RunDirError(
            f"cannot read the checkpoint {place}; remove it to go on from the one before "
            f"({type(error).__name__}: {reason})"
        ) from None


def _lock(path: Path) -> IO[str] | None:
    """Hold a file for this process alone; two runs in one folder would spoil each other.

    The system lets go of it when the process ends, however it ends.
    """
    if fcntl is None:
        return None
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RunDirError(
            f"another process is running in {path.parent}; wait for it, or choose another --workdir"
        ) from None
    except OSError:  # a file system without locks
        pass
    return file


def _finite(value: Any) -> Any:
    """NaN and infinities are not JSON."""
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


class Events:
    """TensorBoard events of a run, where the extra ``tb`` is installed; else nothing."""

    def __init__(self, path: Path):
        self._writer = None
        if importlib.util.find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(path / "events"))

    def add(self, row: Mapping[str, Any]) -> None:
        """Write each number of a metrics row at the row's step."""
        if self._writer is not None:
            for name, value in row.items():
                if name != "step":
                    self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Flush what was written."""
        if self._writer is not None:
            self._writer.close()
