"""Absolute speeds on an accelerator: training, many models by vmap, bounds, precision.

    python -m scripts.bench_accelerator --out=results/bench/gpu.json

Steps per second of one run of each config, and of 8, 32 and 168 models of one program; images per
second of the m = 1000 bound; steps per second of the classifier, beside its twin in PyTorch where
that is installed (eager, compiled, and in CUDA graphs). Each is measured at full float32 precision
(``highest``, what the commands use) and at jax's own default, which on recent GPUs rounds the
operands of products to TF32; for the linear VAE the difference of the bound is measured too.
Random binary images; speed does not depend on what they show.
"""

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import random

from experiments import data
from experiments.running import command_line, loop, training
from experiments.running import config as configuration
from experiments.running.evaluation import evaluate
from experiments.storage.files import write_json
from experiments.storage.provenance import provenance
from scripts import bench_data

_CONFIGS = flags.DEFINE_list(
    "configs",
    [
        "configs/cat_vae.py",
        "configs/bern_vae.py",
        "configs/cat_vae_mlp.py",
        "configs/reinmax_vae.py",
        "configs/cat_sbn.py",
        "configs/bern_sbn.py",
    ],
    "Config files to measure.",
)
_PARTS = flags.DEFINE_multi_enum(
    "part",
    ["many", "configs", "convolutions", "pytorch"],
    ["many", "configs", "convolutions", "pytorch"],
    "What to measure; may be repeated. Default: everything.",
)
_PRECISIONS = flags.DEFINE_multi_enum(
    "precision", ["highest", "default"], ["highest", "default"], "Precisions of products."
)
_MODELS = flags.DEFINE_multi_integer("models", [1, 8, 32, 168], "Numbers of models by vmap.")
_STEPS = flags.DEFINE_integer("steps", 1_000, "Training steps in one timed call.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed calls; the median counts.", lower_bound=1)
_IMAGES = flags.DEFINE_integer("images", 2_000, "Images of a timed bound.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "JSON file for the result; printed in any case.")

_SWEPT = "configs/cat_vae.py"
_CONVOLUTIONAL = "configs/semisup.py"
_CONVOLUTION_BATCHES = ((20, 10), (100, 100))  # unlabelled and labelled images in a step
_CONVOLUTION_STEPS = 50


def seconds_of(call: Callable[[], Any]) -> float:
    """Median seconds of a call, after one that compiles."""
    jax.block_until_ready(call())
    times = []
    for _ in range(_ROUNDS.value):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def scan_of(experiment: loop.Experiment, steps: int, models: int = 1) -> Callable[[], Any]:
    """A call that trains so many models, each from its own seed, for so many steps."""
    program, train = experiment.program, experiment.task.train
    scan = functools.partial(training.run_interval.__wrapped__, program, steps)
    if models == 1:
        state = training.init_state(program, random.key(0))
        return functools.partial(jax.jit(scan), train, experiment.settings, state)
    states = [training.init_state(program, random.key(seed)) for seed in range(models)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    vmapped = jax.jit(jax.vmap(scan, in_axes=(None, None, 0)))
    return functools.partial(vmapped, train, experiment.settings, stacked)


def configs(precision: str) -> Iterator[dict[str, Any]]:
    """One run of each config, and its bound."""
    for path in _CONFIGS.value:
        config = configuration.load(path)
        config.evaluation.test_samples = 1_000
        experiment = loop.build(configuration.check(config), bench_data.random_images())
        task = experiment.task
        params = training.init_state(experiment.program, random.key(0)).params
        test = task.held_out["test"]
        examples = jax.tree.map(lambda x: x[: _IMAGES.value], test.examples)
        bounds = {"nll": test.metrics["nll"]}

        def bound(bounds=bounds, params=params, examples=examples):
            return evaluate(bounds, params, random.key(1), examples)["nll"]

        yield {
            "config": path,
            "precision": precision,
            "steps_per_second": _STEPS.value / seconds_of(scan_of(experiment, _STEPS.value)),
            "bound_images_per_second": _IMAGES.value / seconds_of(bound),
            "bound": bound(),
        }


def many(precision: str) -> Iterator[dict[str, Any]]:
    """Model-steps per second against the number of models in one program."""
    config = configuration.check(configuration.load(_SWEPT))
    experiment = loop.build(config, bench_data.random_images())
    for models in _MODELS.value:
        steps = max(2, _STEPS.value // max(1, models // 8))
        speed = models * steps / seconds_of(scan_of(experiment, steps, models))
        yield {
            "config": _SWEPT,
            "precision": precision,
            "models": models,
            "model_steps_per_second": speed,
        }


def convolutions(precision: str) -> Iterator[dict[str, Any]]:
    """Training steps of the classifier, one run and three seeds in one program."""
    dataset = data.load("digits")  # it needs labels
    for unlabelled, labelled in _CONVOLUTION_BATCHES:
        config = configuration.load(f"{_CONVOLUTIONAL}:digits")
        config.batch_size, config.labels.batch_size = unlabelled, labelled
        experiment = loop.build(configuration.check(config), dataset)
        steps = _CONVOLUTION_STEPS
        speeds = {
            f"of_{models}": models * steps / seconds_of(scan_of(experiment, steps, models))
            for models in (1, 3)
        }
        yield {
            "config": _CONVOLUTIONAL,
            "precision": precision,
            "batch_size": unlabelled,
            "labels.batch_size": labelled,
            "model_steps_per_second": speeds,
        }


def pytorch() -> Iterator[dict[str, Any]]:
    """Training steps of the classifier's twin."""
    try:
        import torch

        from scripts import bench_torch
    except ImportError:
        print("PyTorch is not installed (extra bench): its step is not measured")
        return
    if not torch.cuda.is_available():
        return
    torch.set_default_device("cuda")
    torch.backends.cudnn.benchmark = True
    for precision in _PRECISIONS.value:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = (
            precision == "default"
        )
        for unlabelled, labelled in _CONVOLUTION_BATCHES:
            speeds = {}
            for mode in ("eager", "cuda_graph"):
                try:
                    train = bench_torch.training_call(
                        unlabelled, labelled, _CONVOLUTION_STEPS, graph=mode == "cuda_graph"
                    )

                    def call(train=train):
                        train()
                        torch.cuda.synchronize()

                    speeds[mode] = _CONVOLUTION_STEPS / seconds_of(call)
                except RuntimeError as error:
                    print(f"PyTorch, {mode}: {str(error).splitlines()[0]}")
            yield {
                "precision": precision,
                "batch_size": unlabelled,
                "labels.batch_size": labelled,
                "pytorch_steps_per_second": speeds,
            }


def main() -> None:
    result: dict[str, Any] = {"provenance": provenance(), "rows": []}

    def keep(rows: Iterator[dict[str, Any]]) -> None:
        for row in rows:
            print(row, flush=True)
            result["rows"].append(row)
            if _OUT.value:
                Path(_OUT.value).parent.mkdir(parents=True, exist_ok=True)
                write_json(Path(_OUT.value), result)

    for precision in _PRECISIONS.value:
        with jax.default_matmul_precision(precision):
            for part in _PARTS.value:
                if part != "pytorch":
                    keep(_MEASURES[part](precision))
    if "pytorch" in _PARTS.value:
        keep(pytorch())


_MEASURES = {"many": many, "configs": configs, "convolutions": convolutions}


if __name__ == "__main__":
    command_line.run(main)
