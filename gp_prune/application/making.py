"""From a network to the smaller one: the channels that belong together, the plan, the cut."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from gp_prune.application.applying import apply
from gp_prune.application.latency import ToLatency
from gp_prune.application.request import LATENCY, Request, ignoring, needs_data
from gp_prune.application.steps import Sequence, planned, to_budget
from gp_prune.errors import UserError
from gp_prune.pruning import Architecture, ChannelPlan, Cost, trace
from gp_prune.pruning.probe import FORWARD_ERRORS
from gp_prune.pruning.tracing import objection_to


class Made(NamedTuple):
    """A pruned network and what it was made by.

    Attributes:
        architecture: the channel groups of the whole network.
        sequence: the plan and how it came about.
        model: the pruned network.
        after: its cost.
        floor: share of the time that the smallest network takes, where that was measured.
    """

    architecture: Architecture
    sequence: Sequence
    model: nn.Module
    after: Cost
    floor: float | None


def made(model: nn.Module, request: Request, before: Cost) -> Made:
    """The pruned network.

    Args:
        model: the network; it stays as it is.
        request: what is asked.
        before: its cost.

    Raises:
        UserError: the network cannot be pruned as it is asked.
    """
    if _may_be_tried_later(request):
        found = _proved(model, request, before)
        if found is not None:
            return found
    return _made(model, request, before, try_out=True)


def _may_be_tried_later(request: Request) -> bool:
    """Whether nothing is lost if the network is cut first, and the cut then tried out."""
    return (
        request.mode == "compact"
        and request.kind != LATENCY
        and request.steps == 1
        and not needs_data(request.metric)
    )


def _proved(model: nn.Module, request: Request, before: Cost) -> Made | None:
    """The pruned network, if the cut that is made computes what it should.

    Trying out the one cut takes the place of trying out any, before there is a plan. If it does
    not pass, tracing finds out what cannot be cut, and gives the errors that there are.
    """
    try:
        found = _made(model, request, before, try_out=False)
    except (UserError, *FORWARD_ERRORS):
        return None
    plan = found.sequence.plan
    assert isinstance(plan, ChannelPlan)
    architecture, forward_fn = found.architecture, request.forward_fn
    why = objection_to(model, request.inputs, architecture, plan.removed, forward_fn=forward_fn)
    return None if why else found


def _made(model: nn.Module, request: Request, before: Cost, *, try_out: bool) -> Made:
    request.tell("finding the channels that belong together")
    architecture = trace(
        model,
        request.inputs,
        interface=request.interface,
        cut_residual=request.cut_residual,
        forward_fn=request.forward_fn,
        try_out=try_out,
    )
    if not request.by_weight:
        architecture = ignoring(architecture, request.ignore)
    to_latency = ToLatency(model, request) if request.kind == LATENCY else None
    sequence = planned(model, architecture, request, to_latency or to_budget(request))
    request.tell("removing channels" if request.mode == "compact" else "setting masks")
    smaller, after = apply(model, sequence.plan, architecture, request, before)
    floor = None if to_latency is None else to_latency.floor
    return Made(architecture, sequence, smaller, after, floor)
