"""Real commands, ended by signals at random moments of every phase, and resumed by the same ones.

What the last process leaves must be equal to what an uninterrupted run leaves, bit for bit: result,
rows of metrics, names of figures.
"""

import concurrent.futures
import functools
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.experiments.runs import ROOT, result_of, rows_of, without_times
from tests.faults.outcomes import Case, Outcome

SECONDS = 5.0
"""Within which a signal is answered: of the clock, or, on a machine that is busy with other work,
of the process's own time."""
_HANG = 120.0
"""Seconds of the clock after which a process is given up, whatever it has used."""

_AT_ONCE = 4

COMMANDS: dict[str, tuple[str, ...]] = {
    "classifier": (
        "--config=tests/faults/classifier.py", "--config.num_steps=4000", "--config.eval_every=500",
        "--config.log_every=100",
    ),
    "cat_vae": (
        "--config=configs/cat_vae.py:digits", "--config.model.num_latents=3",
        "--config.num_steps=600", "--config.eval_every=200", "--config.log_every=20",
        "--config.evaluation.valid_samples=2", "--config.evaluation.test_samples=20",
    ),
}  # fmt: skip
START, TRAINING, END = "start-up", "training", "test and figures"
_PHASES = (START, TRAINING, END)


class _Run:
    """One process of ``experiments.train``."""

    def __init__(self, command: str, workdir: Path):
        self.workdir, self._log = workdir, workdir.with_name(f"{workdir.name}.log")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "experiments.train", *COMMANDS[command],
                 f"--workdir={workdir}"],
                cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        self._rows = len(_lines(workdir))

    def reaches(self, phase: str, last: int, seconds: float = 300) -> bool:
        """Wait for the beginning of a phase; False if the process ended before."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            lines = _lines(self.workdir)
            if (
                phase == START
                or (phase == TRAINING and (self.workdir / ".lock").exists())
                or (phase == END and f'"step": {last},' in "".join(lines[-1:]))
            ):
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.01)
        return False

    def told(self) -> str:
        return self._log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> tuple[Outcome, str]:
        """Send a signal, wait for the end, and judge it."""
        before, start = self._cpu(), time.monotonic()
        self.process.send_signal(number)
        used = 0.0
        while self.process.poll() is None:
            used = max(used, self._cpu() - before)
            if time.monotonic() - start > _HANG:
                break
            time.sleep(0.02)
        seconds, code = time.monotonic() - start, self.process.poll()
        if code is None or min(seconds, used) > SECONDS:
            self.process.kill()
            self.process.wait()
            return Outcome.HANG, f"{seconds:.1f} s after the signal, {used:.1f} s of its own time"
        if "Traceback" in self.told() or "Exception ignored" in self.told():
            return Outcome.TRACEBACK, self.told()[-500:]
        if code not in (0, 130, -number):
            return Outcome.WRONG, f"exit status {code}: {self.told()[-500:]}"
        return Outcome.HELD, ""

    def _cpu(self) -> float:
        """Seconds of all its threads."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ended(self, seconds: float = 600) -> int:
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()


def _lines(workdir: Path) -> list[str]:
    try:
        return (workdir / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return []


class _Unbroken(NamedTuple):
    """An uninterrupted run: what it leaves, and how long its phases take."""

    outcome: object
    last: int
    seconds: dict[str, float]


def _outcome(workdir: Path) -> object:
    figures = sorted(path.name for path in (workdir / "figures").iterdir())
    return without_times(result_of(workdir)), [without_times(r) for r in rows_of(workdir)], figures


def _unbroken(command: str, folder: Path) -> _Unbroken:
    option = next(o for o in COMMANDS[command] if o.startswith("--config.num_steps="))
    last = int(option.partition("=")[2])
    moments = [time.monotonic()]
    run = _Run(command, folder / f"{command}-unbroken")
    for phase in (TRAINING, END):
        assert run.reaches(phase, last), run.told()
        moments.append(time.monotonic())
    assert run.ended() == 0, run.told()
    moments.append(time.monotonic())
    lengths = [after - before for before, after in itertools.pairwise(moments)]
    return _Unbroken(_outcome(run.workdir), last, dict(zip(_PHASES, lengths, strict=True)))


def campaign(numbers: dict[signal.Signals, int], folder: Path) -> Iterator[Case]:
    """Runs that are ended up to three times each, in phases in turn, before they may end.

    Args:
      numbers: how often to send each signal.
      folder: for the runs.
    """
    signals = [number for number, times in numbers.items() for _ in range(times)]
    random.Random(0).shuffle(signals)
    each = [signals[i : i + len(_PHASES)] for i in range(0, len(signals), len(_PHASES))]
    # The larger one in every fourth run: the phases are the same.
    commands = ["cat_vae" if i % 4 == 1 else "classifier" for i in range(len(each))]
    unbroken = {command: _unbroken(command, folder) for command in dict.fromkeys(commands)}
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        broken = functools.partial(_broken, folder, unbroken)
        for cases in pool.map(broken, range(len(each)), commands, each):
            yield from cases


def _broken(
    folder: Path,
    unbroken_of: dict[str, _Unbroken],
    number_of_run: int,
    command: str,
    signals: Sequence[signal.Signals],
) -> list[Case]:
    """A run that is ended by some signals before it may end; all of them answer for its result."""
    chance, ends = random.Random(number_of_run), []
    workdir, unbroken = folder / f"{number_of_run}", unbroken_of[command]
    for phase, number in zip(_PHASES, signals, strict=False):
        run = _Run(command, workdir)
        if run.reaches(phase, unbroken.last):
            time.sleep(chance.uniform(0, unbroken.seconds[phase]))
        outcome, detail = run.signal(number)
        ends.append(Case(f"{number.name}", f"{phase}", outcome, detail))
    run = _Run(command, workdir)
    wrong = ""
    if code := run.ended():
        wrong = f"the last process ended with {code}: {run.told()[-500:]}"
    elif _outcome(workdir) != unbroken.outcome:
        wrong = f"{workdir}: another outcome than that of the uninterrupted run"
    return [
        case._replace(outcome=Outcome.WRONG, detail=wrong)
        if wrong and case.outcome is Outcome.HELD
        else case
        for case in ends
    ]
