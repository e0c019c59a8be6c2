"""Floor 9: memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
import sys


def give_back_memory() -> None:
    """Give the system what was freed; takes some milliseconds.

    The GNU C library keeps it for later, and of a long run, which makes and frees tensors of all
    sizes, it keeps more and more. Other C libraries have no such function, and then nothing is
    done.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
