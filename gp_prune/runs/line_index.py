"""An index of a file of lines that takes 24 bytes for each line."""

from __future__ import annotations

import hashlib
import struct
from array import array

import numpy as np

DIGEST_BYTES = 16
_NUMBERS = np.dtype(np.uint64)


def digest(text: str) -> bytes:
    """Return 16 bytes that tell a text from all others."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


class LineIndex:
    """Where lines begin, by digests; of two lines with one digest the later one counts.

    What was there at first is kept in sorted arrays, as a million entries of a dictionary would
    take 200 MB; what is added later is in a dictionary.

    Args:
        digests: of the lines that are there, :data:`DIGEST_BYTES` for each.
        starts: where each of them begins.
    """

    def __init__(self, digests: bytearray, starts: array[int]) -> None:
        pairs = np.frombuffer(digests, _NUMBERS).reshape(-1, 2)
        order = pairs[:, 0].argsort(kind="stable")
        self._first, self._second = pairs[order, 0], pairs[order, 1]
        self._starts = np.frombuffer(starts, _NUMBERS)[order] if starts else order
        self._added: dict[bytes, int] = {}

    def add(self, line: bytes, start: int) -> None:
        """Add a line by its digest."""
        self._added[line] = start

    def get(self, line: bytes) -> int | None:
        """Return where the line with a digest begins, None if there is none."""
        if line in self._added:
            return self._added[line]
        first, second = map(_NUMBERS.type, struct.unpack("=QQ", line))
        left, right = (self._first.searchsorted(first, side) for side in ("left", "right"))
        for place in range(int(right) - 1, int(left) - 1, -1):
            if self._second[place] == second:
                return int(self._starts[place])
        return None

    def __contains__(self, line: bytes) -> bool:
        return self.get(line) is not None
