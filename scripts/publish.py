"""Publish a trained model: a folder that may be committed and that ``experiments.load`` reads.

    python -m scripts.publish RUN DESTINATION [FUNCTION ...]

Writes ``model.safetensors`` (what the named functions read, default all), ``run.json`` (result,
configuration, provenance; scripts/collect.py) and ``README.md``, a card of the model.
"""

import sys
from pathlib import Path
from typing import Any

from experiments import tasks
from experiments.data import DataError
from experiments.running import trained
from experiments.storage.errors import RecordError
from experiments.storage.files import write_atomically, write_json
from experiments.tasks.checks import ConfigError
from scripts.collect import parts_of

_LICENCES = {
    "mnist": "MNIST (LeCun, Cortes and Burges), CC BY-SA 3.0",
    "binarized_mnist": (
        "the fixed binarisation of MNIST by Salakhutdinov and Murray (2008); MNIST (LeCun, Cortes "
        "and Burges) is under CC BY-SA 3.0"
    ),
    "fashion_mnist": "Fashion-MNIST (Xiao et al. 2017), MIT",
    "kmnist": "KMNIST (Clanuwat et al. 2018), CC BY-SA 4.0",
    "digits": "the digits of scikit-learn (Alpaydin and Kaynak 1998, UCI), CC BY 4.0",
}
_METRICS = {
    "nll": "negative bound on the log-likelihood with m = {samples} samples, nats; lower is better",
    "accuracy": "share of images that are classified correctly",
    "rate": "KL divergence of posterior and prior, nats",
    "marginal_nll": "negative bound with the class summed out, nats; lower is better",
}


_CARD = """# {name}

{what}

```python
import experiments

model = experiments.load("results/models/{name}")  # without the dataset, without training
```

Functions: {functions}; `experiments/running/trained.py` has their shapes.

| metric of the test set | value | |
|---|---|---|
{metrics}

* **Training**: `{command}`; {steps:,} steps with the estimator `{estimator}`, seed {seed}, \
on {device}. The parameters are those of step {selected_step:,}.
* **Networks**: {network}. All fields of the configuration are in `run.json`.
* **Data**: {data}; binarisation `{binarization}`{labels}. The model expects binary images of the \
same size, white on black.
* **Provenance**: commit `{git_commit}`, {time}; {versions}.
* **Licence**: MIT, as the code.
"""


def card(name: str, about: dict[str, Any], functions: list[str]) -> str:
    """The README of a published model.

    Args:
      name: of the folder.
      about: the content of ``run.json``.
      functions: those that the model has.
    """
    result, config, start = about["result"], about["config"], about["provenance"][-1]
    samples, labels = f"{config['evaluation.test_samples']:,}", config.get("labels.number")
    metrics = [
        f"| `{metric}` | {result[f'test/{metric}']:.4g} | {meaning.format(samples=samples)} |"
        for metric, meaning in _METRICS.items()
        if f"test/{metric}" in result and ("decode" in functions or metric == "accuracy")
    ]
    network = (
        f"`{field.removeprefix('model.')}` {value}"
        for field, value in config.items()
        if field.startswith("model.")
    )
    versions = (f"{package} {start[package]}" for package in ("python", "jax", "jaxlib", "flax"))
    return _CARD.format(
        **start | result | {"seed": config["seed"]},
        name=name,
        what=(tasks.find(config["task"]).__doc__ or "").partition("\n\n")[0],
        functions=", ".join(f"`{function}`" for function in functions),
        metrics="\n".join(metrics),
        network=", ".join(network),
        data=_LICENCES.get(config["data.name"], config["data.name"]),
        binarization=config["data.binarization"],
        labels=f"; {labels} of the training images have labels" if labels else "",
        versions=", ".join(versions),
    )


def publish(folder: Path, destination: Path, names: list[str] | None = None) -> None:
    """Publish the model of a finished run.

    Raises:
      RecordError, DataError: the run is not finished, or a file or the data cannot be read.
      ConfigError: the model has no function of a given name, or none at all.
    """
    about, model = parts_of(folder), trained.load(folder)
    names = names or list(model.functions)
    destination.mkdir(parents=True, exist_ok=True)
    trained.save(model, destination / trained.FILE, names)
    (destination / trained.FILE).chmod(0o644)  # safetensors leaves it to the owner alone
    write_json(destination / "run.json", about)
    write_atomically(destination / "README.md", card(destination.name, about, names))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m scripts.publish RUN DESTINATION [FUNCTION ...]")
    try:
        publish(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    except (RecordError, ConfigError, DataError) as error:
        sys.exit(f"error: {error}")
