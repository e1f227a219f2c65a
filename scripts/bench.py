"""Speed of training and of evaluation, beside a matrix product of the same process.

    python -m scripts.bench --out=results/bench/cpu.json

For each config: steps per second of the jitted training scan, images per second of the m = 1000
bound, and the share of the machine's matrix-product speed that their matrix products reach (FLOP
utilisation: products only, so noise, softmax and optimiser count as time without work; evaluation
counts those that sums of rows replace on a CPU, so that it may exceed 100 %). The three are timed
in turn, round after round, and the medians reported: a shared machine's mood changes from one
second to the next. Random binary images; speed does not depend on what they show.
``--part=convolutions`` measures the semi-supervised training step only, beside the same step
in PyTorch where the extra ``bench`` is installed.
"""

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import lax, random

from experiments import data
from experiments.running import command_line, loop, training
from experiments.running import config as configuration
from experiments.running.evaluation import map_examples
from experiments.storage.files import write_json
from experiments.storage.provenance import provenance
from experiments.tasks import convolutions
from gsm.diagnostics import interleaved
from gsm.registry import BERNOULLI_ONLY, ESTIMATORS
from scripts import bench_data, bench_startup, bench_sweep

_CONFIGS = flags.DEFINE_list(
    "configs",
    [
        "configs/cat_vae.py",
        "configs/bern_vae.py",
        "configs/cat_vae_mlp.py",
        "configs/cat_sbn.py",
        "configs/bern_sbn.py",
    ],
    "Config files to measure.",
)
_ESTIMATORS = flags.DEFINE_list(
    "estimators",
    [name for name in ESTIMATORS if name != "exact"],
    "Estimators, each measured beside gumbel_softmax: on configs/cat_vae.py and cat_sbn.py, those "
    "for two classes on configs/bern_vae.py and bern_sbn.py.",
)
_PARTS = flags.DEFINE_multi_enum(
    "part",
    ["configs", "estimators", "convolutions", "sweep"],
    ["configs", "estimators", "convolutions", "sweep", "startup", "scaling", "twins"],
    "What to measure; may be repeated. twins are the same models in PyTorch (extra bench).",
)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds of alternating measurements.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "JSON file for the result; printed in any case.")

_MATRIX = 2_000  # side of the matrices of the yardstick
_STEPS = 200  # training steps in one timed call
_STEPS_OF_MANY_EVALUATIONS = 4  # the same for estimators that evaluate f hundreds of times
_MOST_EVALUATIONS = 1_000  # of f for one gradient; they are in memory together
_IMAGES = 40  # images in one timed evaluation
_CONVOLUTIONAL = "configs/semisup.py"
# Unlabelled and labelled images in a step: those of configs/sweeps/table2_cpu.py, and its own.
_CONVOLUTION_BATCHES = ((20, 10), (100, 100))
# Unlabelled images in one timed call; and in one of jax's own convolutions, which are slow.
_CONVOLUTION_IMAGES, _PLAIN_IMAGES = 2_000, 200
_SWEPT, _MODELS = "configs/cat_vae.py", (2, 8, 32)  # of the sweep: the config, numbers of runs
_SIZES = {  # of the scaling: each field around the value of the config
    "batch_size": (25, 50, 100, 200, 400),
    "model.num_latents": (10, 20, 40, 80),
    "model.num_classes": (5, 10, 20, 40),
    "evaluation.test_samples": (125, 250, 500, 1000),
}


