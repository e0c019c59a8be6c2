"""From scores to an exact channel plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gp_prune.errors import UserError
from gp_prune.metric.ranking import Conventions
from gp_prune.pruning.graph.architecture import HEADS, RESHAPE, SIZE, Architecture, ChannelGroup
from gp_prune.pruning.plan.channels import Achieved, Budget, ChannelPlan
from gp_prune.pruning.select.scores import Scores, join_scores

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


_ROUNDING_SLACK = 1e-9  # (1 - 0.7) * 5 must round like 1.5


def select_channels(
    architecture: Architecture,
    layer_scores: Mapping[str, Any],
    conventions: Conventions,
    budget: Budget,
    *,
    round_to: int = 1,
) -> ChannelPlan:
    """Choose the channels to remove: those with the lowest scores, in exact number.

    Scope ``"layer"`` removes the same share of every group; scope ``"global"`` ranks all channels
    together. Equal scores are ordered by group (module order), then by channel: the earlier goes
    first. The best channel of every group always stays; what a group cannot give, the next in
    line gives. A budget of MACs or parameters is met as nearly as one channel more or less
    allows. Where one channel is a large part of the network, or even the smallest network is too
    big, ``plan.met()`` is false.

    Args:
        architecture: the traced network.
        layer_scores: layer name -> scores (o,), higher = keep. Layers of fixed groups need none.
        conventions: scope, normaliser and join.
        budget: the share to keep. ``"channels"`` counts those of the groups that may be cut.
        round_to: every layer that loses channels keeps a multiple of this, and at least as many.
            A group that cannot do so, or not so near to the budget, stays whole; ``plan.whole``
            says which and why. The budget is met as nearly as steps of this size allow.

    Raises:
        DegenerateScores: scores are not finite, have the wrong shape or are all equal.
        UserError: a layer has no scores, the network has no group that may be cut, or ``round_to``
            is not a whole number of at least 1.
    """
    conventions.check_granularity("channel")
    if not architecture.free:
        reasons = "; ".join(f"{group.name}: {group.fixed}" for group in architecture.groups)
        raise UserError(f"the network has no channels that may be cut ({reasons or 'no layers'})")
    scores = join_scores(architecture, layer_scores, conventions)
    everywhere = np.concatenate(scores)
    units = multiples(architecture, round_to)
    if conventions.scope == "global":
        ties = measure_ties(everywhere)
    else:
        tied = sum(measure_ties(values) * values.size for values in scores)
        ties = tied / everywhere.size
    if max(units) > 1:
        kept = _rounded_widths(architecture, scores, units, conventions.scope, budget)
    elif conventions.scope == "global":
        kept = _widths(architecture, _global_steps(architecture, everywhere), "global", budget)
    else:
        kept = _widths(architecture, architecture.even_steps, "layer", budget)
    removed = {}
    for group, values, stay in zip(architecture.free, scores, kept.tolist(), strict=True):
        if stay < group.size:
            worst = np.argsort(values, kind="stable")[: group.size - stay]
            removed[group.name] = tuple(np.sort(worst).tolist())
    held = whole(architecture, kept, round_to)
    return ChannelPlan(removed, budget, Achieved.of(architecture, kept), float(ties), held)


def count_removed(size: int, keep: float) -> int:
    """How many of ``size`` things go when the share ``keep`` stays: rounded half up, never all."""
    return min(size - 1, math.floor((1 - keep) * size + 0.5 + _ROUNDING_SLACK))


def measure_ties(values: Scores) -> float:
    """Share of the values that equal another one."""
    ordered = np.sort(values)
    equal = ordered[1:] == ordered[:-1]
    if not equal.any():
        return 0.0
    tied = np.zeros(values.size, dtype=bool)
    tied[1:] |= equal
    tied[:-1] |= equal
    return float(tied.mean())


def find_nearest_step(cost: Callable[[int], float], steps: int, target: float) -> int:
    """The number of steps in [0, ``steps``] whose falling ``cost`` is nearest to ``target``."""
    low, high = 0, steps
    while low < high:
        middle = (low + high) // 2
        if cost(middle) <= target:
            high = middle
        else:
            low = middle + 1
    if low > 0 and cost(low - 1) - target < abs(cost(low) - target):
        return low - 1
    return low


def _global_steps(architecture: Architecture, everywhere: Scores) -> NDArray[np.int64]:
    """The group that loses a channel at each step, worst score first (steps,)."""
    order = np.argsort(everywhere, kind="stable")
    owner = np.repeat(np.arange(len(architecture.free)), architecture.sizes)[order]
    # The last appearance of each group in the order is its best channel, which stays.
    _, last = np.unique(owner[::-1], return_index=True)
    steps: NDArray[np.int64] = np.delete(owner, owner.size - 1 - last)
    return steps


def _widths(
    architecture: Architecture, steps: NDArray[np.int64], scope: str, budget: Budget
) -> NDArray[np.int64]:
    """Number of channels that each free group keeps (groups,)."""
    sizes = architecture.sizes

    def after(count: int) -> NDArray[np.int64]:
        lost = np.bincount(steps[:count], minlength=sizes.size)
        return np.asarray(sizes - lost, dtype=np.int64)

    if budget.kind == "channels":
        if scope == "layer":
            return np.array([s - count_removed(s, budget.keep) for s in sizes.tolist()])
        return after(count_removed(int(sizes.sum()), budget.keep))
    which = 0 if budget.kind == "macs" else 1
    target = budget.keep * architecture.dense_costs[which]
    return after(
        find_nearest_step(lambda n: architecture.costs(after(n))[which], steps.size, target)
    )


def _rounded_widths(
    architecture: Architecture,
    scores: Sequence[Scores],
    units: tuple[int, ...],
    scope: str,
    budget: Budget,
) -> NDArray[np.int64]:
    """:func:`_widths` where group ``g`` keeps a multiple of ``units[g]`` channels, or all."""
    sizes = architecture.sizes
    if scope == "layer" and budget.kind == "channels":
        pairs = zip(sizes.tolist(), units, strict=True)
        return np.array([nearest_multiple(size, unit, budget.keep * size) for size, unit in pairs])
    ordered = [np.sort(values) for values in scores]

    def key(group: int, before: Widths, after: Widths) -> NDArray[np.float64]:
        # A step is made where its middle channel would go on its own.
        if scope == "global":
            return np.asarray(ordered[group][(before + after) // 2])
        return np.asarray((before + after) / 2 / sizes[group])

    steps = rounded_steps(sizes, units, key)

    def after(count: int) -> NDArray[np.int64]:
        lost = np.bincount(steps.owners[:count], steps.lost[:count], minlength=sizes.size)
        return np.asarray(sizes - lost.astype(np.int64))

    def share(kept: NDArray[np.int64]) -> float:
        found: float = getattr(Achieved.of(architecture, kept), budget.kind)
        return found

    count = find_nearest_step(lambda n: share(after(n)), steps.owners.size, budget.keep)
    return refined(after(count), sizes, units, lambda kept: abs(share(kept) - budget.keep))
