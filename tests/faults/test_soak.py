"""A run of a million steps: memory, open files, files on the disk and compilations stay flat."""

import os
from pathlib import Path

import jax.monitoring
import pytest

from experiments.running import config as configuration
from experiments.running import loop
from experiments.running.run_folder import Events
from tests.experiments.runs import ROOT

_ROWS = 1_000


def memory():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory from /proc")
def test_a_million_steps_leave_memory_files_and_compilations_flat(tmp_path, monkeypatch):
    compiled, looks = [], []

    def count(name, seconds, **_):
        if name.endswith("backend_compile_duration"):
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(count)

    def look(self, row):
        files = sum(len(names) for _, _, names in os.walk(tmp_path))  # some vanish meanwhile
        looks.append((memory(), len(os.listdir("/proc/self/fd")), files, len(compiled)))
        add(self, row)

    add = Events.add
    monkeypatch.setattr(Events, "add", look)
    config = configuration.load(f"{ROOT}/configs/polynomial.py")
    config.update_from_flattened_dict(
        {
            "num_steps": 1_000_000, "log_every": 1_000_000 // _ROWS, "eval_every": 10_000,
            "batch_size": 2, "model.num_units": 2, "estimator": "rloo",
        }
    )  # fmt: skip
    result = loop.train(configuration.check(config), tmp_path / "run")
    assert result["steps"] == 1_000_000
    assert len(looks) == _ROWS

    # After a tenth everything has happened once: rows, evaluations, checkpoints put away.
    before, after = looks[_ROWS // 10], looks[-1]
    names = ("bytes of memory", "open files", "files", "programs")
    print(*(f"{n}: {b:,} to {a:,}" for n, b, a in zip(names, before, after, strict=True)), sep="; ")
    assert after[0] - before[0] < 30e6
    assert after[1] <= before[1] + 2
    assert after[2] <= before[2] + 20  # of a checkpoint that is being written
    assert after[3] == before[3]