def products(jaxpr: jax.extend.core.Jaxpr, times: int = 1) -> Iterator[tuple[Any, int]]:
    """The matrix products of a jaxpr, each with the number of times that its loops do it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation, times
        length = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from products(inner, times * length)


def product_flops(jaxpr: jax.extend.core.Jaxpr) -> int:
    """Floating-point operations of all matrix products of a jaxpr, loops counted in full."""
    total = 0
    for equation, times in products(jaxpr):
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        outputs = math.prod(equation.outvars[0].aval.shape)
        total += times * 2 * outputs * math.prod(left[axis] for axis in contracted)
    return total


def flops_of(function: Callable, *arguments: Any) -> int:
    """Operations in the matrix products of one call."""
    return product_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def calls_of(
    experiment: loop.Experiment, steps: int = _STEPS
) -> dict[str, tuple[Callable[[], Any], int]]:
    """Training and evaluation as calls without arguments, each with its product operations."""
    program, task = experiment.program, experiment.task
    state = training.init_state(program, random.key(0))
    test = task.held_out["test"]
    images = test.examples[:_IMAGES]
    measure = test.metrics["nll"].measure

    def train(state):
        return training.run_interval(program, steps, task.train, experiment.settings, state)

    @jax.jit
    def evaluate(params):
        # As many examples at once as experiments.running.evaluation takes of 1,000 samples each.
        return map_examples(functools.partial(measure, params), random.key(1), images, 2)

    return {
        "train": (lambda: train(state), flops_of(train, state)),
        "evaluate": (lambda: evaluate(state.params), flops_of(evaluate, state.params)),
    }


def products_alone(experiment: loop.Experiment, steps: int) -> Callable[[], Any]:
    """A call that does the matrix products of so many training steps, and nothing else."""
    program, task = experiment.program, experiment.task
    state = training.init_state(program, random.key(0))
    step = functools.partial(training.train_step, program)
    found = products(jax.make_jaxpr(step)(task.train, experiment.settings, state).jaxpr)
    of_step = [
        (e, [random.normal(random.key(3), v.aval.shape) for v in e.invars]) for e, _ in found
    ]

    def body(scale, _):
        for equation, (left, right) in of_step:
            # A factor that changes keeps the product in the loop; the barrier keeps all of it.
            product = equation.primitive.bind(scale * left, right, **equation.params)
            product = lax.optimization_barrier(product)
            scale = scale + 1e-30 * product.reshape(-1)[0]
        return scale, None

    return jax.jit(lambda: lax.scan(body, jnp.float32(1), length=steps)[0])


def bench_twins(path: str, dataset: data.Dataset, rounds: int) -> dict[str, Any]:
    """Steps and images per second of a config and of its model in PyTorch, in turn."""
    from scripts import bench_torch

    config = configuration.check(configuration.load(path))
    experiment = loop.build(config, dataset)
    calls = calls_of(experiment)
    row: dict[str, Any] = {"config": path}
    for what, number, ours, limit, theirs in (
        (
            "steps_per_second", _STEPS, calls["train"][0],
            {"products alone": products_alone(experiment, _STEPS)},
            bench_torch.training_ways(config, _STEPS),
        ),
        (
            "images_per_second", _IMAGES, calls["evaluate"][0], {},
            bench_torch.bound_ways(config, _IMAGES),
        ),
    ):  # fmt: skip
        prefixed = {f"PyTorch, {name}": call for name, call in theirs.items()}
        seconds = interleaved({"gsm": ours} | limit | prefixed, rounds)
        speeds = {name: number / each for name, each in seconds.items()}
        best = max(speeds[name] for name in prefixed)
        row[what] = speeds
        row[f"{what}_relative_to_best_of_pytorch"] = speeds["gsm"] / best
    return row


def bench_config(path: str, dataset: data.Dataset, rounds: int) -> dict[str, float | str]:
    """One row of the table: a config's speeds and utilisations."""
    experiment = loop.build(configuration.check(configuration.load(path)), dataset)
    matrix = random.normal(random.key(2), (_MATRIX, _MATRIX))
    product = jax.jit(jnp.matmul)
    calls = calls_of(experiment)
    seconds = interleaved(
        {"product": lambda: product(matrix, matrix)} | {n: call for n, (call, _) in calls.items()},
        rounds,
    )
    peak = 2 * _MATRIX**3 / seconds["product"]
    return {
        "config": path,
        "steps_per_second": _STEPS / seconds["train"],
        "train_utilisation": calls["train"][1] / seconds["train"] / peak,
        "images_per_second": _IMAGES / seconds["evaluate"],
        "evaluate_utilisation": calls["evaluate"][1] / seconds["evaluate"] / peak,
        "product_gflops": peak / 1e9,
    }


