"""From scores to an exact channel plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gp_prune.conventions import Conventions
from gp_prune.errors import UserError
from gp_prune.pruning.architecture import Architecture
from gp_prune.pruning.plan import Achieved, Budget, ChannelPlan
from gp_prune.pruning.rounding import (
    Widths,
    multiples,
    nearest_multiple,
    refined,
    rounded_steps,
    whole,
)
from gp_prune.pruning.scores import Scores, joined_scores

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
    scores = joined_scores(architecture, layer_scores, conventions)
    everywhere = np.concatenate(scores)
    units = multiples(architecture, round_to)
    if conventions.scope == "global":
        ties = tie_share(everywhere)
    else:
        tied = sum(tie_share(values) * values.size for values in scores)
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
    return ChannelPlan(removed, budget, _achieved(architecture, kept), float(ties), held)


def removed_count(size: int, keep: float) -> int:
    """How many of ``size`` things go when the share ``keep`` stays: rounded half up, never all."""
    return min(size - 1, math.floor((1 - keep) * size + 0.5 + _ROUNDING_SLACK))


def tie_share(values: Scores) -> float:
    """Share of the values that equal another one."""
    ordered = np.sort(values)
    equal = ordered[1:] == ordered[:-1]
    if not equal.any():
        return 0.0
    tied = np.zeros(values.size, dtype=bool)
    tied[1:] |= equal
    tied[:-1] |= equal
    return float(tied.mean())


def nearest_step(cost: Callable[[int], float], steps: int, target: float) -> int:
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
            return np.array([s - removed_count(s, budget.keep) for s in sizes.tolist()])
        return after(removed_count(int(sizes.sum()), budget.keep))
    which = 0 if budget.kind == "macs" else 1
    target = budget.keep * architecture.dense_costs[which]
    return after(nearest_step(lambda n: architecture.costs(after(n))[which], steps.size, target))


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
        found: float = getattr(_achieved(architecture, kept), budget.kind)
        return found

    count = nearest_step(lambda n: share(after(n)), steps.owners.size, budget.keep)
    return refined(after(count), sizes, units, lambda kept: abs(share(kept) - budget.keep))


def _achieved(architecture: Architecture, kept: NDArray[np.int64]) -> Achieved:
    macs, params = architecture.costs(kept)
    dense_macs, dense_params = architecture.dense_costs
    return Achieved(
        channels=float(kept.sum() / architecture.sizes.sum()),
        macs=macs / dense_macs if dense_macs else 1.0,
        params=params / dense_params if dense_params else 1.0,
    )
