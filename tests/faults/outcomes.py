"""What becomes of a fault, as a user would see it, and how outcomes are counted."""

import collections
import contextlib
import enum
import io
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

from experiments.running import command_line

_LONGEST_LINE = 600
"""Characters: a longer message is not one line on anybody's screen."""


class Outcome(enum.StrEnum):
    """How it ended; the last three must not occur."""

    HELD = "held"
    REFUSED = "refused in one line"
    TRACEBACK = "traceback"
    HANG = "hang"
    WRONG = "wrong result"


WANTED = (Outcome.HELD, Outcome.REFUSED)


class Case(NamedTuple):
    """One fault and what became of it."""

    campaign: str
    fault: str
    outcome: Outcome
    detail: str = ""
    """The message, or what is wrong."""


class _Hang(BaseException):
    """The time is over; no ``except Exception`` takes it for an error."""


def judge(attempt: Callable[[], object], seconds: float = 300) -> tuple[Outcome, str]:
    """Do what a command does, in this process, and say how it ended.

    Args:
      attempt: returns what is wrong with the result, nothing (None or "") if it is right; or ends
        by ``sys.exit``, as commands do.
      seconds: after which it counts as a hang.

    Returns:
      The outcome, and the message or what is wrong.
    """
    hook = mock.patch.object(sys, "unraisablehook", sys.unraisablehook)
    start = time.monotonic()
    try:
        with hook, _limit(seconds), command_line.one_line_errors():
            wrong = attempt()
    except SystemExit as end:
        return of_exit(end.code)
    except _Hang:
        return Outcome.HANG, f"more than {seconds:g} s"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return (
            Outcome.TRACEBACK,
            f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})",
        )
    if time.monotonic() - start > seconds:
        return Outcome.HANG, f"more than {seconds:g} s"
    return (Outcome.WRONG, str(wrong)) if wrong else (Outcome.HELD, "")


def judge_quietly(attempt: Callable[[], object]) -> tuple[Outcome, str]:
    """Judge, with nothing printed; a traceback of another thread counts as one."""
    with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.redirect_stdout(None):
        outcome, detail = judge(attempt)
    if "Traceback" in told.getvalue():
        return Outcome.TRACEBACK, told.getvalue()[-600:]
    return outcome, detail


def of_exit(status: object) -> tuple[Outcome, str]:
    """The outcome of what a command passes to ``sys.exit``: a status, or its one line."""
    if not isinstance(status, str):
        return (Outcome.HELD, "") if not status else (Outcome.WRONG, f"exit status {status}")
    one_line = "error: " in status and "\n" not in status and len(status) < _LONGEST_LINE
    return (Outcome.REFUSED if one_line else Outcome.TRACEBACK), status


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def counts(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """A row for each kind of fault: campaign, fault, and the number of each outcome."""
    found: dict[tuple[str, str], collections.Counter] = {}
    for case in cases:
        found.setdefault((case.campaign, case.fault), collections.Counter())[case.outcome] += 1
    return [
        {"campaign": campaign, "fault": fault} | {str(outcome): of[outcome] for outcome in Outcome}
        for (campaign, fault), of in sorted(found.items())
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The counts as a Markdown table, with their sum."""
    total = {str(outcome): sum(row[outcome] for row in rows) for outcome in Outcome}
    heads = [f"{o}" if o in WANTED else f"{o} (wanted: 0)" for o in Outcome]
    lines = [f"| campaign | fault | number | {' | '.join(heads)} |", "|---|---|" + "---:|" * 6]
    for row in [*rows, {"campaign": "all", "fault": ""} | total]:
        numbers = [row[outcome] for outcome in Outcome]
        cells = " | ".join(f"{n:,}" for n in [sum(numbers), *numbers])
        lines.append(f"| {row['campaign']} | {row['fault']} | {cells} |")
    return "\n".join(lines)
