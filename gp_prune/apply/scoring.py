"""Scoring the layers of a network, and choosing by the scores."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from gp_prune.apply.batches import as_batches
from gp_prune.apply.options import Request
from gp_prune.language.primitive import Operand
from gp_prune.metric.ranking import Conventions
from gp_prune.pruning import (
    Architecture,
    Budget,
    ChannelPlan,
    DegenerateScores,
    WeightPlan,
    consumers,
    select_channels,
    select_weights,
)
from gp_prune.statistics import collect_each

_WITHOUT_NORM = frozenset({"W", "b"})
"""Operands that are the same whether a batch norm follows or not."""


def scored_layers(architecture: Architecture, request: Request) -> tuple[str, ...]:
    """The layers that need scores."""
    if not request.by_weight:
        return architecture.scored_layers
    return tuple(name for name in architecture.prunable_layers if name not in request.ignore)


def layer_scores(
    model: nn.Module, architecture: Architecture, request: Request
) -> dict[str, Tensor]:
    """Layer name -> scores (o,) or (o, i, k), measured on ``model``.

    Args:
        model: the network as it is now.
        architecture: its channel groups.
        request: the metric and what it measures on.
    """
    metric = request.metric
    operands = {n.name for n in metric.expression.nodes() if isinstance(n.head, Operand)}
    records = collect_each(
        model,
        scored_layers(architecture, request),
        as_batches(request.data),
        needs=metric.needs,
        loss=request.loss,
        seed=request.seed,
        example_inputs=request.inputs,
        outgoing=consumers(architecture) if "outgoing" in metric.needs else None,
        forward_fn=request.forward_fn,
        progress=request.batch_progress,
        norms=not operands <= _WITHOUT_NORM,
    )
    # One record after the other: together they are several times the network.
    return {name: metric.scores(record) for name, record in records}


def chosen_channels(
    architecture: Architecture, scores: Mapping[str, Tensor], request: Request, budget: Budget
) -> ChannelPlan:
    """The channels that go; DegenerateScores names the metric if it does not rank them."""
    try:
        return select_channels(
            architecture, scores, request.conventions, budget, round_to=request.round_to
        )
    except DegenerateScores as error:
        raise _named(error, request) from error


def chosen_weights(
    model: nn.Module,
    architecture: Architecture,
    scores: Mapping[str, Tensor],
    request: Request,
    budget: Budget,
    conventions: Conventions,
) -> WeightPlan:
    """The weights that stay; DegenerateScores names the metric if it does not rank them."""
    try:
        return select_weights(
            model,
            architecture,
            scores,
            conventions,
            budget if request.pattern is None else None,
            pattern=request.pattern,
            ignore=request.ignore,
        )
    except DegenerateScores as error:
        raise _named(error, request) from error


def _named(error: DegenerateScores, request: Request) -> DegenerateScores:
    advice = f"metric {request.metric.name!r} cannot rank it, use trained weights or another metric"
    return DegenerateScores(error.reason, error.layer, f"{error.detail}; {advice}")
