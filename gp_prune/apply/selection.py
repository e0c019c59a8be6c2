"""Score the layers of a network, and choose what goes in one of several steps.

Every step scores what the step before left. A plan is always in the channels or weights of the
whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.apply.options import LATENCY, PruneOptions, match_layers
from gp_prune.errors import UserError
from gp_prune.pruning import (
    Achieved,
    Architecture,
    Budget,
    ChannelPlan,
    WeightPlan,
    select_weights,
)
from gp_prune.pruning.select.allocation import Allocation, select_allocated
from gp_prune.pruning.select.channels import least_width
from gp_prune.pruning.select.scores import as_array, guard, normalise
from gp_prune.pruning.select.shared import join_shared_scores
from gp_prune.statistics.layers import to_dense

_ROUNDS = 8  # of bisection: 1/256 of the MACs
_CLOSE = 0.01  # a difference of shares below which the search stops
_LEAST = 1e-9  # a share of the MACs that no network can meet: the smallest one is taken

WITH_SHARE = "layer with a share to keep"
"""What is looked for where a name of ``keep_share`` matches no layer, for the message."""

TimeShare = Callable[[ChannelPlan], float]
"""Time of the network after a cut of the present one, as a share of the whole network's time."""


class Bounds(NamedTuple):
    """What channel groups keep whatever their scores.

    Attributes:
        least: group name -> fewest channels that it keeps.
        shares: group name -> share of its channels that it keeps.
    """

    least: Mapping[str, int]
    shares: Mapping[str, float]

    @classmethod
    def of(cls, options: PruneOptions, architecture: Architecture) -> Bounds:
        """Return the bounds that options set for a network.

        A layer that several patterns match has the share of its own name, else of the last
        pattern. Of layers whose channels are tied together the largest share counts.

        Raises:
            UserError: a name or pattern matches no layer, or none that may be cut.
        """
        layers = dict.fromkeys(layer for group in architecture.groups for layer in group.producers)
        fixed = {layer: g.fixed for g in architecture.groups if g.fixed for layer in g.producers}
        wanted: dict[str, float] = {}
        exact: dict[str, float] = {}
        for name, share in options.keep_share.items():
            matched = match_layers([name], layers, WITH_SHARE)
            if all(layer in fixed for layer in matched):
                raise UserError(
                    f"the share to keep of {name!r} means nothing, because {matched[0]!r} is kept "
                    f"whole ({fixed[matched[0]]}); leave it out"
                )
            (exact if name in layers else wanted).update(dict.fromkeys(matched, share))
        wanted.update(exact)
        shares = {}
        for group in architecture.free:
            given = [wanted[layer] for layer in group.producers if layer in wanted]
            if given:
                shares[group.name] = max(given)
        least = {group.name: least_width(group.size, options.floor) for group in architecture.free}
        return cls(least, shares)

    def step(self, number: int, steps: int) -> Bounds:
        """Return the bounds after a step; shares fall as that of the budget does."""
        shares = {name: share ** (number / steps) for name, share in self.shares.items()}
        return self._replace(shares=shares)


def select_next_channels(
    now: Architecture,
    whole: Architecture,
    scores: Mapping[str, Tensor],
    share: float,
    earlier: ChannelPlan | None,
    options: PruneOptions,
    time_share: TimeShare,
    bounds: Bounds,
    allocation: Allocation,
) -> tuple[ChannelPlan, float | None]:
    """Choose the channels that go in one step.

    Args:
        now: the groups that the earlier steps left.
        whole: the groups of the whole network.
        scores: layer name -> scores (o,) of the present channels.
        share: how much of the whole network to keep.
        earlier: what went in the earlier steps; None in the first.
        options: the budget and the ranking.
        time_share: measures a cut, for a budget of latency.
        bounds: what the groups keep whatever their scores.
        allocation: how the budget is divided among the groups.

    Returns:
        The plan, and for a budget of latency the share of time that the smallest network takes.
    """
    shares = {
        group.name: min(
            1.0, bounds.shares[group.name] * whole.by_name[group.name].size / group.size
        )
        for group in now.free
        if group.name in bounds.shares
    }

    def select(kind: str, keep: float) -> ChannelPlan:
        return select_allocated(
            now,
            scores,
            options.ranking,
            Budget(kind, keep),
            allocation,
            round_to=options.round_to,
            least=bounds.least,
            keep_shares=shares,
        )

    floor = None
    if options.kind == LATENCY:
        smallest = describe_smallest(options.floor)
        plan, floor = _search_latency(
            lambda keep: select("macs", keep), time_share, share, smallest
        )
    else:
        plan = select(options.kind, _relative_share(options.kind, whole, now, share))
    if earlier is None:
        return plan, floor
    removed = whole.join_cuts(earlier.removed, plan.removed)
    achieved = Achieved.of(whole, whole.widths(removed))
    # A plan knows no latency, only the MACs that came to it.
    asked = Budget("macs", achieved.macs) if floor is not None else Budget(options.kind, share)
    return replace(plan, removed=removed, asked=asked, achieved=achieved), floor


