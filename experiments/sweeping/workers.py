"""Where the jobs of a sweep run: processes of this machine, or of a cluster through Ray.

A job is a command with a log. Started jobs tell their exit status as a shell's child does: a
negative one is the signal that killed it. The standard input of a job is a pipe that its driver
holds and never writes to: it closes when the driver ends, however it ends, and the job then stops.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Running(Protocol):
    """A started job."""

    def poll(self) -> int | None:
        """The exit status; None while it runs."""

    def interrupt(self) -> None:
        """Ask it to save its state and end."""

    def wait(self) -> None:
        """Return when it has ended."""


class Workers(Protocol):
    """Takes jobs as long as ``free`` is positive, ``number`` at a time."""

    number: int
    accelerated: bool

    @property
    def free(self) -> int:
        """How many more jobs can be started now."""

    def start(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Running:
        """Start a command; its output is added to the log."""


class LocalWorkers:
    """Processes of this machine.

    Args:
      number: how many at a time.
      gpus: the GPUs that they share out, one for each in turn, by the names in
        CUDA_VISIBLE_DEVICES.
      accelerated: whether they run on GPUs or the like; if not, on cores.

    On Linux, several on cores are each pinned to one: XLA would otherwise start as many threads as
    there are cores in each, which get into each other's way.
    """

    def __init__(self, number: int, gpus: Sequence[str] = (), accelerated: bool = False):
        self.number, self.accelerated = number, accelerated
        self._gpus = gpus
        self._slots = list(range(number))
        self._cores: list[int] = []
        if number > 1 and not accelerated and hasattr(os, "sched_setaffinity"):
            self._cores = sorted(os.sched_getaffinity(0))

    @property
    def free(self) -> int:
        return len(self._slots)

    def start(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Running:
        slot = self._slots.pop(0)
        environment = os.environ | environment
        if self._gpus:
            environment |= {"CUDA_VISIBLE_DEVICES": self._gpus[slot % len(self._gpus)]}
        log.parent.mkdir(parents=True, exist_ok=True)
        if self._cores:  # the process inherits this thread's, and has it from its first moment
            os.sched_setaffinity(0, {self._cores[slot % len(self._cores)]})
        try:
            with log.open("a") as file:
                process = subprocess.Popen(
                    command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.PIPE,
                    env=environment, start_new_session=True,
                )  # fmt: skip
        finally:
            if self._cores:
                os.sched_setaffinity(0, self._cores)
        return _Process(process, slot, self._slots)


class _Process:
    def __init__(self, process: subprocess.Popen, slot: int, slots: list[int]):
        self._process, self._slot, self._slots = process, slot, slots

    def poll(self) -> int | None:
        before, code = self._process.returncode, self._process.poll()
        if before is None and code is not None:
            self._slots.append(self._slot)
            if self._process.stdin is not None:
                self._process.stdin.close()
        return code

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        self._process.wait()


class RayWorkers:
    """Tasks of a Ray cluster: that of $RAY_ADDRESS, or one started here.

    Args:
      number: how many at a time; 0: one for each GPU of the cluster, or else for each core.

    The cluster's machines must see the working directory under the same path.

    Raises:
      ImportError: Ray is not installed.
      ConnectionError: no cluster at $RAY_ADDRESS.
    """

    def __init__(self, number: int = 0):
        import ray

        self._ray: Any = ray
        local = {} if os.environ.get("RAY_ADDRESS") else {"_node_ip_address": "127.0.0.1"}
        self._ray.init(
            include_dashboard=False if local else None, log_to_driver=False,
            logging_level="ERROR", **local,
        )  # fmt: skip
        resources = self._ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        self.accelerated = gpus > 0
        self.number = number or gpus or int(resources["CPU"])
        self._running = 0
        # Never again by itself: what was killed is started anew by the sweep, which says so.
        options = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, "max_retries": 0}
        self._call = self._ray.remote(**options)(call)

    @property
    def free(self) -> int:
        return self.number - self._running

    def start(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Running:
        self._running += 1
        task = self._call.remote(list(command), str(log.absolute()), os.getcwd(), dict(environment))
        return _RayTask(self, task)

    def ended(self) -> None:
        """One task fewer."""
        self._running -= 1


class _RayTask:
    def __init__(self, workers: RayWorkers, task):
        self._ray, self._workers, self._task = workers._ray, workers, task
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None and self._ray.wait([self._task], timeout=0)[0]:
            try:
                self._code = self._ray.get(self._task)
            except self._ray.exceptions.RayError:  # the worker, or its machine, is gone
                self._code = -signal.SIGKILL
            self._workers.ended()
        return self._code

    def interrupt(self) -> None:
        self._ray.cancel(self._task)

    def wait(self) -> None:
        self._ray.wait([self._task])


def call(command: list[str], log: str, folder: str, environment: dict[str, str]) -> int:
    """Run a command to its end in a folder, its output added to a log; returns its exit status."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.PIPE,
            cwd=folder, env=os.environ | environment,
        )  # fmt: skip
        try:
            while True:  # not communicate(): its standard input must stay open
                try:
                    return process.wait()
                except KeyboardInterrupt:  # Ray's way to cancel
                    process.send_signal(signal.SIGINT)
        finally:
            if process.stdin is not None:
                process.stdin.close()
