"""Ctrl-C that cannot get lost on its way through other people's code."""

from __future__ import annotations

import queue
import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS = 1.0
"""Time between the loss of an interrupt and its repetition."""


@contextmanager
def insistent_interrupts(seconds: float = SECONDS) -> Iterator[None]:
    """In the body, Ctrl-C raises KeyboardInterrupt, and again where the exception got lost.

    An exception that a signal raises may come up anywhere, also where a library or a function of
    the user catches whatever comes (Python's copyreg does) or where Python drops exceptions (in
    finalizers). The program would go on. Nothing is repeated while the exception is on its way,
    so that no cleaning up is disturbed: as long as somebody handles it or keeps it.

    Where SIGINT is ignored or somebody handles it already, and outside the main thread, nothing
    is changed.

    Args:
        seconds: at most so long after its loss an interrupt is repeated.
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
        # Before any call, in which the next interrupt may come.
        repeater.leaving = True
        repeater.end()
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Interrupt(KeyboardInterrupt):
    """A KeyboardInterrupt that can be watched; those of Python cannot."""


class _Repeater:
    """Interrupts the main thread, which makes it, anew when the exception of an interrupt is gone.

    Attributes:
        leaving: whether interrupts have no effect any more.
    """

    def __init__(self, seconds: float) -> None:
        self.leaving = False
        self._seconds = seconds
        self._main = threading.get_ident()
        self._on_its_way = False
        # Of all queues and events, this one alone may be used in a signal handler.
        self._interrupted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._repeat, name="interrupts", daemon=True)
        self._thread.start()

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT: raise KeyboardInterrupt and watch it."""
        if self.leaving:
            return
        raised = _Interrupt()
        self._on_its_way = True
        # A callback: the other thread must not hold the exception, which holds all the frames.
        self._watched = weakref.ref(raised, self._lost)
        self._interrupted.put(True)
        try:
            raise raised
        finally:
            del raised  # or its traceback would keep it alive

    def end(self) -> None:
        """Repeat no more."""
        self._interrupted.put(False)
        self._thread.join()

    def _lost(self, watched: weakref.ref[_Interrupt]) -> None:
        self._on_its_way = False

    def _repeat(self) -> None:
        going_on = self._interrupted.get()
        while going_on:
            try:
                going_on = self._interrupted.get(timeout=self._seconds)
            except queue.Empty:
                if self._on_its_way:
                    continue
                if hasattr(signal, "pthread_kill"):
                    # A true signal: it also wakes a main thread that waits for a lock.
                    signal.pthread_kill(self._main, signal.SIGINT)
                else:
                    signal.raise_signal(signal.SIGINT)
