"""How to run many seeds: model-steps per second of each way, beside that of one run.

One process for each core, pinned to it, as ``experiments.sweep`` does on CPUs; all seeds in one
program by ``vmap``, as it does on accelerators; the same by ``lax.map``. The ways are timed in
turn, round after round, and the medians reported. A part of ``scripts.bench``; as a command of its
own, ``python -m scripts.bench_sweep CONFIG``, it is one of those processes.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import random

from experiments.running import config as configuration
from experiments.running import loop, training
from gsm.diagnostics import interleaved
from scripts import bench_data

_STEPS = 200  # training steps of each seed in one timed call


def measure(path: str, numbers: Sequence[int], rounds: int) -> dict[str, float]:
    """Model-steps per second of one run, and of each way to run so many."""
    experiment = _experiment(path)
    program, train = experiment.program, experiment.task.train

    def scan(state):
        return training.run_interval(program, _STEPS, train, experiment.settings, state)

    workers = _start_workers(path)
    one = training.init_state(program, random.key(0))
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "one_run": (lambda: scan(one), 1),
        "processes": (lambda: _go(workers), len(workers)),
    }
    for number in numbers:
        states = [training.init_state(program, random.key(seed)) for seed in range(number)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        vmapped = jax.jit(jax.vmap(scan))
        mapped = jax.jit(lambda states: jax.lax.map(scan, states))
        ways[f"vmap of {number}"] = functools.partial(vmapped, stacked), number
        ways[f"lax_map of {number}"] = functools.partial(mapped, stacked), number
    try:
        seconds = interleaved({name: call for name, (call, _) in ways.items()}, rounds)
    finally:
        for worker in workers:
            worker.communicate()  # no more input: it ends
    return {name: runs * _STEPS / seconds[name] for name, (_, runs) in ways.items()}


def _experiment(path: str) -> loop.Experiment:
    config = configuration.check(configuration.load(path))
    return loop.build(config, bench_data.random_images())


def _start_workers(path: str) -> list[subprocess.Popen]:
    """One process a core, each pinned to its own, compiled and waiting."""
    if not hasattr(os, "sched_getaffinity"):
        sys.exit("error: this system cannot pin a process to a core")
    command = [sys.executable, "-m", "scripts.bench_sweep", path]
    workers = []
    for core in sorted(os.sched_getaffinity(0)):
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        os.sched_setaffinity(worker.pid, {core})
        workers.append(worker)
    for worker in workers:
        worker.stdout.readline()
    return workers


def _go(workers: list[subprocess.Popen]) -> None:
    """Let every worker train once, all at the same time."""
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.stdout.readline()


def _work(path: str) -> None:
    """Train once, and once more at each line of input."""
    experiment = _experiment(path)
    state = training.init_state(experiment.program, random.key(0))

    def train():
        arguments = (
            experiment.program, _STEPS, experiment.task.train, experiment.settings, state
        )  # fmt: skip
        jax.block_until_ready(training.run_interval(*arguments))
        print("done", flush=True)

    train()  # compiles
    for _ in sys.stdin:
        train()


def table(speeds: dict[str, float]) -> str:
    """The measured speeds as lines of text."""
    return "\n".join(
        f"{name:<14}{speed:>9,.0f} model-steps/s{speed / speeds['one_run']:>8.2f}"
        for name, speed in speeds.items()
    )


if __name__ == "__main__":
    _work(sys.argv[1])
