"""What was freed goes back to the system."""

from __future__ import annotations

import os
import platform

import pytest

from gp_prune.runs.limits import give_back_memory, resident_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_goes_back() -> None:
    give_back_memory()
    before = resident_memory(os.getpid())
    pieces = [bytearray(20_000) for _ in range(4000)]
    full = resident_memory(os.getpid())
    assert full - before > 60e6
    last = pieces.pop()  # of what lies below it nothing is given back by itself
    del pieces
    give_back_memory()
    assert resident_memory(os.getpid()) - before < 20e6
    assert len(last) == 20_000


def test_it_does_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr("ctypes.CDLL", None)
    give_back_memory()
