"""Divide a budget among the layers by a rule of its own, apart from which channels of each go.

Where a network is cut explains as much of its error as what is cut, so metrics compare fairly only
under one allocation. The names are in :data:`gp_prune.metric.file.ALLOCATIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gp_prune.metric.file import OWN, RESIDUAL_WHOLE, Conventions
from gp_prune.pruning.graph.architecture import OUT, SEVERAL, Architecture, ChannelGroup
from gp_prune.pruning.plan.channels import Budget, ChannelPlan
from gp_prune.pruning.select.channels import select_channels

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
    """

    name: str = OWN
    scores: Mapping[str, Any] | None = None
    conventions: Conventions = Conventions()

    def ranking(self, conventions: Conventions) -> Conventions:
        """Return the conventions by which the channels are chosen."""
        return conventions.under(self.name if self.scores is None else "uniform")

    @property
    def ranking_of_shares(self) -> Conventions:
        """Return the conventions under which ``scores`` give the shares."""
        return self.conventions.under("global")


OWN_ALLOCATION = Allocation()


def is_stream(group: ChannelGroup) -> bool:
    """Return whether several layers make the channels together: a residual sum, a gated product.

    A depthwise convolution makes nothing of its own, and the layers that a grouped convolution
    ties make different channels. Attention heads are no stream.
    """
    made = [slot.stream for slot in group.slots if slot.side == OUT and slot.stream != SEVERAL]
    return not group.has_heads and len(made) > len(set(made))


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
    ranking = allocation.ranking(conventions)
    return select_channels(architecture, layer_scores, ranking, budget, **options)
