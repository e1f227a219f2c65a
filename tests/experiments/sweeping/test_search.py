"""A search proposes points by what validation said, and proposes the same ones again."""

import pytest

from experiments.running import config as configuration
from experiments.sweeping import search
from experiments.tasks.checks import ConfigError
from tests.experiments.runs import ROOT

pytest.importorskip("optuna", reason="the extra gsm-jax[search] is not installed")

POLYNOMIAL = f"{ROOT}/configs/polynomial.py"
SPACE = ("optimizer.learning_rate=1e-4:1.0:log", "batch_size=2:64", "estimator=rloo,reinmax")


def cost(point):
    """Least at a learning rate of 0.01 with reinmax."""
    rate = point.config.optimizer.learning_rate
    return abs(rate - 0.01) + (point.config.estimator == "rloo")


def proposed(trials, at_once, fails=()):
    config = configuration.load(POLYNOMIAL)
    asked = []

    def costs(batch):
        asked.append(len(batch))
        return [None if point.config.batch_size in fails else cost(point) for point in batch]

    space = search.space(SPACE, config)
    found = list(search.propose(space, {"config": POLYNOMIAL}, trials, at_once, costs))
    return found, asked


def test_proposals_are_valid_repeatable_and_drawn_to_the_best():
    found, asked = proposed(40, 4)
    assert asked == [4] * 10
    assert all(1e-4 <= point.config.optimizer.learning_rate <= 1 for point in found)
    assert all(2 <= point.config.batch_size <= 64 for point in found)
    assert {point.config.estimator for point in found} == {"rloo", "reinmax"}
    again, _ = proposed(40, 4)
    assert [point.hash for point in again] == [point.hash for point in found]
    longer, _ = proposed(44, 4)  # a longer search begins with the shorter one
    assert [point.hash for point in longer[: len(found)]] == [point.hash for point in found]
    first, last = found[:10], found[-10:]
    assert sum(map(cost, last)) < sum(map(cost, first)) / 2


def test_a_search_outlives_points_that_fail():
    found, asked = proposed(12, 3, fails=set(range(2, 40)))
    assert sum(asked) == 12
    assert any(point.config.batch_size < 40 for point in found)


def test_a_search_outlives_invalid_proposals_and_ends_if_there_are_no_others(capsys):
    config = configuration.load(POLYNOMIAL)

    def found(interval):
        space = search.space([interval], config)

        def costs(batch):
            return [point.config.temperature.floor for point in batch]

        return list(search.propose(space, {"config": POLYNOMIAL}, 12, 2, costs))

    valid = found("temperature.floor=0.1:2.0")  # the initial temperature is 1
    assert 0 < len(valid) < 12
    assert all(point.config.temperature.floor <= 1 for point in valid)
    reported = capsys.readouterr().err.count("not trained: config.temperature.floor must be at ")
    assert reported == 12 - len(valid)
    with pytest.raises(ConfigError, match="floor must be at most"):
        found("temperature.floor=2.0:3.0")


def test_a_field_is_searched_once():
    with pytest.raises(ConfigError, match="each field once; got batch_size again"):
        search.space(["batch_size=2:64", "batch_size=2,4"], configuration.load(POLYNOMIAL))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.rate=0:1", "no field"),
        ("optimizer.learning_rate=1:0.1", "LOW below HIGH"),
        ("optimizer.learning_rate=0:1:log", "LOW above 0"),
        ("optimizer.learning_rate=0.1:1:linear", "FIELD=LOW:HIGH"),
        ("estimator=a:b", "FIELD=LOW:HIGH"),
        ("batch_size=a:3", "must be a whole number"),
        ("optimizer.learning_rate=0.1:inf", "both finite"),
        ("optimizer.learning_rate=-inf:1", "both finite"),
        ("optimizer.learning_rate=nan:1", "both finite"),
    ],
)
def test_a_space_that_cannot_be_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        search.space([text], configuration.load(POLYNOMIAL))
