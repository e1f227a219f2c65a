"""Ctrl-C and SIGTERM, answered by a thread of their own within a moment.

Python runs a signal's handler in the main thread, between two of its instructions: while XLA
compiles there, for many seconds, no handler runs, and what one raises inside a callback is lost.
So the handlers do nothing; a thread reads the signals from a pipe. Where a run has something to
save it asks for it, by :class:`StopRequest`; elsewhere the process ends at once.

Only the standard library is imported: commands install this before all else.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STATUS = 130

_requests: list["StopRequest"] = []
"""Those in force; the last one answers."""
_installed = False


def install() -> Callable[[], None]:
    """Answer signals by the thread from now on; returns a function that undoes it."""
    global _installed
    _installed = True
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    before: dict[int, Any] = {n: signal.signal(n, lambda *_: None) for n in _SIGNALS}
    signal.set_wakeup_fd(sink)
    threading.Thread(target=_listen, args=(source,), daemon=True).start()

    def undo() -> None:
        global _installed
        _installed = False
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(sink)  # which ends the thread

    return undo


def _listen(source: int) -> None:
    while content := os.read(source, 1):
        if content[0] in _SIGNALS:
            _answer()
    os.close(source)


def _answer() -> None:
    request = _requests[-1] if _requests else None
    if request is None or request.made or not request.unsaved:
        _say("stopped at once; what was saved is kept, and a run resumes from its last checkpoint")
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(_STATUS)
    _say(f"{request.answer} (once more to stop at once)")
    request.made = True


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class StopRequest:
    """While it is entered, the first signal sets ``made``, if there is something to save.

    Args:
      answer: what is said then.
      unsaved: whether there is something to save; may be set later.
    """

    def __init__(self, answer: str, unsaved: bool = False):
        self.made = False
        self.answer, self.unsaved = answer, unsaved
        self._undo: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        if not _installed:  # not in the process of a command
            self._undo = install()
        _requests.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _requests.remove(self)
        if self._undo is not None:
            self._undo()
