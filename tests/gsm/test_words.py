"""Samplers over the random words themselves: exact counts, not draws.

A sampler turns each 32-bit word into a class, so the rate of a class is a number of words.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from gsm import distributions, estimators

ALL_WORDS = 2**32
# The ends of the range, where rare classes are drawn; between them nothing may change.
END = 2**13
ENDS = np.concatenate([np.arange(END), np.arange(ALL_WORDS - END, ALL_WORDS)]).astype(np.uint32)
MIDDLE = np.random.default_rng(0).integers(END, ALL_WORDS - END, 2**13).astype(np.uint32)


@pytest.fixture
def words_are(monkeypatch):
    """Let samplers find the given words where they ask for random ones."""

    def given(words):
        def random_bits(key, shape):
            return jnp.broadcast_to(jnp.asarray(words).reshape(shape or ()), shape)

        monkeypatch.setattr(distributions, "random_bits", random_bits)

    return given


# --- two classes


def two_classes(rare, probability):
    """Logits ``[2]`` of a pair whose class ``rare`` has a probability."""
    lead = np.log(probability) - np.log1p(-probability)
    return np.float32([lead, 0.0] if rare == 0 else [0.0, lead])


@pytest.mark.parametrize("probability", [1e-6, 1e-7, 6e-8, 1e-8])
def test_gumbel_max_draws_either_of_two_classes_at_its_rate(probability, words_are):
    counts = []
    for rare in (0, 1):
        for words in (MIDDLE, ENDS):
            words_are(words)
            logits = np.broadcast_to(two_classes(rare, probability), (len(words), 2))
            drawn = np.asarray(distributions.gumbel_max(random.key(0), jnp.asarray(logits)))
            assert (drawn.sum(axis=-1) == 1).all()
            count = int(drawn[:, rare].sum())
            if words is MIDDLE:
                assert count == 0
        counts.append(count)
    expected = probability * ALL_WORDS
    np.testing.assert_allclose(counts, expected, atol=0.51 + 1e-4 * expected)
    assert abs(counts[0] - counts[1]) <= 1


@pytest.mark.parametrize("probability", [1e-6, 1e-7, 6e-8, 1e-8])
def test_both_samples_of_disarm_draw_either_class_at_its_rate(probability, words_are):
    counts = []
    for rare in (0, 1):
        words_are(ENDS)
        logits = jnp.broadcast_to(two_classes(rare, probability), (len(ENDS), 2))

        def value(w, logits=logits):
            return estimators.disarm(random.key(0), logits, lambda z: jnp.sum(w * z))

        mean_of_the_pair = np.asarray(jax.grad(value)(jnp.zeros(logits.shape)))[:, rare]
        assert set(np.unique(mean_of_the_pair)) == {0, 0.5}  # never both at one word
        halves = mean_of_the_pair.reshape(2, END)  # each sample has its own end of the range
        counts += [int(np.sum(half > 0)) for half in halves]
    expected = probability * ALL_WORDS
    np.testing.assert_allclose(counts, expected, atol=0.51 + 1e-4 * expected)
    assert max(counts) - min(counts) <= 1


def test_logistic_noise_is_odd_in_the_word_and_reaches_as_far_to_both_sides(words_are):
    noise = []
    for words in (ENDS, ~ENDS):
        words_are(words)
        noise.append(np.asarray(distributions.logistic(random.key(0), words.shape)))
    np.testing.assert_allclose(noise[0], -noise[1], rtol=2.5e-7, atol=1.2e-7)  # 1 rounding
    assert noise[0].max() > 22.8


# --- inverse_cdf


def rows_of(k):
    """Rows of k classes: even, peaked, masked, with rare classes, and with one class alone."""
    generator = np.random.default_rng(k)
    rows = [np.zeros(k), generator.normal(size=k), 20 * generator.normal(size=k)]
    rare = np.zeros(k)
    rare[::2] = np.log(1e-8 * k)
    masked = generator.normal(size=k)
    masked[generator.random(k) < 0.3] = -np.inf
    masked[k // 2] = 0
    alone = np.full(k, -np.inf)
    alone[-1] = 3.0
    last_masked = np.append(np.zeros(k - 1), -np.inf if k > 1 else 0.0)
    return np.float32([*rows, rare, masked, alone, last_masked])


@pytest.mark.parametrize("k", [1, 2, 3, 10, 1_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_inverse_cdf_deals_every_word_to_one_class_that_is_possible(k, words_are):
    """The words at both ends of each class's interval, and of their gaps, are drawn as that class.

    Intervals that start where the one before them ends, and words in between that cannot change the
    outcome (a comparison with the start and one with the length), leave no word out.
    """
    rows = jnp.asarray(rows_of(k))
    probs = np.asarray(distributions.softmax(rows), np.float64)
    first, width, last = (
        np.asarray(x).astype(np.int64)
        for x in distributions.word_intervals(distributions.softmax(rows))
    )
    np.testing.assert_array_equal(first[:, 0], 0)
    np.testing.assert_array_equal(first[:, 1:], first[:, :-1] + width[:, :-1])
    assert (width[probs == 0] == 0).all()
    assert (ALL_WORDS - first[:, -1] - width[:, -1] == 1).all()  # goes where the last one goes
    np.testing.assert_array_equal(last, ALL_WORDS - 2)
    seen = probs >= 1e-8
    np.testing.assert_allclose(
        width[seen] / ALL_WORDS, probs[seen], rtol=1e-5, atol=2.5 / ALL_WORDS
    )

    generator = np.random.default_rng(0)
    for row, starts, lengths in zip(rows, first, width, strict=True):
        possible = np.flatnonzero(lengths)
        classes = generator.choice(possible, 50, replace=len(possible) < 50)
        classes = np.append(classes, [possible[0], possible[-1], possible[-1]])
        words = starts[classes] + (lengths[classes] - 1) * generator.integers(0, 2, len(classes))
        words[-3:] = 0, ALL_WORDS - 2, ALL_WORDS - 1
        words_are(np.uint32(words))
        logits = jnp.broadcast_to(row, (len(words), k))
        drawn = np.asarray(distributions.inverse_cdf(random.key(0), logits))
        assert (drawn.sum(axis=-1) == 1).all()
        np.testing.assert_array_equal(drawn.argmax(axis=-1), classes)
        drawn = distributions.inverse_cdf_classes(random.key(0), row, (len(words),))
        np.testing.assert_array_equal(drawn, classes)
