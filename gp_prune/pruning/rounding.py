"""Widths that are multiples of a number, which many kernels run faster."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gp_prune.errors import UserError
from gp_prune.pruning.architecture import HEADS, RESHAPE, SIZE, Architecture, ChannelGroup

Widths = NDArray[np.int64]


class Steps(NamedTuple):
    """Cuts in the order in which they are made.

    Attributes:
        owners: the free group that loses channels at each step (steps,).
        lost: how many it loses (steps,).
    """

    owners: NDArray[np.int64]
    lost: NDArray[np.int64]


def multiples(architecture: Architecture, round_to: int) -> tuple[int, ...]:
    """The number that divides the kept channels of each free group.

    It is ``round_to``, or less where each channel has several entries in every layer, as a group
    of a grouped convolution or an attention head has: the entries are what is rounded.

    Raises:
        UserError: ``round_to`` is no whole number of at least 1.
    """
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise UserError(f"round_to is {round_to!r}; it must be a whole number of at least 1")
    return tuple(round_to // math.gcd(round_to, _entries(group)) for group in architecture.free)


def _entries(group: ChannelGroup) -> int:
    """The greatest number that divides the entries of a channel on every side of every layer."""
    sides = [slot for slot in group.slots if slot.side not in (HEADS, RESHAPE, SIZE)]
    return math.gcd(*(int((slot.index == 0).sum()) for slot in sides)) or 1


def rounded_steps(
    sizes: Widths,
    multiple: tuple[int, ...],
    key: Callable[[int, Widths, Widths], NDArray[np.float64]],
) -> Steps:
    """Every cut from the whole groups down to the least widths, smallest key first.

    Args:
        sizes: channels of each group (groups,).
        multiple: the number that divides what each group keeps.
        key: ``key(group, before, after)``: when the step of a group from ``before`` to ``after``
            lost channels is made; must not fall with the number of channels.
    """
    owners, lost, keys = [], [], []
    for group, (size, unit) in enumerate(zip(sizes.tolist(), multiple, strict=True)):
        after = np.arange(size % unit or unit, size - unit + 1, unit)
        before = np.concatenate([[0], after[:-1]]) if after.size else after
        owners.append(np.full(after.size, group))
        lost.append(after - before)
        keys.append(key(group, before, after))
    order = np.argsort(np.concatenate(keys), kind="stable")
    return Steps(np.concatenate(owners)[order], np.concatenate(lost)[order])


def nearest_multiple(size: int, unit: int, wanted: float) -> int:
    """The width nearest to ``wanted``, or the smaller of two, that a group of ``size`` may keep."""
    nearest = size
    for width in reversed(range(unit, size, unit)):
        if abs(width - wanted) <= abs(nearest - wanted):
            nearest = width
    return nearest


def refined(
    kept: Widths,
    sizes: Widths,
    multiple: tuple[int, ...],
    distance: Callable[[Widths], float],
) -> Widths:
    """Widths nearer to a budget: single steps of single groups, while they help.

    Args:
        kept: widths to begin with (groups,).
        sizes: widths of the whole network (groups,).
        multiple: the number that divides what each group keeps.
        distance: how far widths are from the budget.
    """
    best, least = kept, distance(kept)
    while True:
        near = [
            (distance(widths), index, widths)
            for index, widths in enumerate(_neighbours(best, sizes, multiple))
        ]
        nearest = min(near, key=lambda item: item[:2], default=None)
        if nearest is None or nearest[0] >= least:
            return best
        least, _, best = nearest


def _neighbours(kept: Widths, sizes: Widths, multiple: tuple[int, ...]) -> list[Widths]:
    found = []
    for group, unit in enumerate(multiple):
        size, width = int(sizes[group]), int(kept[group])
        lower = (width - 1) // unit * unit
        upper = min(width + unit, size)
        for other in (lower, upper):
            if other >= unit and other != width:
                changed = kept.copy()
                changed[group] = other
                found.append(changed)
    return found


def whole(architecture: Architecture, kept: Widths, round_to: int) -> dict[str, str]:
    """The groups that keep all channels because of the rounding, each with the reason."""
    reasons = {}
    units = multiples(architecture, round_to)
    for group, unit, width in zip(architecture.free, units, kept.tolist(), strict=True):
        if unit > 1 and group.size <= unit:
            reasons[group.name] = (
                f"it has {group.size} channels, and {unit} are the least that "
                f"rounding to {round_to} keeps"
            )
        elif width == group.size and width % unit:
            reasons[group.name] = (
                f"its {group.size} channels are no multiple of {unit}, and the budget is met "
                "more nearly with all of them than with the next multiple"
            )
    return reasons
