"""The devices of a run: a mesh over which a minibatch is divided, in one process or in several.

With several processes every one of them runs the same program in step; the first one alone keeps
the run's folder and tells the others what it read there and when a signal came.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from experiments.running.checkpoints import is_key, plain
from experiments.tasks.checks import ConfigError

AXIS = "data"
"""Name of the mesh's axis."""

_HEARTBEAT_SECONDS = 30
"""After so long without a sign of life of a process, the others end."""


class PeerLost(Exception):
    """Another process of the run has ended, or cannot be reached."""


def start(coordinator: str, num_processes: int, process_id: int) -> None:
    """Join the other processes of a run; before anything is computed.

    Args:
      coordinator: HOST:PORT of the first process, which listens there and nowhere else; "auto" asks
        the cluster (SLURM, Open MPI, Cloud TPU), and listens on all interfaces of the first host.
      num_processes: how many there are; not read for "auto".
      process_id: 0 for the first; not read for "auto".

    Raises:
      ConfigError: the others cannot be reached.
    """
    # Its handler would take SIGTERM from ours, which saves the run.
    jax.config.update("jax_enable_preemption_service", False)
    # The end of another process is an error here, not the end of this one with a page of traceback.
    jax.config.update("jax_enable_recoverability", True)
    known: dict[str, Any] = {}
    if coordinator != "auto":
        known = {
            "coordinator_address": coordinator, "num_processes": num_processes,
            "process_id": process_id, "coordinator_bind_address": coordinator,
        }  # fmt: skip
    try:
        jax.distributed.initialize(**known, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"--coordinator={coordinator}: the processes cannot meet ({reason})"
        ) from (None)


@contextlib.contextmanager
def peer_lost() -> Iterator[None]:
    """Raise PeerLost where a computation fails because another process has ended."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # Outside of jit it is a ValueError, which begins like the others with the code of a status.
        if not several_processes() or not re.match(r"[A-Z_]+: ", str(error)):
            raise
        reason = " ".join(str(error).split())[:150]
        raise PeerLost(
            f"another process of the run has ended or cannot be reached ({reason}); the same "
            "commands resume from the last checkpoint"
        ) from None


def keep_float32() -> None:
    """Multiply float32 matrices in float32 on every device, unless the user chose a precision.

    GPUs and TPUs would by default round the factors to TF32 or bfloat16; the numbers in
    ``results/`` are those of float32. ``JAX_DEFAULT_MATMUL_PRECISION=default`` takes
    the faster products.
    """
    config: Any = jax.config  # whose names mypy does not know
    if jax.default_backend() != "cpu" and config.jax_default_matmul_precision is None:
        jax.config.update("jax_default_matmul_precision", "highest")


def several_processes() -> bool:
    """Whether the run has more processes than this one."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process keeps the run's folder and speaks to the user."""
    return jax.process_index() == 0


def mesh_of(config: ConfigDict) -> Mesh | None:
    """The mesh of a configuration; None: everything is on one device.

    Raises:
      ConfigError: there are not so many devices, or the minibatch cannot be divided among them.
    """
    number = config.mesh.data or jax.device_count()
    if number > jax.device_count():
        raise ConfigError(
            f"config.mesh.data must be at most the number of devices, {jax.device_count()}; "
            f"got {number}"
        )
    if several_processes() and number != jax.device_count():
        raise ConfigError(
            f"config.mesh.data must be 0, all devices, with several processes; got {number}"
        )
    if config.batch_size % number:
        raise ConfigError(
            f"config.batch_size must be a multiple of the {number} devices of config.mesh.data; "
            f"got {config.batch_size}"
        )
    if number == 1:
        return None
    return jax.make_mesh(
        (number,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:number]
    )


def divided(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays whose leading axis is divided among the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def place(mesh: Mesh | None, tree: Any) -> Any:
    """The arrays of a pytree on every device of a mesh, or on the default device."""
    if mesh is None or not several_processes():
        return jax.device_put(tree, None if mesh is None else replicated(mesh))

    def one(leaf):
        array = jax.make_array_from_process_local_data(replicated(mesh), plain(leaf))
        return random.wrap_key_data(array) if is_key(leaf) else array

    return jax.tree.map(one, tree)


def local(tree: Any) -> Any:
    """The arrays of a pytree, which every device holds whole, on one device of this process."""
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)


# --- what the first process knows ------------------------------------------------------------


def of_first(value: Any) -> Any:
    """A JSON value of the first process, in all of them."""
    if not several_processes():
        return value
    return json.loads(_bytes_of_first(json.dumps(value).encode()))


def tree_of_first(tree: Any) -> Any:
    """The arrays of a pytree of the first process, in all of them, bit for bit.

    Args:
      tree: in all processes of the same shapes.
    """
    if not several_processes():
        return tree
    leaves, form = jax.tree.flatten(tree)
    content = b"".join(plain(leaf).tobytes() for leaf in leaves)
    content, received = _bytes_of_first(content), []
    for leaf in leaves:
        mine = plain(leaf)
        piece, content = content[: mine.nbytes], content[mine.nbytes :]
        array = np.frombuffer(piece, mine.dtype).reshape(mine.shape)
        received.append(random.wrap_key_data(jnp.asarray(array)) if is_key(leaf) else array)
    return jax.tree.unflatten(form, received)


def any_of(made: bool) -> bool:
    """Whether it is so in any process: a signal may come to one of them only."""
    if not several_processes():
        return made
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.int32(made)).any())


def _bytes_of_first(content: bytes) -> bytes:
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    mine = np.frombuffer(content.ljust(size)[:size], np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(mine)).astype(np.uint8).tobytes()
