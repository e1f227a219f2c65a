"""Small runs, and what is read from their folders; shared by the tests of the experiments."""

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from absl.testing import flagsaver
from jax import random
from ml_collections import ConfigDict

from experiments.running import command_line, loop, training
from experiments.running import config as configuration
from experiments.running.run_folder import read_checkpoint, read_config

ROOT = Path(__file__).resolve().parents[2]
DIGITS = "--config=configs/cat_vae.py:digits"
SMALL = {
    "model.num_latents": 3, "evaluation.valid_samples": 2, "evaluation.test_samples": 4
}  # fmt: skip
_TIMES = {"steps_per_second", "seconds", "train_seconds", "test_seconds", "digest"}
"""What differs between two equal runs; the digest is of a result with its times."""


def small(name: str = "cat_vae", **changes) -> ConfigDict:
    """A checked config on digits, 3 latents, 20 steps; ``__`` in a field's name is a dot."""
    config = configuration.load(f"{ROOT}/configs/{name}.py:digits")
    short = SMALL | {"num_steps": 20, "eval_every": 10, "log_every": 10}
    changes = {field.replace("__", "."): value for field, value in changes.items()}
    config.update_from_flattened_dict(short | changes)
    return configuration.check(config)


def here(main: Callable[[], None], *options: str) -> int | str:
    """Run a command in this process; returns what it passes to sys.exit: a status or an error."""
    argv = mock.patch.object(sys, "argv", ["command.py", *options])
    hook = mock.patch.object(sys, "unraisablehook", sys.unraisablehook)
    with flagsaver.flagsaver(), argv, hook, contextlib.chdir(ROOT):
        try:
            command_line.run(main)
        except SystemExit as end:
            return end.code or 0
    raise AssertionError("a command ends with sys.exit")


def without_times(numbers: dict) -> dict:
    return {name: value for name, value in numbers.items() if name not in _TIMES}


def rows_of(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def result_of(workdir: Path) -> dict:
    return json.loads((workdir / "result.json").read_text())


def checkpoint_of(workdir: Path) -> dict[str, bytes]:
    """The last checkpoint's leaves as bytes by name: state, optimiser, key and best parameters."""
    config = configuration.from_fields(read_config(workdir))
    experiment = loop.build(config, loop.load_dataset(config))
    state = training.init_state(experiment.program, random.key(0))
    best = {"params": state.params, "step": np.int32(0), "value": np.float32(0)}
    restored = read_checkpoint(workdir, {"state": state._asdict(), "best": best})
    restored["state"]["key"] = random.key_data(restored["state"]["key"])
    leaves = jax.tree_util.tree_leaves_with_path(restored)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def step_of(checkpoint: dict[str, bytes]) -> int:
    return int(np.frombuffer(checkpoint["['state']['step']"], np.int32)[0])
