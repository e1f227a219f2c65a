"""The terminal: lines, what a wait is for, and the progress of what takes long."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10
_SECONDS_IN_SILENCE = 2


def say(text: str) -> None:
    """Print a line on standard error; standard output is left to the result."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say what is being done, if it takes more than two seconds."""
    timer = threading.Timer(_SECONDS_IN_SILENCE, say, (f"{what} ...",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


loading = contextlib.ExitStack()
"""The wait of a command for its imports, closed when they are done."""


class Progress:
    """What is done, and the time left, with numbers that the caller chooses.

    A bar on a terminal; elsewhere a plain line every ten seconds, and one at the end.

    Args:
      done: units done already.
      total: units in all.
      unit: name of one.
      every: seconds between two plain lines.
    """

    def __init__(
        self, done: int, total: int, unit: str = "step", every: float = _SECONDS_BETWEEN_LINES
    ):
        self._total, self._unit, self._every = total, unit, every
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=unit,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        self._started = (done, time.monotonic())
        self._has_speed = False
        self._last_line = float("-inf")

    def show(self, done: int, numbers: Mapping[str, str], speed: float | None = None) -> None:
        """Move to so many units done.

        Args:
          done: units.
          numbers: what is shown beside, by name.
          speed: units per second, where the caller has measured it. The time until the first one,
            without it that of the first unit, counts as preparation: programs are compiled.
        """
        now = time.monotonic()
        if not self._has_speed and (speed is not None or done > self._started[0]):
            self._started, self._has_speed = (done, now), True
        if not self._bar.disable:
            self._bar.set_postfix(numbers, refresh=False)
            self._bar.update(done - self._bar.n)
        elif now - self._last_line > self._every or done == self._total:
            self._last_line = now
            units, seconds = done - self._started[0], now - self._started[1]
            rate = units / seconds if units and seconds else speed
            parts = [f"{name} {value}" for name, value in numbers.items()]
            if speed is not None:
                parts.append(f"{speed:,.0f} {self._unit}s/s")
            if rate:
                left = tqdm.format_interval((self._total - done) / rate)
                parts.append(f"{left} left")
            say("  ".join([f"{self._unit} {done:,}/{self._total:,}", *parts]))

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