def bench_estimators(
    path: str, names: list[str], dataset: data.Dataset, rounds: int
) -> list[dict[str, float | str]]:
    """Training speed of each estimator on one config, as a ratio to Gumbel-Softmax."""
    config = configuration.load(path)
    n, k = config.model.num_latents, config.model.num_classes
    layers = config.model.get("num_layers", 1)
    calls, steps, evaluations = {}, {}, {}
    for name in dict.fromkeys(["gumbel_softmax", *names]):
        # What follows a layer of latents is its f, with an estimator of its own inside.
        times = ESTIMATORS[name].count_evaluations(n, k) ** layers
        if times > _MOST_EVALUATIONS:
            print(f"{name:<35}{times:>17,}   not measured")
            continue
        config.estimator = name
        experiment = loop.build(configuration.check(config), dataset)
        evaluations[name] = times
        steps[name] = _STEPS_OF_MANY_EVALUATIONS if times > 100 else _STEPS
        calls[name] = calls_of(experiment, steps[name])["train"][0]
    seconds = interleaved(calls, rounds)
    a_step = {name: seconds[name] / steps[name] for name in calls}
    return [
        {
            "config": path,
            "estimator": name,
            "evaluations": evaluations[name],
            "steps_per_second": 1 / a_step[name],
            "time_relative_to_gumbel_softmax": a_step[name] / a_step["gumbel_softmax"],
        }
        for name in calls
    ]


def _of_jax(convolve: Callable[..., Any]) -> Callable[..., Any]:
    """jax's convolution of several images as one of a single image."""

    def of_image(x, kernel, stride):
        layout = ("NHWC", "HWIO", "NHWC")
        return convolve(x[None], kernel, (stride, stride), "SAME", dimension_numbers=layout)[0]

    return of_image


def bench_convolutions(path: str, unlabelled: int, labelled: int, rounds: int) -> dict[str, float]:
    """Steps per second of a convolutional config: scanned, alone, and scanned with jax's own.

    And of the same step in PyTorch, where that is installed.
    """
    dataset = data.load("digits")  # it needs labels
    config = configuration.load(f"{path}:digits")
    config.batch_size, config.labels.batch_size = unlabelled, labelled
    steps, plain_steps = _CONVOLUTION_IMAGES // unlabelled, _PLAIN_IMAGES // unlabelled
    experiment = loop.build(configuration.check(config), dataset)
    program = experiment.program
    state = training.init_state(program, random.key(0))
    arguments = experiment.task.train, experiment.settings, state

    def scanned(program, steps):
        scan = functools.partial(training.run_interval.__wrapped__, program, steps)
        return jax.jit(scan).lower(*arguments)

    alone = jax.jit(functools.partial(training.train_step, program)).lower(*arguments)
    alone = alone.compile()
    ours = scanned(program, steps).compile()
    with mock.patch.multiple(
        convolutions,
        convolve=_of_jax(lax.conv_general_dilated),
        convolve_transposed=_of_jax(lax.conv_transpose),
    ):
        plain = program._replace(loss=lambda *a: program.loss(*a))
        plain = scanned(plain, plain_steps).compile()
    calls: dict[str, Callable[[], Any]] = {
        "scan": lambda: ours(*arguments),
        "alone": lambda: [alone(*arguments) for _ in range(steps)],
        "scan_of_jax_convolutions": lambda: plain(*arguments),
    }
    try:
        from scripts import bench_torch
    except ImportError:
        print("PyTorch is not installed (extra bench): its step is not measured")
    else:
        calls["pytorch"] = bench_torch.training_call(unlabelled, labelled, steps)
        compiled = bench_torch.training_call(unlabelled, labelled, steps, compiled=True)
        calls["pytorch_compiled"] = compiled
    steps_of = dict.fromkeys(calls, steps) | {"scan_of_jax_convolutions": plain_steps}
    return {name: steps_of[name] / seconds for name, seconds in interleaved(calls, rounds).items()}


def main() -> None:
    rounds = _ROUNDS.value
    result: dict[str, Any] = {"provenance": provenance()}
    for part in _PARTS.value:
        result[part] = _MEASURES[part](rounds)
        print()
    if _OUT.value:
        out = Path(_OUT.value)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, result)


def _configs(rounds: int) -> list[dict[str, float | str]]:
    print(f"{'config':<26}{'steps/s':>9}{'of peak':>9}{'images/s':>10}{'of peak':>9}{'GFLOP/s':>9}")
    rows = []
    for path in _CONFIGS.value:
        row = bench_config(path, bench_data.random_images(), rounds)
        rows.append(row)
        print(
            f"{row['config']:<26}{row['steps_per_second']:>9,.0f}{row['train_utilisation']:>9.0%}"
            f"{row['images_per_second']:>10,.0f}{row['evaluate_utilisation']:>9.0%}"
            f"{row['product_gflops']:>9,.0f}",
            flush=True,
        )
    return rows


