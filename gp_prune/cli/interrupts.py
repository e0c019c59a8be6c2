"""Ctrl-C that cannot get lost on its way through other people's code."""

from __future__ import annotations

import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS = 1.0
"""An interrupt that was not heard is repeated after so long."""


@contextmanager
def insistent_interrupts(seconds: float = SECONDS) -> Iterator[None]:
    """In the body, Ctrl-C raises KeyboardInterrupt again and again until it ends the body.

    An exception that a signal raises may come up anywhere, also where a library or a function of
    the user catches whatever comes (Python's copyreg does) or where Python drops exceptions (in
    finalizers). Raised once, it is lost there, and the program goes on. While the
    exception is on its way, none is raised that could disturb the cleaning up; another Ctrl-C of
    the user is raised at once.

    Where SIGINT is ignored or somebody handles it already, and outside the main thread, nothing
    is changed.

    Args:
        seconds: time between two repetitions.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    repeater = _Repeater(seconds)
    signal.signal(signal.SIGINT, repeater.interrupt)
    try:
        yield
    finally:
        repeater.leave()
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Repeater:
    """Sends the main thread, which makes it, an interrupt every so often, once there was one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._main = threading.get_ident()
        self._repeated = False
        self._leaving = False
        # Of all queues and events, this one alone may be used in a signal handler.
        self._interrupted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._repeat, name="interrupts", daemon=True)
        self._thread.start()

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT: raise KeyboardInterrupt, unless one that is repeated is on its way."""
        repeated, self._repeated = self._repeated, False
        if self._leaving:
            return
        self._interrupted.put(True)
        if not (repeated and _on_its_way()):
            raise KeyboardInterrupt

    def leave(self) -> None:
        """Repeat no more."""
        self._leaving = True
        self._interrupted.put(False)
        self._thread.join()

    def _repeat(self) -> None:
        going_on = self._interrupted.get()
        while going_on:
            try:
                going_on = self._interrupted.get(timeout=self._seconds)
            except queue.Empty:
                self._repeated = True
                if hasattr(signal, "pthread_kill"):
                    # A true signal: it also wakes a main thread that waits for a lock.
                    signal.pthread_kill(self._main, signal.SIGINT)
                else:
                    signal.raise_signal(signal.SIGINT)


def _on_its_way() -> bool:
    """Whether a KeyboardInterrupt is being handled, or something that came up meanwhile.

    A signal handler sees what the frame that it interrupted is handling.
    """
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
