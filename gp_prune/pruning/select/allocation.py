"""Divide a budget among the layers by a rule of its own, apart from which channels of each go.

Where a network is cut explains as much of its error as what is cut, so metrics compare fairly only
under one allocation. The names are in :data:`gp_prune.metric.file.ALLOCATIONS`.

A formula of type {} has one value v for each layer; that of a group of coupled layers is joined
from theirs, the mean by default. Group g keeps the share min(1, c max(v_g, 1e-6 m) / m) of its
channels, and one at least, where m is the mean of the positive parts max(v, 0) over the groups and
c the number with which the budget is met. Multiplying all values by a positive number changes
nothing, equal values are the allocation ``uniform``, and the scores that choose the channels of a
group play no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from gp_prune.errors import DegenerateScores
from gp_prune.metric.file import OWN, RESIDUAL_WHOLE, Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning.graph.architecture import Architecture
from gp_prune.pruning.graph.places import is_stream
from gp_prune.pruning.plan.channels import Budget, ChannelPlan
from gp_prune.pruning.select.channels import select_channels
from gp_prune.pruning.select.scores import read_scores

STREAM = "several layers make its channels together (allocation residual-whole)"
"""Why the channels of a residual stream stay."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """How many channels each layer loses.

    Attributes:
        name: one of :data:`gp_prune.metric.file.ALLOCATIONS`, or where ``scores`` are given, what
            the metric that gave them is called.
        scores: layer name -> scores (o,) of the metric whose global ranking gives the shares.
        conventions: those of that metric; its join is used.
        values: layer name -> value () of the formula of type {} that gives the shares.
    """

    name: str = OWN
    scores: Mapping[str, Any] | None = None
    conventions: Conventions = Conventions()
    values: Mapping[str, Any] | None = None

    @classmethod
    def by(cls, metric: Metric, scores: Mapping[str, Any], name: str = "") -> Self:
        """Return the allocation by a metric of channels, or by a formula of the shares.

        Args:
            metric: what gives the shares.
            scores: layer name -> its scores (o,) or value ().
            name: what it is called; by default as the metric.
        """
        kind = "values" if metric.granularity == "layer" else "scores"
        return cls(name or metric.name, conventions=metric.conventions, **{kind: scores})

    def ranking(self, conventions: Conventions) -> Conventions:
        """Return the conventions by which the channels are chosen."""
        by_metric = self.scores is not None or self.values is not None
        return conventions.under("uniform" if by_metric else self.name)

    @property
    def ranking_of_shares(self) -> Conventions:
        """Return the conventions under which ``scores`` give the shares."""
        return self.conventions.under("global")


OWN_ALLOCATION = Allocation()


def keep_streams(architecture: Architecture) -> Architecture:
    """Keep the residual streams whole; :data:`STREAM` is why these groups are fixed."""
    groups = [
        replace(group, fixed=STREAM) if not group.fixed and is_stream(group) else group
        for group in architecture.groups
    ]
    return replace(architecture, groups=tuple(groups))


def shares_of(plan: ChannelPlan, architecture: Architecture) -> dict[str, float]:
    """Return the share of its channels that each free group keeps by a plan."""
    kept = plan.kept(architecture)
    return {group.name: kept[group.name] / group.size for group in architecture.free}


_JOINS: dict[str, Callable[[Sequence[float]], float]]
_JOINS = {"sum": np.sum, "mean": np.mean, "max": np.max, "first": lambda values: values[0]}

_LEAST = 1e-6
"""The least value of a group, as a share of the mean."""

_DECIMALS = 9
"""Values are rounded to these, as shares of their mean: rounding errors decide nothing."""


def group_weights(
    architecture: Architecture, values: Mapping[str, Any], join: str
) -> dict[str, float]:
    """Return max(v_g, 1e-6 m) / m for every free group, see the text of this module.

    Args:
        architecture: the traced network.
        values: layer name -> value () of a formula of type {}.
        join: how the values of coupled layers become one, as in :class:`Conventions`.

    Raises:
        DegenerateScores: a value is not finite, or none is above 0.
    """
    groups = architecture.free
    joined = np.empty(len(groups))
    for number, group in enumerate(groups):
        of_layers = [read_scores(values, name, ()).item() for name in group.producers]
        joined[number] = _JOINS[join](of_layers)
        if not np.isfinite(joined[number]):
            raise DegenerateScores("non-finite", group.name, "the value of its share is not finite")
    largest = joined.max(initial=0.0)
    if groups and largest == 0:
        raise DegenerateScores("constant", groups[0].name, "no layer has a value above 0")
    joined = joined / largest  # before the mean, which might be too large a number
    relative = np.round(joined / np.maximum(joined, 0).mean(), _DECIMALS).clip(min=_LEAST)
    return {group.name: float(x) for group, x in zip(groups, relative, strict=True)}


def select_allocated(
    architecture: Architecture,
    layer_scores: Mapping[str, Any],
    conventions: Conventions,
    budget: Budget,
    allocation: Allocation = OWN_ALLOCATION,
    **options: Any,
) -> ChannelPlan:
    """Choose the channels to remove, the number of each group by an allocation.

    Args:
        architecture: the traced network.
        layer_scores: layer name -> scores (o,), higher = keep.
        conventions: those of the metric; its join and, as the allocation says, the others are used.
        budget: the share to keep.
        allocation: how the budget is divided.
        options: ``round_to``, ``least`` and ``keep_shares`` of :func:`select_channels`.

    Raises:
        DegenerateScores: scores are not finite, have the wrong shape or are all equal.
        UserError: as :func:`select_channels`.
    """
    if allocation.name == RESIDUAL_WHOLE and allocation.scores is None:
        architecture = keep_streams(architecture)
    if allocation.scores is not None:
        ranking = allocation.ranking_of_shares
        shared = select_channels(architecture, allocation.scores, ranking, budget, **options)
        options["keep_shares"] = shares_of(shared, architecture)
    if allocation.values is not None:
        join = allocation.conventions.join
        options["weights"] = group_weights(architecture, allocation.values, join)
    ranking = allocation.ranking(conventions)
    return select_channels(architecture, layer_scores, ranking, budget, **options)
