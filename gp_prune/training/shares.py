"""Say how much of a training is done to whoever listens: a person waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LEAST_SECONDS = 0.2
"""Between two calls of a listener, so that it costs nothing beside the training."""

_listener: ContextVar[Callable[[float], None] | None] = ContextVar("listener", default=None)


@contextmanager
def listening(
    hear: Callable[[float], None], clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Hear the share of each training in the body that is done, a few times per second.

    Args:
        hear: called with the share, from 0 to 1, in the thread of the training.
        clock: gives the time in seconds.
    """
    last = clock()

    def hear_sometimes(share: float) -> None:
        nonlocal last
        if clock() - last >= LEAST_SECONDS:
            last = clock()
            hear(share)

    token = _listener.set(hear_sometimes)
    try:
        yield
    finally:
        _listener.reset(token)


def report_share(share: float) -> None:
    """Say that this share of a training is done, from 0 to 1."""
    hear = _listener.get()
    if hear is not None:
        hear(share)
