"""Checkpoints of a run: orbax's, each with a record by which it is verified when it is read.

The record holds the rows of metrics up to that step, the digest of all arrays, and one of the rows
and the configuration. So a checkpoint is the whole run: bits that changed on the disk are noticed,
and a damaged metrics file is restored. Once it is on the disk, ``checkpoints.json`` beside the
folder gets the SHA-256 of each of its files: what is not whole is not given to orbax, whose threads
print pages about it.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import random

from experiments.running.terminal import say
from experiments.storage import records
from experiments.storage.errors import RecordError
from experiments.storage.files import read_json, sync, write_json
from experiments.storage.records import Rows

_KEPT = 2
_OVERHEAD = 300_000
"""Bytes of a checkpoint beside its arrays: names and types of the arrays, rows of metrics."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    step: int
    tree: Any
    rows: Rows


class Checkpoints:
    """The checkpoints in a folder, of which the last two complete ones are kept.

    Args:
      path: the folder; made when something is saved.
      config: of the run, flat.
      read_only: nothing is saved, moved or removed, and the last checkpoint is read or none: an
        earlier one would give another answer than the one that was asked for.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], read_only: bool = False):
        self.path = path
        self._config = config
        self._digests_path = path.with_name(f"{path.name}.json")
        self._read_only = read_only
        self._open: Any = None
        self._unsynced: int | None = None

    def _manager(self) -> Any:
        if self._open is None:
            import orbax.checkpoint as ocp  # takes seconds to import

            how: dict[str, Any] = {"read_only": True} if self._read_only else {"max_to_keep": _KEPT}
            if jax.process_count() > 1:  # orbax would wait for all of them
                if not self._read_only:
                    self.path.mkdir(parents=True, exist_ok=True)
                how["create"] = False
                how["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
                    active_processes={0}, barrier_sync_key_prefix="first"
                )
            _silence_closed_loops()
            verbosity = logging.get_verbosity()
            if self._read_only:  # orbax warns of every option that it then sets
                logging.set_verbosity(logging.ERROR)
            try:
                while self._open is None:
                    try:
                        self._open = ocp.CheckpointManager(
                            self.path.absolute(), options=ocp.CheckpointManagerOptions(**how)
                        )
                    except OSError:
                        raise
                    except Exception as error:  # orbax reads a file of each checkpoint here
                        self._without_those_that_orbax_cannot_open(error)
            finally:
                logging.set_verbosity(verbosity)
        return self._open

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, the last one first."""
        if self._open is None and not self.path.is_dir():
            return []
        return sorted(self._manager().all_steps(), reverse=True)

    def save(self, step: int, tree: Any, rows: Rows) -> None:
        """Start writing a checkpoint of a pytree and the rows of metrics up to it."""
        import orbax.checkpoint as ocp

        if step in self.steps():
            return
        self._finish_last()
        self.check_space(tree)
        if str(step) in (known := self._digests()):  # of one that was put aside or removed
            write_json(self._digests_path, {k: v for k, v in known.items() if k != str(step)})
        record = {
            "digest": digest(tree), "rows": list(rows),
            "digest_of_rows": records.digest(self._config, list(rows)),
        }  # fmt: skip
        self._manager().save(
            step, args=ocp.args.Composite(
                tree=ocp.args.StandardSave(jax.tree.map(plain, tree)),
                record=ocp.args.JsonSave(record),
            ),
        )  # fmt: skip
        self._unsynced = step

    def check_space(self, tree: Any, number: int = 1) -> None:
        """Raise RecordError unless the disk has space for so many checkpoints of a pytree."""
        needed = number * (1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + _OVERHEAD)
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            which = "a checkpoint needs" if number == 1 else f"{number} checkpoints need"
            raise RecordError(
                f"{which} {needed / 1e6:,.1f} MB in {self.path.parent}; {free / 1e6:,.1f} MB are "
                "free there. What was saved before is kept; make space, or choose another --workdir"
            )

    def restore(self, like: Any) -> Checkpoint | None:
        """The last checkpoint that is whole, None if there is none of any kind.

        Damaged ones after it are reported and put aside, in the folder ``damaged`` beside this one.

        Args:
          like: a pytree of the form of the one that was saved.

        Raises:
          RecordError: there are checkpoints, and none can be read as that form.
        """
        failed: list[tuple[int, str]] = []
        steps = self.steps()
        if self._read_only:
            steps = sorted({*steps, *map(int, self._digests())}, reverse=True)[:1]
        for step in steps:
            try:
                found = self._read(step, like)
            except Exception as error:  # orbax raises many kinds, some of them plain Exception
                failed.append((step, _reason(error)))
                continue
            for damaged, reason in failed:
                self._put_aside(damaged)
                say(f"the checkpoint of step {damaged:,} is damaged ({reason})")
            return found
        if failed:
            each = "; ".join(f"step {step:,}: {reason}" for step, reason in failed)
            raise RecordError(
                f"no checkpoint in {self.path} can be read ({each}); "
                + (
                    "the command that trained it resumes from the one before"
                    if self._read_only
                    else "remove that folder to start the run anew"
                )
            )
        return None

    def _read(self, step: int, like: Any) -> Checkpoint:
        import orbax.checkpoint as ocp

        if not self._is_whole(step):
            raise ValueError("its files are not what was written")
        template = jax.tree.map(plain, like)
        restored = self._manager().restore(
            step, args=ocp.args.Composite(
                tree=ocp.args.StandardRestore(template), record=ocp.args.JsonRestore()
            ),
        )  # fmt: skip
        tree = jax.tree.map(_like, restored["tree"], like)
        record = restored["record"]
        records.check_rows(record["rows"], f"{self.path / str(step)}")
        if digest(tree) != record["digest"]:
            raise ValueError("its content is not what was saved")
        claimed = record.get("digest_of_rows")  # an older version wrote none
        if claimed is not None and not records.is_digest(claimed, self._config, record["rows"]):
            raise ValueError("its rows, or config.json, are not what was saved")
        return Checkpoint(step, tree, record["rows"])

    def _without_those_that_orbax_cannot_open(self, error: Exception) -> None:
        """Put damaged checkpoints aside before orbax reads them, if a whole one remains."""
        there = [int(step) for step in self._digests() if (self.path / step).is_dir()]
        whole = {step: self._is_whole(step) for step in there}
        damaged = [step for step in there if not whole[step]]
        if self._read_only or not damaged or not any(whole.values()):
            raise RecordError(
                f"a _CHECKPOINT_METADATA in {self.path} is damaged "
                f"({_reason(error)}); remove the checkpoint that it is of"
            ) from None
        for step in damaged:
            self._move_aside(step)
            say(f"the checkpoint of step {step:,} is damaged (its files are not what was written)")

    def _is_whole(self, step: int) -> bool:
        """Whether the files of a checkpoint are what was written, as far as this is recorded."""
        expected = self._digests().get(str(step))  # none if the process was killed just then
        return expected is None or expected == _digests_of(self.path / str(step))

    def _put_aside(self, step: int) -> None:
        if not self._read_only:
            self._move_aside(step)
            self._manager().reload()

    def _move_aside(self, step: int) -> None:
        aside = self.path.parent / "damaged"
        aside.mkdir(exist_ok=True)
        number = len(list(aside.iterdir()))
        os.replace(self.path / str(step), aside / f"{step}-{number}")

    def _digests(self) -> dict[str, Any]:
        """The digests of files by step; empty where the file is missing or damaged itself."""
        try:
            found = read_json(self._digests_path)
        except RecordError:
            return {}
        whole = isinstance(found, dict) and all(step.isdecimal() for step in found)
        return found if whole else {}

    def _finish_last(self) -> None:
        """Wait until what was saved is on disk, so that a loss of power leaves it whole."""
        if self._unsynced is not None:
            step, self._unsynced = self._unsynced, None
            try:
                self._manager().wait_until_finished()
                sync(self.path / str(step))
                known = self._digests() | {str(step): _digests_of(self.path / str(step))}
                kept = set(map(str, self.steps()))
                write_json(self._digests_path, {k: v for k, v in known.items() if k in kept})
            except Exception as error:  # of a thread of orbax's, in many kinds
                raise RecordError(
                    f"the checkpoint of step {step:,} could not be written in {self.path} "
                    f"({_reason(error)}); those before it are kept"
                ) from None

    def close(self) -> None:
        """Wait until what was saved is on disk."""
        if self._open is not None:
            try:
                self._finish_last()
            finally:
                self._open.close()
                self._open = None


