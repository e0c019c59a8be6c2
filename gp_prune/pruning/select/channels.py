"""Choose exactly which channels go: rank scores, choose widths, plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.pruning.graph.architecture import (
    HEADS,
    PAD,
    RESHAPE,
    SIZE,
    Architecture,
    ChannelGroup,
)
from gp_prune.pruning.graph.grouping import CUT_ON_DEMAND
from gp_prune.pruning.plan.channels import Achieved, Budget, ChannelPlan
from gp_prune.pruning.select.scores import Scores, join_scores

Widths = NDArray[np.int64]
"""Number of channels that each free group keeps (groups,)."""

_REASONS = 3  # that a refusal names
_ROUNDING_SLACK = 1e-9  # (1 - 0.7) * 5 must round like 1.5


def select_channels(
    architecture: Architecture,
    layer_scores: Mapping[str, Any],
    conventions: Conventions,
    budget: Budget,
    *,
    round_to: int = 1,
    least: Mapping[str, int] | None = None,
    keep_shares: Mapping[str, float] | None = None,
    weights: Mapping[str, float] | None = None,
) -> ChannelPlan:
    """Choose the channels to remove: those with the lowest scores, in exact number.

    Scope ``"layer"`` removes the same share of every group; scope ``"global"`` ranks all channels
    together; scope ``"isomorphic"`` ranks those of groups of one structure together and removes
    the same share of every structure (Fang et al. 2024, "Isomorphic Pruning for Vision Models";
    see :attr:`~gp_prune.pruning.graph.architecture.Architecture.structures`). Equal scores are
    ordered by group (module order), then by channel: the earlier goes first. The best channel
    of every group always stays; what a group cannot give, the next in line gives. A budget of
    MACs or parameters is met as nearly as one channel more or less allows. Where one channel is
    a large part of the network, or even the smallest network is too big, ``plan.met()`` is
    false.

    Args:
        architecture: the traced network.
        layer_scores: layer name -> scores (o,), higher = keep. Layers of fixed groups need none.
        conventions: scope, normaliser and join.
        budget: the share to keep. ``"channels"`` counts those of the groups that may be cut.
        round_to: every layer that loses channels keeps a multiple of this, and at least as many.
            A group that cannot do so, or not so near to the budget, stays whole; ``plan.whole``
            says which and why. The budget is met as nearly as steps of this size allow.
        least: group name -> fewest channels that it keeps; 1 by default.
        keep_shares: group name -> share of its channels to keep, whatever their scores; the other
            groups give what is left of the budget.
        weights: group name -> positive number to which the share that it keeps is proportional, in
            scope ``"layer"``: min(1, c weight), with the c that meets the budget; all alike by
            default.

    Raises:
        DegenerateScores: scores are not finite, have the wrong shape or are all equal.
        UserError: a layer has no scores, the network has no group that may be cut, or ``round_to``
            is not a whole number of at least 1.
    """
    conventions.check_granularity("channel")
    if not architecture.free:
        raise UserError(
            f"the network has no channels that may be cut ({_explain_fixed(architecture.groups)}"
        )
    scores = join_scores(architecture, layer_scores, conventions)
    units = _find_units(architecture, round_to)
    bounds = _find_bounds(architecture, units, least or {}, keep_shares or {})
    unequal = weights is not None and len(set(weights.values())) > 1
    parts = [weights[group.name] for group in architecture.free] if weights and unequal else None
    kept = _choose_widths(architecture, scores, bounds, conventions.scope, budget, parts)
    removed = {}
    for group, values, stay in zip(architecture.free, scores, kept.tolist(), strict=True):
        if stay < group.size:
            worst = np.argsort(values, kind="stable")[: group.size - stay]
            removed[group.name] = tuple(np.sort(worst).tolist())
    ranked = _ranked_together(architecture, conventions.scope)
    total = int(architecture.sizes.sum())
    counts = [count_ties(np.concatenate([scores[g] for g in part])[None]) for part in ranked]
    goes = [_mark(group, removed) for group in architecture.free]
    undecided = [
        count_undecided(
            np.concatenate([scores[g] for g in p]), np.concatenate([goes[g] for g in p])
        )
        for p in ranked
    ]
    return ChannelPlan(
        removed,
        budget,
        Achieved.of(architecture, kept),
        sum(counts) / total,
        _explain_whole(architecture.free, bounds, kept, round_to),
        sum(undecided) / total,
    )


def _mark(group: ChannelGroup, removed: Mapping[str, tuple[int, ...]]) -> NDArray[np.bool_]:
    """Mark the channels of a group that go (channels,)."""
    marks = np.zeros(group.size, dtype=bool)
    marks[list(removed.get(group.name, ()))] = True
    return marks


def _explain_fixed(groups: Sequence[ChannelGroup]) -> str:
    """Return the most frequent reasons why groups are kept whole, a bracket, and what helps."""
    if not groups:
        return "no layers); give a network that has some"
    layers: dict[str, list[str]] = {}
    for group in groups:
        layers.setdefault(group.fixed, []).append(group.name)
    most = sorted(layers.items(), key=lambda item: -len(item[1]))
    told = [
        f"{names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "") + f": {reason}"
        for reason, names in most[:_REASONS]
    ]
    rest = sum(len(names) for _, names in most[_REASONS:])
    told += [f"{rest} more for other reasons"] if rest else []
    remedy = "a metric of single weights, such as magnitude, needs none"
    if CUT_ON_DEMAND & set(layers):
        remedy = "let them go with --cut-residual (cut_residual=True), or use a metric of weights"
    return f"{'; '.join(told)}); {remedy}"


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
    sides = [slot for slot in group.slots if slot.side not in (HEADS, RESHAPE, SIZE, PAD)]
    return math.gcd(*(int((slot.index == 0).sum()) for slot in sides)) or 1


class _Bounds(NamedTuple):
    """Widths that the free groups may keep, each (groups,): multiples of a unit, or the highest.

    Attributes:
        units: what divides the width of a group that loses channels.
        least: the smallest width.
        most: the largest width; less than the group has where its share is given.
    """

    units: Widths
    least: Widths
    most: Widths


def _find_bounds(
    architecture: Architecture,
    units: Sequence[int],
    least: Mapping[str, int],
    keep_shares: Mapping[str, float],
) -> _Bounds:
    lowest, highest = [], []
    for group, unit in zip(architecture.free, units, strict=True):
        low = min(group.size, -(-max(1, least.get(group.name, 1)) // unit) * unit)
        high, share = group.size, keep_shares.get(group.name)
        if share is not None:
            low = high = _nearest_width(group.size, unit, 1, share)
        lowest.append(low)
        highest.append(high)
    return _Bounds(np.array(units), np.array(lowest), np.array(highest))


def _nearest_width(size: int, unit: int, least: int, share: float) -> int:
    """Return the width nearest to a share of a group, or the smaller of two."""
    if unit == 1:
        return max(least, size - count_removed(size, share))
    nearest = size
    for width in reversed(range(unit, size, unit)):
        if width >= least and abs(width - share * size) <= abs(nearest - share * size):
            nearest = width
    return nearest


def _ranked_together(architecture: Architecture, scope: str) -> list[list[int]]:
    """Return the numbers of the free groups whose channels are ranked together."""
    everyone = range(len(architecture.free))
    if scope == "global":
        return [[*everyone]]
    structures = architecture.structures if scope == "isomorphic" else everyone
    parts: dict[Any, list[int]] = {}
    for number, structure in zip(everyone, structures, strict=True):
        parts.setdefault(structure, []).append(number)
    return [*parts.values()]


def _choose_widths(
    architecture: Architecture,
    scores: Sequence[Scores],
    bounds: _Bounds,
    scope: str,
    budget: Budget,
    weights: Sequence[float] | None,
) -> Widths:
    """Return the widths within the bounds that are nearest to the budget."""
    sizes, rounded = architecture.sizes, int(bounds.units.max()) > 1
    given = bool((bounds.most < sizes).any())
    if budget.kind == "channels" and scope == "layer" and not given and weights is None:
        rows = zip(sizes.tolist(), bounds.units.tolist(), bounds.least.tolist(), strict=True)
        return np.array([_nearest_width(*row, budget.keep) for row in rows])
    ranked = None if scope == "layer" else _ranked_together(architecture, scope)
    owners, lost = _order_cuts(bounds, scores, ranked, weights or [1.0] * sizes.size)

    def after(steps: int) -> Widths:
        removed = np.bincount(owners[:steps], lost[:steps], minlength=sizes.size)
        return bounds.most - removed.astype(np.int64)

    if budget.kind == "channels" and not rounded:
        count = count_removed(int(sizes.sum()), budget.keep) - int((sizes - bounds.most).sum())
        return after(max(0, count))

    def cost(kept: Widths) -> float:
        if not rounded:
            return architecture.costs(kept)[0 if budget.kind == "macs" else 1]
        # The shares that are reported: of two widths as near as each other, their rounding decides.
        share: float = getattr(Achieved.of(architecture, kept), budget.kind)
        return share

    target = budget.keep * cost(sizes)
    kept = after(find_nearest_step(lambda steps: cost(after(steps)), owners.size, target))
    if rounded:
        kept = _refine(kept, bounds, lambda widths: abs(cost(widths) - target))
    return kept


def _order_cuts(
    bounds: _Bounds,
    scores: Sequence[Scores],
    ranked: list[list[int]] | None,
    weights: Sequence[float],
) -> tuple[Widths, Widths]:
    """Order every cut from the largest widths down to the least.

    A cut is made where its middle channel would go by itself: by its score among the channels that
    are ranked together, or, where each group is ranked alone (None), by the share that the group
    keeps there, divided by its weight. The same share of everything that is ranked together goes.

    Returns:
        The group that loses channels at each step, and how many it loses, both (steps,).
    """
    owners, lost, keys = [], [], []
    for group, (unit, least, size) in enumerate(zip(*(b.tolist() for b in bounds), strict=True)):
        after = np.arange(size % unit or unit, size - least + 1, unit)
        before = np.concatenate([[0], after[:-1]]) if after.size else after
        owners.append(np.full(after.size, group))
        lost.append(after - before)
        if ranked is None:
            keys.append(((before + after) / 2 / size - 1) / weights[group])
        else:
            keys.append(np.sort(scores[group])[(before + after) // 2])
    owner, loss, key = np.concatenate(owners), np.concatenate(lost), np.concatenate(keys)
    if ranked is not None and len(ranked) > 1:
        key = _share_gone(owner, loss, key, bounds.most, ranked)
    order = np.argsort(key, kind="stable")
    return owner[order], loss[order]


def _share_gone(
    owner: Widths, loss: Widths, key: Scores, sizes: Widths, ranked: list[list[int]]
) -> Scores:
    """Return the share of the channels ranked together that has gone in the middle of each cut."""
    share = np.zeros(key.size)
    for groups in ranked:
        cuts = np.flatnonzero(np.isin(owner, groups))
        cuts = cuts[np.argsort(key[cuts], kind="stable")]
        share[cuts] = (loss[cuts].cumsum() - loss[cuts] / 2) / sizes[groups].sum()
    return share


def _refine(kept: Widths, bounds: _Bounds, distance: Callable[[Widths], float]) -> Widths:
    """Change single groups by single steps while that reduces the distance to the budget."""
    best, least = kept, distance(kept)
    while True:
        near = [(distance(widths), n, widths) for n, widths in enumerate(_near(best, bounds))]
        nearest = min(near, key=lambda item: item[:2], default=None)
        if nearest is None or nearest[0] >= least:
            return best
        least, _, best = nearest


def _near(kept: Widths, bounds: _Bounds) -> Iterator[Widths]:
    for group, (unit, least, most) in enumerate(zip(*(b.tolist() for b in bounds), strict=True)):
        width = int(kept[group])
        for other in ((width - 1) // unit * unit, min(width + unit, most)):
            if least <= other != width:
                changed = kept.copy()
                changed[group] = other
                yield changed


def _explain_whole(
    groups: Sequence[ChannelGroup], bounds: _Bounds, kept: Widths, round_to: int
) -> dict[str, str]:
    """Return why the rounding keeps groups whole."""
    reasons = {}
    for group, unit, width in zip(groups, bounds.units.tolist(), kept.tolist(), strict=True):
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


def least_width(size: int, share: float) -> int:
    """Return the fewest of ``size`` channels that are at least this share of them, never none."""
    return max(1, math.ceil(share * size - _ROUNDING_SLACK))


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


def count_undecided(values: Scores, goes: NDArray[np.bool_]) -> int:
    """Return how many values equal one of the other fate, so that their positions decided.

    Args:
        values: scores that are ranked together (any,).
        goes: which of them go (any,).
    """
    _, kind = np.unique(values, return_inverse=True)
    sizes, gone = np.bincount(kind), np.bincount(kind, weights=goes)
    return int(sizes[(gone > 0) & (gone < sizes)].sum())


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