def _estimators(rounds: int) -> list[dict[str, float | str]]:
    rows = []
    categorical = [name for name in _ESTIMATORS.value if name not in BERNOULLI_ONLY]
    bernoulli = [name for name in _ESTIMATORS.value if name in BERNOULLI_ONLY]
    for path, names in (
        ("configs/cat_vae.py", categorical), ("configs/bern_vae.py", bernoulli),
        ("configs/cat_sbn.py", categorical), ("configs/bern_sbn.py", bernoulli),
    ):  # fmt: skip
        if not names:
            continue
        print(
            f"{'estimator on ' + path:<35}{'evaluations of f':>17}{'steps/s':>9}"
            f"{'time to gumbel_softmax':>24}"
        )
        of_config = bench_estimators(path, names, bench_data.random_images(), rounds)
        rows += of_config
        for row in of_config:
            print(
                f"{row['estimator']:<35}{row['evaluations']:>17}{row['steps_per_second']:>9,.0f}"
                f"{row['time_relative_to_gumbel_softmax']:>24.2f}"
            )
    return rows


def _convolutions(rounds: int) -> list[dict[str, Any]]:
    rows = []
    for unlabelled, labelled in _CONVOLUTION_BATCHES:
        print(f"training steps/s of {_CONVOLUTIONAL}, {unlabelled} and {labelled} labelled images")
        speeds = bench_convolutions(_CONVOLUTIONAL, unlabelled, labelled, rounds)
        for name, speed in speeds.items():
            print(f"{name:<26}{speed:>9.2f}")
        rows.append({
            "config": _CONVOLUTIONAL,
            "batch_size": unlabelled,
            "labels.batch_size": labelled,
            "steps_per_second": speeds,
        })  # fmt: skip
    return rows


def _twins(rounds: int) -> list[dict[str, Any]]:
    rows = []
    for path in _CONFIGS.value:
        rows.append(bench_twins(path, bench_data.random_images(), rounds))
        print(path)
        for what in ("steps_per_second", "images_per_second"):
            ratio = rows[-1][f"{what}_relative_to_best_of_pytorch"]
            print(f"  {what}: {ratio:.2f} times the best of PyTorch")
            for name, speed in rows[-1][what].items():
                print(f"    {name:<36}{speed:>9,.0f}", flush=True)
    return rows


def _sweep(rounds: int) -> dict[str, Any]:
    print(f"seeds of {_SWEPT}, relative to one run on all cores")
    speeds = bench_sweep.measure(_SWEPT, _MODELS, rounds)
    print(bench_sweep.table(speeds))
    return {"config": _SWEPT, "model_steps_per_second": speeds}


def _scaling(rounds: int) -> list[dict[str, Any]]:
    """How time grows with each size, beside the sizes of the config: ``seconds ~ size ** p``."""
    rows = []
    for field, values in _SIZES.items():
        calls = {}
        for value in values:
            config = configuration.load(_SWEPT)
            with config.unlocked():
                config.update_from_flattened_dict({field: value})
            experiment = loop.build(configuration.check(config), bench_data.random_images())
            which = "evaluate" if field == "evaluation.test_samples" else "train"
            calls[value] = calls_of(experiment)[which][0]
        seconds = interleaved(calls, rounds)
        exponent = float(np.polyfit(np.log(values), np.log([seconds[v] for v in values]), 1)[0])
        rows.append({"field": field, "seconds": seconds, "exponent": exponent})
        relative = ", ".join(f"{v}: {seconds[v] / seconds[values[0]]:.2f}" for v in values)
        print(f"{field:<26} time ~ size ** {exponent:.2f}   ({relative})", flush=True)
    return rows


_MEASURES = {
    "configs": _configs, "estimators": _estimators, "convolutions": _convolutions, "sweep": _sweep,
    "twins": _twins, "startup": bench_startup.measure, "scaling": _scaling,
}  # fmt: skip


if __name__ == "__main__":
    command_line.run(main)
