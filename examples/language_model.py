"""Tokens chosen for a language model: RLOO against straight-through Gumbel-Softmax.

    python examples/language_model.py

A small language model learns sequences that step through eight symbols by two numbers in turn,
which a prompt of two tokens names. Then it is frozen, and the prompt is searched for that makes a
given text likely: two categorical variables over eight tokens. RLOO sees the model as a black box
of one-hot prompts; the straight-through sampler uses its derivative.
"""

import jax
import jax.numpy as jnp
import optax

import gsm

VOCABULARY, HIDDEN = 8, 64
TURNS = jnp.arange(11) % 2  # which number of the prompt each step of a text adds


def text(prompt, first):
    """The sequence ``[12]`` of a prompt of two numbers: they are added in turn, modulo 8."""
    return (first + jnp.append(0, jnp.cumsum(prompt[TURNS]))) % VOCABULARY


def log_likelihood(params, prompt, tokens):
    """Log-probability of tokens ``[12]`` given a prompt ``[2, 8]``, one-hot or not, in nats."""
    read = jax.nn.one_hot(tokens[:-1], VOCABULARY) @ params["token"]
    logits = jax.nn.relu(read + (prompt @ params["prompt"])[TURNS]) @ params["output"]
    return -optax.softmax_cross_entropy_with_integer_labels(logits, tokens[1:]).sum()


def descend(loss, params, num_steps, learning_rate):
    """Adam's descent on ``loss(params, key)``."""
    optimizer = optax.adam(learning_rate)

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), num_steps)
    return jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0])()


def train(num_steps: int):
    """The parameters of the language model."""

    def loss(params, key):
        numbers = jax.random.randint(key, (64, 3), 0, VOCABULARY)
        texts = jax.vmap(text)(numbers[:, :2], numbers[:, 2])
        prompts = jax.nn.one_hot(numbers[:, :2], VOCABULARY)
        return -jax.vmap(log_likelihood, (None, 0, 0))(params, prompts, texts).mean()

    draw = 0.3 * jax.random.normal(jax.random.key(1), (3, VOCABULARY, HIDDEN))
    params = {"token": draw[0], "prompt": draw[1], "output": draw[2].T}
    return descend(loss, params, num_steps, 0.01)


def search(params, estimator, tokens, num_steps: int):
    """Logits ``[2, 8]`` of the prompt after descent on the expected negative log-likelihood."""

    def loss(logits, key):
        return estimator(key, logits, lambda z: -log_likelihood(params, z, tokens))

    return descend(loss, jnp.zeros((2, VOCABULARY)), num_steps, 0.1)


ESTIMATORS = {
    "RLOO": gsm.rloo,
    "ST Gumbel-Softmax": lambda key, logits, f: f(gsm.st_gumbel_softmax(key, logits)),
}

if __name__ == "__main__":
    params, prompt = train(1_000), jnp.array([3, 6])
    for name, estimator in ESTIMATORS.items():
        logits = search(params, estimator, text(prompt, 1), 200)
        right = jax.nn.softmax(logits)[jnp.arange(2), prompt].prod()
        print(f"{name}: prompt {logits.argmax(axis=-1).tolist()}; the right one has {right:.3f}")
