"""``experiments.load``: what a trained model computes is what its task computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax import random

import experiments
from experiments import data
from experiments.running import config as configuration
from experiments.running import loop, trained
from experiments.storage.errors import RecordError
from experiments.tasks import sbn, semisupervised, vae
from experiments.tasks.checks import ConfigError
from scripts.publish import publish
from tests.experiments.runs import ROOT, small

SHORT = {"num_steps": 2, "eval_every": 2, "log_every": 2, "evaluation.test_samples": 1}


@pytest.fixture(scope="module")
def images():
    """Binary test images of digits, [6, 784]."""
    return jnp.asarray(data.load("digits").test.images[:6] > 127, jnp.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a short run of a configuration, trained once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "run"
            loop.train(small(name, **SHORT), made[name])
        return made[name]

    return of


def each(function, *inputs):
    """A task's function of one example over leading axes."""
    return np.asarray(jax.jit(jax.vmap(function))(*inputs))


def test_a_vae_encodes_decodes_and_samples_as_its_task_does(folder, images):
    run = experiments.load(str(folder("cat_vae")))
    experiment, params = loop.trained(folder("cat_vae"))
    assert run.config == experiment.config
    assert jax.tree.all(jax.tree.map(np.array_equal, run.params, params))
    model, model_params = vae.network(run.config, run.constants["mean_image"]), params["model"]

    logits = run.encode(images)
    probabilities = each(lambda x: vae.posterior(model, model_params, x), images)
    np.testing.assert_allclose(jax.nn.softmax(logits), probabilities, rtol=1e-5)
    np.testing.assert_allclose(run.encode(images[0]), logits[0], rtol=1e-5)
    np.testing.assert_allclose(run.encode(images.reshape(2, 3, 784))[1, 2], logits[5], rtol=1e-5)

    keys = random.split(random.key(1), 6)
    z = jax.vmap(lambda key, x: vae.distributions.inverse_cdf(key, x))(keys, logits)
    decoded = each(
        lambda key, x: vae.reconstruct(model, model_params, key, x), random.clone(keys), images
    )
    np.testing.assert_allclose(run.decode(z), decoded, rtol=1e-4)

    drawn = each(lambda key: vae.generate(model, model_params, key), random.split(random.key(2), 5))
    np.testing.assert_allclose(run.sample(random.key(2), 5), drawn, rtol=1e-5)
    assert len(np.unique(drawn, axis=0)) == 5


@pytest.mark.slow
def test_a_structured_network_predicts_lower_halves_of_upper_ones(folder, images):
    run = experiments.load(folder("cat_sbn"))
    model = sbn.network(run.config, run.constants["mean_image"])
    upper = images[:, :392]
    keys = random.split(random.key(1), 4)
    logits = each(
        lambda key: sbn.predict_logits(model, run.params["model"], key, upper[0], 1)[0], keys
    )
    drawn = run.sample(random.key(1), 4, upper[0])
    np.testing.assert_allclose(drawn, jax.nn.sigmoid(logits), rtol=1e-5)
    assert run.encode(upper).shape == (6, 3, 10)
    z = jnp.eye(10)[jnp.zeros((3,), int)]
    assert run.decode(z).shape == (392,)
    takes = r"this model takes sample\(key, n, x\) with x of shape \(392,\)"
    with pytest.raises(ValueError, match=f"{takes}$"):
        run.sample(random.key(1))
    with pytest.raises(ValueError, match=rf"{takes}; got x of shape \(6, 392\)$"):
        run.sample(random.key(1), 6, upper)


