"""Seconds from the command to its first steps, and its memory. A part of ``scripts.bench``."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_OPTIONS = (
    "--config=configs/cat_vae.py:digits", "--config.num_steps=500", "--config.eval_every=500",
)  # fmt: skip


def measure(rounds: int) -> list[dict[str, Any]]:
    """Medians of the training command, with nothing compiled before and with a compilation cache.

    A row has the seconds until the first line with a step is printed (250 steps done, nothing
    evaluated), those until the command has ended, and the most memory that it held, in MB.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, cache in (("cold", None), ("warm compilation cache", f"{folder}/cache")):
            if cache:
                _run(Path(folder, "first"), cache)
            measured = [_run(Path(folder, f"{name}{i}"), cache) for i in range(rounds)]
            row = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
            rows.append({"start": name, **row})
            print(
                f"{name:<24}first steps after {row['first_steps_seconds']:.1f} s, end after "
                f"{row['seconds']:.1f} s, {row['memory_mb']:,.0f} MB",
                flush=True,
            )
    return rows


def _run(workdir: Path, cache: str | None) -> dict[str, float]:
    """One command. With a cache it keeps every program, as a sweep's runs do in their folder."""
    variables = {name: v for name, v in os.environ.items() if "COMPILATION_CACHE" not in name}
    if cache:
        # jaxlib logs 3,000 characters for each program from the cache.
        variables |= {"JAX_COMPILATION_CACHE_DIR": cache, "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *_OPTIONS, f"--workdir={workdir}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=variables,
    )  # fmt: skip
    first = None
    for line in process.stderr or ():
        if first is None and line.startswith("step "):
            first = time.perf_counter() - start
    _, status, usage = os.wait4(process.pid, 0)
    if status or first is None:
        raise RuntimeError(f"the training command ended with status {status}")
    return {
        "first_steps_seconds": first,
        "seconds": time.perf_counter() - start,
        "memory_mb": usage.ru_maxrss / 1024,
    }
