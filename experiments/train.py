"""Train one model: ``python -m experiments.train --config=configs/cat_vae.py:binarized_mnist``.

The same command on the same folder goes on where it stopped; a finished run shows its result.
"""

import sys
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict

from experiments import config as configuration
from experiments import loop
from experiments.config import ConfigError
from experiments.console import say
from experiments.rundir import RunDirError
from gsm import data

_CONFIG = configuration.define_flag()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; default: runs/CONFIG-DATASET-ESTIMATOR-HASH."
)


def default_workdir(config: ConfigDict, config_file: str) -> Path:
    """``runs/CONFIG-DATASET-ESTIMATOR-HASH``: the same command finds the same folder again."""
    stem = Path(config_file).stem
    name = f"{stem}-{config.data.name}-{config.estimator}-{configuration.config_hash(config)}"
    return Path("runs") / name


def main(argv: list[str]) -> None:
    del argv
    configuration.quieten_libraries()
    try:
        config = configuration.check(_CONFIG.value)
        workdir = Path(_WORKDIR.value or default_workdir(config, configuration.config_file()))
        result = loop.train(config, workdir)
    except (ConfigError, data.DataError, RunDirError, OSError) as error:
        # Orbax leaves coroutines open over a damaged checkpoint; they would tell 300 lines at exit.
        sys.unraisablehook = lambda _: None
        sys.exit(f"error: {error}")
    except loop.Diverged as error:
        sys.exit(f"stopped: {error}")
    except loop.Interrupted as message:
        say(str(message))
        sys.exit(130)
    except KeyboardInterrupt:
        say("stopped at once; run the same command to go on from the last checkpoint")
        sys.exit(130)
    for name, value in result.items():
        print(f"{name:>18}  {value:,.4g}" if isinstance(value, float) else f"{name:>18}  {value}")
    print(f"{'figures':>18}  {workdir / 'figures'}")


if __name__ == "__main__":
    app.run(main, flags_parser=configuration.parse_flags)