@pytest.mark.slow
def test_a_classifier_and_its_styles(images):
    """Classes, latents and images of the networks themselves; without training them."""
    config = small("semisup", **{"model.num_latents": 1})
    mean_image = np.full((28, 28), 0.1)
    model = semisupervised.network(config, mean_image)
    params = jax.jit(model.init)(random.key(0), images[0])["params"]
    run = trained.Trained("own", config, {"model": params}, {"mean_image": mean_image})
    probabilities = each(lambda x: semisupervised.classify(model, params, x), images)
    np.testing.assert_allclose(run.classify(images), probabilities, rtol=1e-5)
    assert run.image_shape == (28, 28)

    latents = run.encode(images)
    np.testing.assert_allclose(jax.nn.softmax(latents["class"])[:, 0], probabilities, rtol=1e-5)
    y = jax.nn.one_hot(probabilities.argmax(axis=1), 10)[:, None]
    net = model.bind({"params": params})
    style = each(lambda x, y: net.encode(x, y)[0], images, y)
    np.testing.assert_allclose(latents["style"], style, rtol=1e-4, atol=1e-5)
    decoded = run.decode({"class": y, "style": style})
    expected = each(lambda y, z: semisupervised.generate(model, params, y, z), y, style)
    np.testing.assert_allclose(decoded, expected, rtol=1e-5)
    assert len(np.unique(run.sample(random.key(0), 3), axis=0)) == 3
    with pytest.raises(ValueError, match=r"^own: decode takes arrays of shape {'class': .* got"):
        run.decode({"class": y, "style": style[:2]})


def test_a_published_model_is_that_of_the_run_without_its_data(
    folder, images, tmp_path, monkeypatch
):
    kept = tmp_path / "kept"
    publish(folder("cat_vae"), kept)
    run = experiments.load(folder("cat_vae"))
    monkeypatch.setattr(data, "load", None)
    model = experiments.load(kept)
    assert "estimator" not in model.params  # which no function reads
    assert model.config == run.config
    z = jax.nn.softmax(run.encode(images))
    for name, value in (("encode", images), ("decode", z)):
        found, expected = (getattr(one, name)(value) for one in (model, run))
        np.testing.assert_array_equal(found, expected)
    for one, other in (model, run), (run, model):
        found, expected = one.sample(random.key(3), 2), other.sample(random.key(3), 2)
        np.testing.assert_array_equal(found, expected)


def test_what_is_published_is_what_the_named_functions_read(folder, tmp_path):
    run = experiments.load(folder("cat_vae"))
    kept = tmp_path / "kept"
    publish(folder("cat_vae"), kept, ["encode"])
    assert "Functions: `encode`; " in (kept / "README.md").read_text()
    names = set(safetensors.numpy.load_file(kept / trained.FILE))
    assert {name for name in names if "encoder" not in name} == {"constants/mean_image"}
    assert len(names) == 3
    model = experiments.load(kept)
    with pytest.raises(ConfigError, match=r"task vae has no function decode; it has encode$"):
        model.decode(jnp.zeros((3, 10)))
    with pytest.raises(ConfigError, match="has no function classify; it has encode, decode, sampl"):
        trained.save(run, tmp_path / "none", ["classify"])


def test_inputs_and_folders_that_cannot_serve_are_reported_in_one_line(folder, tmp_path):
    run = experiments.load(folder("cat_vae"))
    with pytest.raises(ConfigError, match="has no function classify; it has encode, decode, sampl"):
        run.classify(jnp.zeros(784))
    for value in (np.zeros((5, 785)), np.zeros(()), "text", None):
        with pytest.raises(ValueError, match=r"encode takes arrays of shape \[..., 784\]; got"):
            run.encode(value)
    with pytest.raises(ValueError, match=r"takes sample\(key, n\); got x of shape \(392,\)$"):
        run.sample(random.key(0), 2, jnp.zeros(392))
    with pytest.raises(RecordError, match=r"is not the folder of a run: it has no config\.json"):
        experiments.load(tmp_path)
    kept = tmp_path / "kept"
    publish(folder("cat_vae"), kept)
    whole = (kept / trained.FILE).read_bytes()
    for content in (b"", whole[:-1], whole[:100], b"\xff" * 100):
        (kept / trained.FILE).write_bytes(content)
        with pytest.raises(RecordError, match=r"model\.safetensors is damaged: "):
            experiments.load(kept)
    (kept / "run.json").write_text("{}")
    with pytest.raises(RecordError, match=r"run\.json: field 'config': expected an object"):
        experiments.load(kept)


def test_a_task_without_functions_says_so():
    config = configuration.check(configuration.load(f"{ROOT}/configs/polynomial.py"))
    run = trained.Trained("own", config, {}, {})
    with pytest.raises(ConfigError, match=r"^own: .* polynomial has no function sample; it has no"):
        run.sample(random.key(0))
    with pytest.raises(ConfigError, match=r"^own: the task polynomial has no images"):
        run.image_shape  # noqa: B018
