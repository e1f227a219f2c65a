"""Train one model: ``python -m experiments.train --config=configs/cat_vae.py:binarized_mnist``.

The same command on the same folder resumes the run; a finished run shows its result.
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from experiments.running import command_line, loop
from experiments.running import config as configuration

_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; default: runs/CONFIG-DATASET-ESTIMATOR-HASH."
)


def default_workdir(config: ConfigDict, config_file: str) -> Path:
    """``runs/CONFIG-DATASET-ESTIMATOR-HASH``: the same command finds the same folder again."""
    dataset = [config.data.name] if "data" in config else []
    parts = Path(config_file).stem, *dataset, config.estimator, configuration.config_hash(config)
    return Path("runs") / "-".join(parts)


def main() -> None:
    config = configuration.check(_CONFIG.value)
    workdir = Path(_WORKDIR.value or default_workdir(config, command_line.config_file()))
    result = loop.train(config, workdir)
    for name, value in result.items():
        print(f"{name:>18}  {value:,.4g}" if isinstance(value, float) else f"{name:>18}  {value}")
    print(f"{'figures':>18}  {workdir / 'figures'}")


if __name__ == "__main__":
    command_line.run(main)
