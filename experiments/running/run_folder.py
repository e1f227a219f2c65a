"""The folder of a run: config, provenance, metrics, checkpoints, result. Knows no task.

config.json      the resolved config, flat
provenance.json  command, git commit, versions, device; one entry for each start
metrics.jsonl    one object a row, flushed as it comes
checkpoints/     orbax, the last two
result.json      written once, at the end
figures/         PNG
.lock            held by the process that runs here
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

import jax

from experiments.storage.errors import RecordError
from experiments.storage.files import finite, read_json, write_atomically, write_json
from experiments.storage.provenance import provenance

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]


class RunFolderError(RecordError):
    """The folder cannot serve this run; the message says why and what to do."""


class RunFolder:
    """One folder for one config. Opened again with the same config, it resumes the run.

    Args:
      path: the folder; made if it is not there.
      identity: fields that must be equal for the folder to be the same run's.
      config: all fields, for the record.

    Raises:
      RunFolderError: the folder holds the run of another config, or other files.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], config: Mapping[str, Any]):
        self.path = path
        self._manager = None
        self._lock = None
        try:
            self._check(json.loads(json.dumps(identity)))
            (path / "figures").mkdir(parents=True, exist_ok=True)
            self._lock = _lock(path / ".lock")
            write_json(path / "config.json", dict(config))
            starts = self._read_json("provenance.json") or []
            write_json(path / "provenance.json", [*starts, provenance()])
        except OSError as error:
            raise RunFolderError(f"{path} cannot be a run's folder: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, identity: dict[str, Any]) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; a run needs a folder")
        before = self._read_json("config.json", "choose another --workdir")
        if before is None:
            if self.path.exists() and any(self.path.iterdir()):
                raise RunFolderError(
                    f"{self.path} holds other files and no config.json; choose another --workdir"
                )
            return
        different = [
            f"{name} ({before.get(name)!r} there, {value!r} now)"
            for name, value in identity.items()
            if before.get(name) != value
        ]
        if different:
            raise RunFolderError(
                f"{self.path} holds a run of another config; they differ in "
                f"{', '.join(different)}. Choose another --workdir, or remove that folder"
            )

    def _read_json(self, name: str, advice: str = "remove it") -> Any:
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:  # not JSON, or not even text
            raise RunFolderError(f"{self.path / name} is damaged ({error}); {advice}") from None

    # --- metrics and result ---

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a row to metrics.jsonl. A number that is not finite becomes null."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(finite(row)) + "\n")

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
        write_json(self.path / "result.json", dict(result))

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
          RunFolderError: the checkpoint does not have that form, or cannot be read.
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
      RecordError: there is none, or it is damaged.
    """
    if not (path / "config.json").is_file():
        raise RunFolderError(f"{path} is not the folder of a run: it has no config.json")
    return read_json(path / "config.json")


def read_checkpoint(path: Path, like: Any) -> Any:
    """The last checkpoint of a run as a pytree of the form of ``like``, its folder untouched.

    Raises:
      RunFolderError: there is no checkpoint, it does not have that form, or it cannot be read.
    """
    import orbax.checkpoint as ocp

    folder = path / "checkpoints"
    if not folder.is_dir():
        raise RunFolderError(f"{path} has no checkpoint yet")
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        if manager.latest_step() is None:
            raise RunFolderError(f"{path} has no checkpoint yet")
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
        raise RunFolderError(
            f"cannot read the checkpoint {place}; remove it to resume from the one before "
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
        raise RunFolderError(
            f"another process is running in {path.parent}; wait for it, or choose another --workdir"
        ) from None
    except OSError:  # a file system without locks
        pass
    return file


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
