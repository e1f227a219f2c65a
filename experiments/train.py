"""Train one model: ``python -m experiments.train --config=configs/cat_vae.py:binarized_mnist``.

The same command on the same folder resumes the run; a finished run shows its result.
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from experiments.running import command_line, devices, loop
from experiments.running import config as configuration
from experiments.tasks.checks import ConfigError

_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; default: runs/CONFIG-DATASET-ESTIMATOR-HASH."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "For a run of several processes: HOST:PORT at which the first one listens, the same in all; "
    'or "auto", on a cluster that jax.distributed knows, such as SLURM.',
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 1, "Processes of the run.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", 0, "Number of this process.", lower_bound=0)


def default_workdir(config: ConfigDict, config_file: str) -> Path:
    """``runs/CONFIG-DATASET-ESTIMATOR-HASH``: the same command finds the same folder again."""
    dataset = [config.data.name] if "data" in config else []
    parts = Path(config_file).stem, *dataset, config.estimator, configuration.config_hash(config)
    return Path("runs") / "-".join(parts)


def main() -> None:
    config = configuration.check(_CONFIG.value)
    number, own = _NUM_PROCESSES.value, _PROCESS_ID.value
    if own >= number:
        raise ConfigError(f"--process_id must be below --num_processes, {number}; got {own}")
    if number > 1 and not _COORDINATOR.value:
        raise ConfigError("--num_processes needs --coordinator=HOST:PORT, the same in all")
    if _COORDINATOR.value:
        devices.start(_COORDINATOR.value, number, own)
    workdir = Path(_WORKDIR.value or default_workdir(config, command_line.config_file()))
    result = loop.train(config, workdir)
    if not devices.is_first():
        return
    for name, value in result.items():
        if name == "maximize":  # which reports read
            continue
        print(f"{name:>18}  {value:,.4g}" if isinstance(value, float) else f"{name:>18}  {value}")
    print(f"{'figures':>18}  {workdir / 'figures'}")


if __name__ == "__main__":
    command_line.run(main)
