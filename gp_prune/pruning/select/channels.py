"""Choose exactly which channels go: rank scores, choose widths, plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.pruning.graph.architecture import HEADS, RESHAPE, SIZE, Architecture, ChannelGroup
from gp_prune.pruning.plan.channels import Achieved, Budget, ChannelPlan
from gp_prune.pruning.select.scores import Scores, join_scores

Widths = NDArray[np.int64]
"""Number of channels that each free group keeps (groups,)."""

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
    units = _find_units(architecture, round_to)
    kept = _choose_widths(architecture, scores, units, conventions.scope, budget)
    removed = {}
    for group, values, stay in zip(architecture.free, scores, kept.tolist(), strict=True):
        if stay < group.size:
            worst = np.argsort(values, kind="stable")[: group.size - stay]
            removed[group.name] = tuple(np.sort(worst).tolist())
    if conventions.scope == "global":
        ties = measure_ties(np.concatenate(scores))
    else:
        total = sum(values.size for values in scores)
        ties = sum(measure_ties(values) * values.size for values in scores) / total
    whole = _explain_whole(architecture.free, units, kept, round_to)
    return ChannelPlan(removed, budget, Achieved.of(architecture, kept), float(ties), whole)


def _find_units(architecture: Architecture, round_to: int) -> tuple[int, ...]:
    """Return the number that divides the kept channels of each free group.

    It is ``round_to``, or less where each channel has several entries in every layer, as a group
    of a grouped convolution or an attention head has: the entries are what is rounded.
    """
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise UserError(f"round_to is {round_to!r}; it must be a whole number of at least 1")
    if round_to == 1:
        return (1,) * len(architecture.free)
    return tuple(round_to // math.gcd(round_to, _entries(group)) for group in architecture.free)


def _entries(group: ChannelGroup) -> int:
    """Return the greatest number that divides the entries of a channel on every layer side."""
    sides = [slot for slot in group.slots if slot.side not in (HEADS, RESHAPE, SIZE)]
    return math.gcd(*(int((slot.index == 0).sum()) for slot in sides)) or 1


def _choose_widths(
    architecture: Architecture,
    scores: Sequence[Scores],
    units: tuple[int, ...],
    scope: str,
    budget: Budget,
) -> Widths:
    """Return the widths nearest to the budget where group ``g`` keeps multiples of ``units[g]``."""
    sizes, rounded = architecture.sizes, max(units) > 1
    if budget.kind == "channels" and scope == "layer":
        pairs = zip(sizes.tolist(), units, strict=True)
        if rounded:
            return np.array([_nearest_multiple(s, unit, budget.keep * s) for s, unit in pairs])
        return np.array([size - count_removed(size, budget.keep) for size, _ in pairs])
    owners, lost = _order_cuts(sizes, units, scores if scope == "global" else None)

    def after(steps: int) -> Widths:
        removed = np.bincount(owners[:steps], lost[:steps], minlength=sizes.size)
        return sizes - removed.astype(np.int64)

    if budget.kind == "channels" and not rounded:
        return after(count_removed(int(sizes.sum()), budget.keep))

    def cost(kept: Widths) -> float:
        if not rounded:
            return architecture.costs(kept)[0 if budget.kind == "macs" else 1]
        # The shares that are reported: of two widths as near as each other, their rounding decides.
        share: float = getattr(Achieved.of(architecture, kept), budget.kind)
        return share

    target = budget.keep * cost(sizes)
    kept = after(find_nearest_step(lambda steps: cost(after(steps)), owners.size, target))
    if rounded:
        kept = _refine(kept, sizes, units, lambda widths: abs(cost(widths) - target))
    return kept


def _order_cuts(
    sizes: Widths, units: Sequence[int], scores: Sequence[Scores] | None
) -> tuple[Widths, Widths]:
    """Order every cut from the whole groups down to the least widths.

    A cut is made where its middle channel would go by itself: by its score among all channels, or,
    without scores, when the same share of every group has gone.

    Returns:
        The group that loses channels at each step, and how many it loses, both (steps,).
    """
    owners, lost, keys = [], [], []
    for group, (size, unit) in enumerate(zip(sizes.tolist(), units, strict=True)):
        after = np.arange(size % unit or unit, size - unit + 1, unit)
        before = np.concatenate([[0], after[:-1]]) if after.size else after
        owners.append(np.full(after.size, group))
        lost.append(after - before)
        if scores is None:
            keys.append((before + after) / 2 / size)
        else:
            keys.append(np.sort(scores[group])[(before + after) // 2])
    order = np.argsort(np.concatenate(keys), kind="stable")
    return np.concatenate(owners)[order], np.concatenate(lost)[order]


def _nearest_multiple(size: int, unit: int, wanted: float) -> int:
    """Return the width nearest to ``wanted``, or the smaller of two, that a group may keep."""
    nearest = size
    for width in reversed(range(unit, size, unit)):
        if abs(width - wanted) <= abs(nearest - wanted):
            nearest = width
    return nearest


def _refine(
    kept: Widths, sizes: Widths, units: Sequence[int], distance: Callable[[Widths], float]
) -> Widths:
    """Change single groups by single steps while that reduces the distance to the budget."""
    best, least = kept, distance(kept)
    while True:
        near = [(distance(widths), n, widths) for n, widths in enumerate(_near(best, sizes, units))]
        nearest = min(near, key=lambda item: item[:2], default=None)
        if nearest is None or nearest[0] >= least:
            return best
        least, _, best = nearest


def _near(kept: Widths, sizes: Widths, units: Sequence[int]) -> Iterator[Widths]:
    for group, unit in enumerate(units):
        width = int(kept[group])
        for other in ((width - 1) // unit * unit, min(width + unit, int(sizes[group]))):
            if other >= unit and other != width:
                changed = kept.copy()
                changed[group] = other
                yield changed


def _explain_whole(
    groups: Sequence[ChannelGroup], units: Sequence[int], kept: Widths, round_to: int
) -> dict[str, str]:
    """Return why the rounding keeps groups whole."""
    reasons = {}
    for group, unit, width in zip(groups, units, kept.tolist(), strict=True):
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


def count_removed(size: int, keep: float) -> int:
    """Return how many of ``size`` go when the share ``keep`` stays: rounded half up, never all."""
    return min(size - 1, math.floor((1 - keep) * size + 0.5 + _ROUNDING_SLACK))


def measure_ties(values: Scores) -> float:
    """Return the share of the values that equal another one."""
    return count_ties(values[np.newaxis]) / values.size


def count_ties(rows: Scores) -> int:
    """Return how many values (rows, any) equal another one of their row."""
    ordered = np.sort(rows, axis=1)
    equal = ordered[:, 1:] == ordered[:, :-1]
    if not equal.any():
        return 0
    tied = np.zeros(rows.shape, dtype=bool)
    tied[:, 1:] |= equal
    tied[:, :-1] |= equal
    return int(tied.sum())


def find_nearest_step(cost: Callable[[int], float], steps: int, target: float) -> int:
    """Return the number of steps, at most ``steps``, whose falling cost is nearest a target."""
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
