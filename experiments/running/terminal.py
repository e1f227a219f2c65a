"""The terminal: lines, and the progress of a run."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10


def say(text: str) -> None:
    """Print a line on standard error; standard output is left to the result."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


class Progress:
    """Step, steps per second and time left, with numbers that the run chooses.

    A bar on a terminal; elsewhere a plain line every ten seconds, and one at the end.
    """

    def __init__(self, step: int, num_steps: int):
        self._num_steps = num_steps
        self._bar = tqdm(
            total=num_steps,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        # (step, time) of the first row: compilation does not count.
        self._started: tuple[int, float] | None = None
        self._last_line = float("-inf")

    def show(self, step: int, steps_per_second: float, numbers: Mapping[str, str]) -> None:
        """Move to a step."""
        now = time.monotonic()
        first_step, first_time = self._started = self._started or (step, now)
        if not self._bar.disable:
            self._bar.set_postfix(numbers, refresh=False)
            self._bar.update(step - self._bar.n)
        elif now - self._last_line > _SECONDS_BETWEEN_LINES or step == self._num_steps:
            self._last_line = now
            done, seconds = step - first_step, now - first_time
            left = (self._num_steps - step) * (seconds / done if done else 1 / steps_per_second)
            parts = "  ".join(f"{name} {value}" for name, value in numbers.items())
            say(
                f"step {step:,}/{self._num_steps:,}  {parts}  {steps_per_second:,.0f} steps/s  "
                f"{tqdm.format_interval(left)} left"
            )

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
