"""Figure 5a of Jang et al. 2017: training speed against the number of classes.

    python -m experiments.timing --out=runs/timing

Steps per second of semi-supervised training with random labels, by marginalisation over the class
and by one sample of Gumbel-Softmax, timed in turn on this device. Marginalisation evaluates all
classes of all images in one vectorised pass. What would not fit into memory is not tried; the row
says how much it asked for.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jax import random

from experiments import data, figures
from experiments.running import command_line, loop, measuring, training
from experiments.running import config as configuration
from experiments.running.measuring import Row
from experiments.running.terminal import waiting
from experiments.tasks.checks import ConfigError
from gsm import diagnostics

_CONFIG = flags.DEFINE_string(
    "config", "configs/semisup.py", "Config file of the networks, without an argument."
)
_CLASSES = flags.DEFINE_list("classes", ["5", "10", "100", "1000"], "Numbers of classes.")
_BATCH = flags.DEFINE_integer("batch_size", 100, "Images in a step.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 3.0, "Of one timed call, about.", lower_bound=0.0)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed calls of each, in turn.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "runs/timing", "Folder.")
command_line.define_quick(classes="5,10", batch_size=20, seconds=0.5, rounds=1)

INFERENCES = {"gumbel_softmax": "gumbel_softmax", "exact": "marginalisation"}

# Steps per second on a GTX Titan X, from the bars of the paper's figure.
PAPER = {
    (5, "gumbel_softmax"): 31.0, (5, "exact"): 23.0,
    (10, "gumbel_softmax"): 30.0, (10, "exact"): 14.0,
    (100, "gumbel_softmax"): 19.0, (100, "exact"): 1.92,
}  # fmt: skip


def with_random_labels(dataset: data.Dataset, num_classes: int) -> data.Dataset:
    """The images with labels that mean nothing, as many of each class as can be."""

    def relabelled(split: data.Split) -> data.Split:
        size = max(len(split.images), num_classes * -(-_BATCH.value // num_classes))
        labels = np.random.default_rng(0).permutation(np.arange(size) % num_classes)
        return data.Split(np.resize(split.images, (size, split.images.shape[1])), labels)

    return dataset._replace(
        train=relabelled(dataset.train),
        valid=relabelled(dataset.valid),
        test=relabelled(dataset.test),
    )


class _Training:
    """Compiled training of one kind, and how much memory it asks for."""

    def __init__(self, estimator: str, num_classes: int):
        config = configuration.load(f"{_CONFIG.value}:digits")
        if config.task != "semisupervised":
            raise ConfigError(
                f"--config must be one of the task semisupervised, without an argument; "
                f"{_CONFIG.value} is of the task {config.task}"
            )
        config.estimator = estimator
        config.batch_size = _BATCH.value
        config.model.num_classes = num_classes
        # As many labelled images as unlabelled ones in each step, whatever K is.
        config.labels.number = num_classes * -(-_BATCH.value // num_classes)
        config.labels.batch_size = _BATCH.value
        dataset = with_random_labels(data.load("digits"), num_classes)
        experiment = loop.build(configuration.check(config), dataset)
        self._program = experiment.program
        state = training.init_state(experiment.program, random.key(0))
        self._arguments = experiment.task.train, experiment.settings, state
        self.seconds = 0.0
        """About those of a call, known from :meth:`prepare` on."""
        self._compile(1)
        analysis = self._compiled.memory_analysis()
        self.bytes = 0  # not known on every device
        if analysis is not None:
            self.bytes = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes

    def _compile(self, steps: int) -> None:
        self.steps = steps
        lowered = training.run_interval.lower(self._program, steps, *self._arguments)
        self._compiled = lowered.compile()

    def __call__(self) -> Any:
        return self._compiled(*self._arguments)

    def prepare(self, seconds: float) -> None:
        """Make a call last about so long."""
        (of_step,) = diagnostics.interleaved({"step": self}, rounds=1).values()
        if (steps := max(1, round(seconds / of_step))) > 1:
            self._compile(steps)
        self.seconds = steps * of_step


def measure(num_classes: int) -> list[Row]:
    """A row for each way of inference."""
    rows: list[Row] = []
    running: dict[str, _Training] = {}
    for estimator, name in INFERENCES.items():
        row: Row = {
            "classes": num_classes, "inference": estimator, "batch_size": _BATCH.value,
            "steps_per_second": None, "ratio": None,
            "paper_steps_per_second": PAPER.get((num_classes, estimator)),
        }  # fmt: skip
        rows.append(row)
        with waiting(f"K = {num_classes:,}, {name}: compiling"):
            one = _Training(estimator, num_classes)
        row["memory_bytes"] = one.bytes
        free = loop.memory_available()
        if free is not None and one.bytes > free:
            row["error"] = f"out of memory: {_gib(one.bytes)} asked for, {_gib(free)} free"
            print(f"K = {num_classes:,}, {name}: {row['error']}", flush=True)
            continue
        try:
            with waiting(f"K = {num_classes:,}, {name}: timing one step, compiling several"):
                one.prepare(_SECONDS.value)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            row["error"] = f"out of memory: {str(error).splitlines()[0][:150]}"
            print(f"K = {num_classes:,}, {name}: {row['error']}", flush=True)
            continue
        running[estimator] = one
    # One call of each comes before those that are timed.
    expected = (_ROUNDS.value + 1) * sum(one.seconds for one in running.values())
    with waiting(f"K = {num_classes:,}: timing, about {expected:.0f} s"):
        seconds = diagnostics.interleaved(running, rounds=_ROUNDS.value)
    medians = {estimator: seconds[estimator] / one.steps for estimator, one in running.items()}
    for row in rows:
        estimator = row["inference"]
        row.setdefault("error", None)
        if estimator in medians:
            row["steps_per_second"] = 1 / medians[estimator]
            if "gumbel_softmax" in medians:  # how many times slower
                row["ratio"] = medians[estimator] / medians["gumbel_softmax"]
    return rows


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _print(rows: list[Row]) -> None:
    for row in rows:
        if row["steps_per_second"] is None:
            continue
        paper = row["paper_steps_per_second"]
        print(
            f"K = {row['classes']:,}, {INFERENCES[row['inference']]}: "
            f"{row['steps_per_second']:,.3g} steps/s, {_gib(row['memory_bytes'])}"
            + (f" (the paper's: {paper:g} steps/s)" if paper else ""),
            flush=True,
        )
    ratio = rows[-1]["ratio"]
    paper = PAPER.get((rows[0]["classes"], "gumbel_softmax"))
    if ratio and paper:
        told = paper / PAPER[rows[0]["classes"], "exact"]
        print(f"  marginalisation takes {ratio:.2f} times as long (the paper's: {told:.2f})")
    elif ratio:
        print(f"  marginalisation takes {ratio:.2f} times as long")


def main() -> None:
    rows: list[dict[str, Any]] = []
    for num_classes in command_line.numbers(_CLASSES, int, 2, least=1):
        of_number = measure(num_classes)
        _print(of_number)
        rows += of_number
    out = Path(_OUT.value)
    measuring.write(out, "timing", rows, {"config": _CONFIG.value})
    print(figures.draw_timing(rows, out / "timing.png"))


if __name__ == "__main__":
    command_line.run(main)