def _relative_share(kind: str, whole: Architecture, now: Architecture, share: float) -> float:
    """Return the share of the present network that is ``share`` of the whole one; at most 1."""
    counts = {
        "channels": (int(whole.sizes.sum()), int(now.sizes.sum())),
        "macs": (whole.dense_costs[0], now.dense_costs[0]),
        "params": (whole.dense_costs[1], now.dense_costs[1]),
    }
    first, present = counts[kind]
    return min(1.0, share * (first / present)) if present else 1.0


def describe_smallest(floor: float) -> str:
    """Say what is left in the smallest network when every layer keeps this share at least."""
    if not floor:
        return "one channel or block per group"
    return f"{100 * floor:g} % of the channels of each layer, as --min-share (min_share) says"


def _search_latency(
    select: Callable[[float], ChannelPlan], time_share: TimeShare, share: float, smallest: str
) -> tuple[ChannelPlan, float]:
    """Find the cut whose measured time is nearest to a share, by bisection over shares of MACs.

    Returns:
        The plan, and the share of time that the smallest network takes.
    """
    best = select(_LEAST)
    floor = reached = time_share(best)
    # The whole network takes 1 by definition, however the times of a small one scatter.
    if min(floor, 1.0) > share + _CLOSE:
        raise UserError(
            f"{share:.3f} of the latency cannot be reached: the smallest network of this kind "
            f"({smallest}) still takes {floor:.3f} of the time; ask for more, "
            "time larger example inputs, or give keep_macs or keep_params"
        )
    low, high = 0.0, 1.0
    tried = {best.digest()}
    keep = share  # time is about proportional to MACs
    for _ in range(_ROUNDS):
        plan = select(keep)
        time = time_share(plan)
        if abs(time - share) < abs(reached - share):
            best, reached = plan, time
        if abs(time - share) <= _CLOSE or (plan.digest() in tried and high - low < _CLOSE):
            break
        tried.add(plan.digest())
        low, high = (keep, high) if time < share else (low, keep)
        keep = (low + high) / 2
    return best, floor


def select_next_weights(
    model: nn.Module,
    whole: Architecture,
    scores: Mapping[str, Tensor],
    share: float,
    earlier: WeightPlan | None,
    options: PruneOptions,
    ignore: Sequence[str],
) -> WeightPlan:
    """Choose the weights that go in one step.

    Args:
        model: the whole network.
        whole: its layers and what they cost.
        scores: layer name -> scores (o, i, k) of all weights, measured after the earlier steps.
        share: how much of the whole network to keep.
        earlier: what went in the earlier steps; None in the first.
        options: the budget and the ranking.
        ignore: layers whose weights all stay.
    """
    ranking = options.ranking
    if earlier is not None:
        scores = join_shared_scores(model, scores)
        scores = _rank_removed_last(model, earlier, scores, ranking.normaliser)
        ranking = replace(ranking, normaliser="none")
    budget = Budget(options.kind, share) if options.pattern is None else None
    return select_weights(
        model, whole, scores, ranking, budget, pattern=options.pattern, ignore=ignore
    )


def _rank_removed_last(
    model: nn.Module, earlier: WeightPlan, scores: Mapping[str, Tensor], normaliser: str
) -> dict[str, Tensor]:
    """Return normalised scores in which the weights that are removed already are the lowest.

    A metric may well give a weight of zero more than another; it must not grow again.
    """
    ranked: dict[str, Tensor] = {}
    present: dict[str, Tensor] = {}
    for name, values in scores.items():
        ranked[name] = values.detach().to("cpu", torch.float64).clone()
        if name not in earlier.kept:
            continue
        stays = torch.from_numpy(earlier.kept[name].unpack())
        present[name] = to_dense(stays, model.get_submodule(name)) > 0
        inside = as_array(ranked[name][present[name]], name)
        guard(inside, name)
        ranked[name][present[name]] = torch.from_numpy(normalise(inside, normaliser).copy())
    lowest = min(float(ranked[name][stays].min()) for name, stays in present.items())
    for name, stays in present.items():
        ranked[name][~stays] = lowest - max(1.0, abs(lowest))
    return ranked
