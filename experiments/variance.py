"""Bias, variance and cosine of every estimator's gradient, on a model as it trains.

    python -m experiments.variance --config=configs/small_vae.py:digits

trains the config's model with its own estimator, as ``experiments.train`` would, and stops at
``--steps``. There each estimator of ``--estimators`` estimates the gradient of one fixed minibatch
at many keys: at the temperature of the schedule, and at ``--temperatures`` if it has one to choose.
Learned parts (baselines, control variates) first learn for ``--adapt_steps`` steps of a standing
model. The reference is the exact gradient where the outcomes can be enumerated, else the mean of
many ``local_expectation`` estimates (``rloo`` through several layers), or of ``exact`` ones where
the loss draws more than the latents, as that of configs/semisup.py does. The rows and their 95 %
bands go to ``variance.csv``, figures beside it. On costs and losses of your own: ``gsm.compare``.
"""

import itertools
from pathlib import Path

import jax
from absl import flags
from jax import random

from experiments import figures
from experiments.running import command_line, loop, measuring, training
from experiments.running import config as configuration
from experiments.running.measuring import Row, Subject
from experiments.running.terminal import Progress, say, waiting
from experiments.tasks.checks import ConfigError
from gsm import diagnostics

_CONFIG = command_line.define_config()
_STEPS = flags.DEFINE_list("steps", ["0", "1000", "5000"], "Training steps to measure at.")
_ESTIMATORS = flags.DEFINE_list(
    "estimators", [], "Estimators to measure; default: all that serve the model."
)
_TEMPERATURES = flags.DEFINE_list(
    "temperatures", ["0.1", "0.2", "0.5", "1", "2"], "Beside that of the schedule."
)
_KEYS = flags.DEFINE_integer("keys", 1_000, "Estimates of each, a multiple of 40.", lower_bound=40)
_REFERENCE_KEYS = flags.DEFINE_integer(
    "reference_keys", 400, "Estimates in the reference, where there is no exact one.",
    lower_bound=20,
)  # fmt: skip
_ADAPT_STEPS = flags.DEFINE_integer(
    "adapt_steps", 1_000, "Steps in which learned parts adapt.", lower_bound=0
)
_IMAGES = flags.DEFINE_integer("images", 100, "In the minibatch measured.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "Folder; default: runs/variance-CONFIG-DATASET.")
command_line.define_quick(
    estimators=",".join(measuring.QUICK), steps="200", temperatures="0.5", keys=200,
    reference_keys=40, adapt_steps=100, images=20,
)  # fmt: skip


def main() -> None:
    config = configuration.check(_CONFIG.value)
    if config.get("objective", "elbo") != "elbo":
        raise ConfigError("variances are of the ELBO's gradient: leave config.objective=elbo")
    if _KEYS.value % diagnostics.NUM_BATCHES:
        raise ConfigError(
            f"--keys must be a multiple of {diagnostics.NUM_BATCHES}; got {_KEYS.value}"
        )
    steps = command_line.numbers(_STEPS, int, 0)
    temperatures = command_line.numbers(_TEMPERATURES, float, 1e-6)
    served = measuring.served(config, _ESTIMATORS.value)
    names = [name for name in served if name != "exact"]  # the reference
    of_dataset = f"-{config.data.name}" if "data" in config else ""
    stem = Path(command_line.config_file()).stem
    out = Path(_OUT.value or f"runs/variance-{stem}{of_dataset}")

    dataset = loop.load_dataset(config)
    with waiting(f"building {len(names)} estimators"):
        subjects = {name: Subject(config, name, dataset) for name in names}
        own = loop.build(config, dataset)
        state = training.init_state(own.program, random.key(config.seed))
    of_step = [len(measuring.points(one, temperatures)) for one in subjects.values()]
    progress = Progress(0, len(steps) * sum(of_step), "measurement")
    count = itertools.count(1)
    rows: list[Row] = []
    for step in steps:
        with waiting(f"training to step {step:,}"):
            state = measuring.advance(own, state, step)
        model = state.params["model"]
        size = len(jax.tree.leaves(own.task.train)[0])
        number = min(_IMAGES.value, size)
        chosen = random.choice(random.key(3), size, (number,), replace=False)
        stored = jax.tree.map(lambda x: x[chosen], own.task.train)  # noqa: B023
        batch = jax.vmap(own.task.prepare)(random.split(random.key(4), number), stored)
        with waiting("computing the reference"):
            truth = measuring.reference(
                config, dataset, model, batch, state.step, _REFERENCE_KEYS.value
            )
        for name, subject in subjects.items():
            with waiting(f"adapting what {name} learns"):
                subject.adapt(model, state.step, _ADAPT_STEPS.value)
        say(f"step {step:,}: measuring {len(subjects)} estimators")
        measured = measuring.measure(
            subjects, model, state.step, batch, temperatures, truth,
            key=random.fold_in(random.key(5), step), num_keys=_KEYS.value,
            done=lambda name: progress.show(next(count), {"last": name}),
        )  # fmt: skip
        rows += [{"step": step} | row for row in measured]
        measuring.write(out, "variance", rows, {"config": configuration.identity(config)})
    progress.close()
    with waiting("drawing"):
        figures.draw_variance(rows, out)
    print(out)


if __name__ == "__main__":
    command_line.run(main)
