"""How far a front has come, as the volume that it dominates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import moocore
import numpy

LEAST_GROWTH = 1e-6
"""A hypervolume has grown if it is greater by more than this share: less may be rounding."""


def hypervolume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume of all objectives that some points dominate and that are below a reference.

    Args:
        points: vectors of objectives, all minimised.
        reference: the worst that counts; a point that is nowhere below it adds nothing.
    """
    front = sorted(map(tuple, points))
    if not front:
        return 0.0
    return float(moocore.hypervolume(numpy.asarray(front), ref=numpy.asarray(reference)))


def find_nondominated(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other one dominates; of equal ones the first.

    Args:
        points: vectors of objectives, all minimised.
    """
    if not points:
        return []
    front = moocore.is_nondominated(numpy.asarray(points, dtype=float), keep_weakly=False)
    return [int(index) for index in numpy.flatnonzero(front)]


class Growth:
    """Counts the generations since the hypervolume of the front last grew.

    Attributes:
        volume: the greatest so far.
        idle: generations without growth.
    """

    def __init__(self) -> None:
        self.volume = 0.0
        self.idle = 0

    def see(self, volume: float) -> None:
        """Take in the hypervolume of one more generation."""
        if volume > self.volume * (1 + LEAST_GROWTH):
            self.volume = volume
            self.idle = 0
        else:
            self.idle += 1
