"""Training and evaluation lower for accelerators: nothing in them is for CPUs alone."""

import functools

import jax
import pytest
from jax import export, random

from experiments.running import config as configuration
from experiments.running import loop, training
from tests.experiments.runs import ROOT

_PLATFORMS = ("cuda", "tpu")


def slow(name):
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["cat_vae", slow("cat_sbn"), slow("bern_vae"), slow("semisup")])
def test_an_interval_and_the_metrics_lower_for_accelerators(name):
    config = configuration.load(f"{ROOT}/configs/{name}.py:digits")
    config.update_from_flattened_dict({"evaluation.test_samples": 4, "batch_size": 20})
    config = configuration.check(config)
    experiment = loop.build(config, loop.load_dataset(config))
    program, train = experiment.program, experiment.task.train
    state = jax.eval_shape(functools.partial(training.init_state, program), random.key(0))

    def interval(key_data, rest):
        state = training.TrainState(**rest, key=random.wrap_key_data(key_data))
        after, losses = training.run_interval(program, 2, train, experiment.settings, state)
        return after.params, losses

    rest = {name: leaf for name, leaf in state._asdict().items() if name != "key"}
    key_data = jax.eval_shape(random.key_data, state.key)
    exported = export.export(jax.jit(interval), platforms=_PLATFORMS)(key_data, rest)
    assert exported.platforms == _PLATFORMS

    split = experiment.task.held_out["test"]
    for metric in split.metrics.values():

        def measure(params, key_data, example, metric=metric):
            return metric.measure(params, random.wrap_key_data(key_data), example)

        example = jax.tree.map(lambda x: x[0], split.examples)
        exported = export.export(jax.jit(measure), platforms=_PLATFORMS)(
            state.params, key_data, example
        )
        assert exported.platforms == _PLATFORMS