def _reason(error: Exception) -> str:
    """The start of what an error of orbax's says, in one line."""
    return " ".join(str(error).split())[:100]


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds random keys."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(leaf: Any) -> np.ndarray:
    """A leaf as an array of numbers on the host, whatever devices hold it."""
    return np.asarray(random.key_data(leaf) if is_key(leaf) else leaf)


def _like(array: np.ndarray, leaf: Any) -> jax.Array:
    """A plain array as the kind of leaf that it was, on the default device."""
    return random.wrap_key_data(jnp.asarray(array)) if is_key(leaf) else jnp.asarray(array)


def _silence_closed_loops() -> None:
    """Print nothing when a thread of orbax's meets a loop that another one closed over an error.

    Python can only print what such a thread raises; the error itself is raised where it is waited
    for.
    """
    if sys.unraisablehook is _unless_closed_loop:
        return
    _hooks.append(sys.unraisablehook)
    sys.unraisablehook = _unless_closed_loop


_hooks: list[Any] = []


def _unless_closed_loop(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        _hooks[-1](unraisable)


def _digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each file in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digest(tree: Any) -> str:
    """SHA-256 of the names, types, shapes and bytes of all arrays of a pytree."""
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.ascontiguousarray(plain(leaf))
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        total.update(array.data if array.ndim else array.tobytes())
    return total.hexdigest()
