"""The folder of a run: config, provenance, metrics, checkpoints, result. Knows no task.

config.json      the resolved config, flat
provenance.json  command, git commit, versions, device, options; one entry for each start
metrics.jsonl    one object a row, flushed as it comes
checkpoints/     orbax, the last two
checkpoints.json SHA-256 of their files
result.json      written once, at the end, with a digest of config, metrics and result
figures/         PNG, all of them or none
damaged/         checkpoints that were found damaged, if any
.lock            held by the process that runs here
"""

import contextlib
import importlib.util
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

from experiments.running.checkpoints import Checkpoints
from experiments.running.terminal import say
from experiments.storage import records
from experiments.storage.errors import RecordError
from experiments.storage.files import finite, read_json, write_atomically, write_json, writing
from experiments.storage.provenance import provenance

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]


_SECONDS_OF_EVENTS = 10
"""Between two times that events are written to the disk."""
# What a start leaves behind that failed before there was a config.json.
_LEFTOVERS = {
    ".lock", "config.json.tmp", "checkpoints", "checkpoints.json", "events", "figures",
    "figures.tmp",
}  # fmt: skip


class RunFolderError(RecordError):
    """The folder cannot serve this run; the message says why and what to do."""


class RunFolder:
    """One folder for one config. Opened again with the same config, it resumes the run.

    Nothing is written before all that is there has been checked.

    Args:
      path: the folder; made if it is not there.
      identity: fields that must be equal for the folder to be the same run's.
      config: all fields, for the record.
      patience: seconds to wait for another process to leave the folder.

    Raises:
      RunFolderError: the folder holds the run of another config, or other files.
      RecordError: a file in it is damaged.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        config: Mapping[str, Any],
        patience: float = 0,
    ):
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints", config)
        self._config = config
        self._rows: list[dict[str, Any]] = []
        self._lock: IO[str] | None = None
        self._result: dict[str, Any] | None = None
        self._has_gone = False
        try:
            self._check(json.loads(json.dumps(identity)))
            path.mkdir(parents=True, exist_ok=True)
            self._lock = lock(
                path / ".lock",
                f"is running in {path}; wait for it, or choose another --workdir",
                patience,
            )
            starts = self._read("provenance.json", records.check_starts, "remove it") or []
            self._result = self._read_result()
            write_json(path / "config.json", dict(config))
            write_json(path / "provenance.json", [*starts, provenance()])
        except OSError as error:
            self.close()
            raise RunFolderError(f"{path} cannot be a run's folder: {error.strerror}") from None
        except RecordError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, identity: dict[str, Any]) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; a run needs a folder")
        before = self._read("config.json", records.check_config, "choose another --workdir")
        if before is None:
            if self.path.exists() and not self._holds_leftovers_only():
                raise RunFolderError(
                    f"{self.path} holds other files and no config.json; choose another --workdir"
                )
            return
        for name in ("checkpoints", "figures", "events"):
            if (self.path / name).exists() and not (self.path / name).is_dir():
                raise RunFolderError(f"{self.path / name} is a file; a run keeps a folder there")
        there, now = ({**records.ADDED, **config} for config in (before, identity))
        different = [
            f"{name} ({there.get(name)!r} there, {value!r} now)"
            for name, value in now.items()
            if there.get(name) != value and name not in records.PLACES
        ]
        if different:
            raise RunFolderError(
                f"{self.path} holds a run of another config; they differ in "
                f"{', '.join(different)}. Choose another --workdir, or remove that folder"
            )

    def _holds_leftovers_only(self) -> bool:
        names = {path.name for path in self.path.iterdir()}
        saved = any(path.name.isdecimal() for path in self.path.glob("checkpoints/*"))
        return names <= _LEFTOVERS and not saved

    def _read(self, name: str, check: Callable[[Any, str], None], advice: str) -> Any:
        """The checked content of a JSON file; None where there is none."""
        path = self.path / name
        if not path.exists():
            return None
        try:
            value = read_json(path)
            check(value, str(path))
        except RecordError as error:
            raise RunFolderError(f"{error}; {advice}") from None
        return value

    def _read_result(self) -> dict[str, Any] | None:
        """The checked result; None where there is none."""
        if not (self.path / "result.json").exists():
            return None
        try:
            return records.read_result(self.path)
        except RecordError as error:
            raise RunFolderError(
                f"{error}; remove {self.path / 'result.json'} to end the run again from its last "
                "checkpoint"
            ) from None

    # --- metrics and result ---

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a row to metrics.jsonl. A number that is not finite becomes null."""
        self._check_it_is_there()
        line = json.dumps(finite(row))
        with writing(self.path / "metrics.jsonl"), (self.path / "metrics.jsonl").open("a") as file:
            file.write(line + "\n")
        self._rows.append(json.loads(line))

    def _check_it_is_there(self) -> None:
        """Raise if the folder was removed: orbax alone would make it again, of parts."""
        if not (self.path / "config.json").exists():
            self._has_gone = True
            raise RunFolderError(f"{self.path} has gone; the same command starts the run anew")

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the run so far."""
        return list(self._rows)

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run, else None."""
        return self._result

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json: the run is finished."""
        self._check_it_is_there()
        records.write_result(self.path, self._config, self._rows, result)
        self._result = finite(dict(result))

    def is_complete(self) -> bool:
        """Whether nothing is left to do: there is a result, and figures if they can be drawn."""
        if self._result is None:
            return False
        return (self.path / "figures").is_dir() or not self.checkpoints.steps()

    @contextlib.contextmanager
    def drawing(self) -> Iterator[Path]:
        """A folder for figures, which become those of the run together, once all are drawn."""
        folder = self.path / "figures.tmp"
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        with writing(folder):
            folder.mkdir()
            yield folder
            shutil.rmtree(self.path / "figures", ignore_errors=True)
            os.replace(folder, self.path / "figures")

    # --- checkpoints ---

    def save(self, step: int, tree: Any) -> None:
        """Start writing a checkpoint of a pytree, with the rows of metrics until now."""
        self.checkpoints.save(step, tree, self._rows)

    def resume(self, like: Any) -> Any | None:
        """The pytree of the last checkpoint that is whole; None if nothing was saved.

        The rows of metrics become those of that checkpoint: later ones, which the resumed run will
        write again, are dropped, and a damaged file is restored.

        Args:
          like: a pytree of the form of the one that was saved.

        Raises:
          RecordError: there are checkpoints, and none of them can be read.
        """
        found = self.checkpoints.restore(like)
        self._rows = [dict(row) for row in found.rows] if found else []
        text = "".join(json.dumps(row) + "\n" for row in self._rows)
        path = self.path / "metrics.jsonl"
        before = path.read_bytes() if path.exists() else b""
        if not before.startswith(text.encode()):
            say(f"{path} was damaged; it is restored from the checkpoint")
        write_atomically(path, text)
        return found.tree if found else None

    def close(self) -> None:
        """Wait until what was saved is on disk, and let another process have the folder."""
        try:
            self.checkpoints.close()
        finally:
            # A checkpoint that was being written when all else was removed is no part of a run.
            if self._has_gone and not (self.path / "metrics.jsonl").exists():
                shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
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
    return records.read_config(path)


def read_checkpoint(path: Path, like: Any) -> Any:
    """The last checkpoint of a run as a pytree of the form of ``like``, nothing touched.

    Raises:
      RecordError: there is no checkpoint, or the last one is damaged.
    """
    checkpoints = Checkpoints(path / "checkpoints", read_config(path), read_only=True)
    try:
        found = checkpoints.restore(like)
    finally:
        checkpoints.close()
    if found is None:
        raise RunFolderError(f"{path} has no checkpoint yet")
    return found.tree


def lock(path: Path, held: str, patience: float = 0) -> IO[str] | None:
    """Hold a file for this process alone; two in one folder would spoil each other's work.

    The system lets go of it when the process ends, however it ends.

    Args:
      path: the file; made if it is not there.
      held: the message if another process holds it, after the name of that process.
      patience: seconds to wait for it.

    Raises:
      RunFolderError: another process holds it.
    """
    if fcntl is None:
        return None
    file, end = path.open("a+"), time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < end:
                time.sleep(0.2)
                continue
            file.seek(0)
            holder = file.read(200).strip() or "a process"
            file.close()
            raise RunFolderError(f"{holder} {held}") from None
        except OSError:  # a file system without locks
            pass
        try:
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
        except OSError:  # the disk is full
            file.close()
            raise
        return file


class Events:
    """TensorBoard events of a run, where the extra ``tb`` is installed; else nothing."""

    def __init__(self, path: Path):
        self._writer = None
        self._flushed = time.monotonic()
        if importlib.util.find_spec("tensorboardX"):
            # Without the thread of SummaryWriter, whose errors nobody can catch.
            from tensorboardX.event_file_writer import EventsWriter

            (path / "events").mkdir(exist_ok=True)
            self._writer = EventsWriter(str(path / "events" / "events"))

    def add(self, row: Mapping[str, Any]) -> None:
        """Write each number of a metrics row at the row's step."""
        if self._writer is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in row.items():
            if name != "step":
                event = Event(wall_time=time.time(), step=row["step"], summary=scalar(name, value))
                self._writer.write_event(event)
        if time.monotonic() - self._flushed > _SECONDS_OF_EVENTS:
            self._flushed = time.monotonic()
            self._writer.flush()

    def close(self) -> None:
        """Flush what was written."""
        if self._writer is not None:
            self._writer.close()
