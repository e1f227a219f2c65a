"""Jobs of a sweep: points that one program trains, started, watched and, if killed, started again.

What a job leaves is in the folders of its points: whatever becomes of it, the same sweep goes on.
"""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.running import command_line
from experiments.running.interrupts import StopRequest
from experiments.running.terminal import say
from experiments.storage.files import write_json
from experiments.storage.provenance import SWEEP
from experiments.storage.provenance import command as user_command
from experiments.storage.records import read_result
from experiments.sweeping import job as job_command
from experiments.sweeping import workers
from experiments.sweeping.points import Point

_SECONDS_BETWEEN_LOOKS = 0.2


class Outcome(NamedTuple):
    """The end of a point: its result, or its error."""

    point: Point
    result: dict[str, Any] | None
    error: str = ""


def folder(workdir: Path, point: Point) -> Path:
    """The folder of a point's run."""
    return workdir / "points" / point.hash


def log_of(workdir: Path, job: Sequence[Point]) -> Path:
    """The log of the next attempt at a job: each has a file of its own."""
    logs, name = workdir / "logs", job[0].hash
    return logs / f"{name}-{len(list(logs.glob(f'{name}-*.txt'))) + 1}.txt"


def result_of(workdir: Path, point: Point) -> dict[str, Any] | None:
    """The result of a point that is finished."""
    run = folder(workdir, point)
    return read_result(run) if (run / "result.json").exists() else None


def command(workdir: Path, job: Sequence[Point]) -> list[str]:
    """The command that runs a job in a process of its own."""
    listed = workdir / "jobs" / f"{job[0].hash}.json"
    listed.parent.mkdir(parents=True, exist_ok=True)
    write_json(listed, [point.overrides for point in job])
    return [
        sys.executable, "-m", "experiments.sweeping.job", f"--points={listed}",
        f"--folder={workdir / 'points'}", "--ends_with_driver",
    ]  # fmt: skip


def error_of(log: Path, point: Point, code: int) -> str:
    """What was wrong: the last line of a job's log about the point, or the signal that ended it."""
    text = log.read_text() if log.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    own = [line.partition(": ")[2] for line in lines if line.startswith(f"{point.hash}: ")]
    killed = [f"killed by signal {-code}"] if code < 0 else []
    return (own or killed or lines or [f"ended with status {code}"])[-1]


class _Running(NamedTuple):
    job: list[Point]
    process: workers.Running
    attempt: int
    log: Path


def steps_of(workdir: Path, point: Point) -> int:
    """Steps of a point's run that have a row of metrics."""
    try:
        lines = (folder(workdir, point) / "metrics.jsonl").read_bytes().splitlines()
        return json.loads(lines[-1])["step"]
    except (OSError, IndexError, ValueError):  # no row yet, or one that is being written
        return 0


def run(
    jobs: Sequence[list[Point]],
    workdir: Path,
    place: workers.Workers,
    retries: int,
    look: Callable[[], None] = lambda: None,
) -> Iterator[Outcome]:
    """Run jobs on workers; yields the outcome of each point as it comes.

    Args:
      jobs: points of one program each.
      workdir: folder of the sweep.
      place: the workers.
      retries: times that a killed job is started again.
      look: called several times a second while jobs run.

    Raises:
      KeyboardInterrupt: Ctrl-C or SIGTERM came; the runs have saved their state.
    """
    waiting, running = deque((job, 0) for job in jobs), list[_Running]()
    # Compiled programs are shared by the points: most differ in numbers only.
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str((workdir / "compiled").absolute()),
        # Of each program from the cache jaxlib 0.10.1 logs 3,000 characters, as if the machine were
        # another one; errors are exceptions and not of this log.
        "TF_CPP_MIN_LOG_LEVEL": "3",
        SWEEP: user_command(),
    }
    environment = {k: v for k, v in environment.items() if k not in os.environ}
    with StopRequest("stopping: every run saves its state ...", unsaved=True) as stop:
        while waiting or running:
            if stop.made:
                for one in running:
                    one.process.interrupt()
                for one in running:
                    one.process.wait()
                raise KeyboardInterrupt
            while waiting and place.free:
                job, attempt = waiting.popleft()
                log = log_of(workdir, job)
                started = place.start(command(workdir, job), log, environment)
                running.append(_Running(job, started, attempt, log))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            look()
            for ended in list(running):
                if (code := ended.process.poll()) is None:
                    continue
                running.remove(ended)
                again = []
                for point in ended.job:
                    if (result := result_of(workdir, point)) is not None:
                        yield Outcome(point, result)
                    elif code < 0 and ended.attempt < retries:  # by a signal: not its own fault
                        say(f"{point.hash} was killed (signal {-code}); it is started again")
                        again.append(point)
                    else:
                        yield Outcome(point, None, error_of(ended.log, point, code))
                if again:
                    waiting.appendleft((again, ended.attempt + 1))


def run_here(jobs: Sequence[list[Point]], workdir: Path) -> Iterator[Outcome]:
    """Run jobs in this process, one after the other; yields the outcome of each point.

    Raises:
      KeyboardInterrupt: Ctrl-C or SIGTERM came; the runs have saved their state.
    """
    for job in jobs:
        for point, outcome in zip(job, job_command.run(job, workdir / "points"), strict=True):
            if isinstance(outcome, Exception):
                yield Outcome(point, None, command_line.told(outcome))
            else:
                yield Outcome(point, outcome)
