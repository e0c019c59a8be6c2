"""End code of a user that takes too long, in the thread that runs it."""

from __future__ import annotations

import ctypes
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from gp_prune.errors import UserError

MODEL_TIMEOUT = 300.0
"""Seconds that a user's function, and every forward pass of its network, may take by default."""

_AGAIN_SECONDS = 1.0
_ATTRIBUTE = "_gp_prune_timeout"

_active = threading.local()


class TimeLimitError(UserError):
    """Report code of a user that took too long."""


class _Expired(BaseException):
    """Ends the code; not an Exception, which the code may catch."""


def check_timeout(seconds: float) -> None:
    """Raise UserError unless a time limit is a finite number of at least 0."""
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UserError(
            f"the model timeout is {seconds}; it must be a finite number of seconds, and 0 means "
            "any time"
        )


@contextmanager
def time_limit(seconds: float, title: str) -> Iterator[None]:
    """Raise TimeLimitError when the body takes longer; a limit within another one is not set.

    Whatever waits or computes in Python is ended. Code of other languages is ended when it returns.

    Args:
        seconds: the limit; 0 for none.
        title: what the body runs, for the message.
    """
    if not seconds or getattr(_active, "limited", False):
        yield
        return
    alarmed = hasattr(signal, "setitimer") and _in_main_thread()
    _active.limited = True
    try:
        with _alarm(seconds) if alarmed else _watch(seconds):
            yield
    except _Expired:
        raise TimeLimitError(
            f"{title} took more than {seconds:g} s; mend it, or give it longer with "
            "--model-timeout (0 means any time)"
        ) from None
    finally:
        _active.limited = False


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise _Expired in the body by a signal, which also ends what waits for the system."""

    def expire(*_: object) -> None:
        raise _Expired

    before = signal.signal(signal.SIGALRM, expire)
    started = time.monotonic()
    # Again and again, as code may swallow it.
    earlier, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
    try:
        try:
            yield
        finally:  # which it may come into, and then comes once more
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if earlier:  # an alarm of the program that uses this package
            left = max(1e-6, earlier - (time.monotonic() - started))
            signal.setitimer(signal.ITIMER_REAL, left, interval)


@contextmanager
def _watch(seconds: float) -> Iterator[None]:
    """Raise _Expired in the body by another thread, where there is no signal."""
    thread, done, finished = threading.get_ident(), threading.Event(), threading.Lock()
    interrupt: Callable[..., int] = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def watch() -> None:
        wait = seconds
        while not done.wait(wait):
            with finished:
                if not done.is_set():
                    interrupt(ctypes.c_ulong(thread), ctypes.py_object(_Expired))
            wait = _AGAIN_SECONDS

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        with finished:
            done.set()
            interrupt(ctypes.c_ulong(thread), None)  # one that has not come yet
        watcher.join()


def limit_forward(model: nn.Module, seconds: float, name: str) -> None:
    """Limit every forward pass of a network; copies of it keep the limit.

    Args:
        model: the network of a user.
        seconds: the limit; 0 for none.
        name: what the user calls the network.
    """
    if seconds:
        setattr(model, _ATTRIBUTE, (seconds, f"a forward pass of {name!r}"))


@contextmanager
def forward_limit(model: nn.Module) -> Iterator[None]:
    """Run the body, a forward pass, under the limit of the network, if it has one."""
    seconds, title = getattr(model, _ATTRIBUTE, (0.0, ""))
    with time_limit(seconds, title):
        yield
