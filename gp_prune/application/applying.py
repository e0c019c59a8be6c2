"""Making the pruned network, and counting what it costs."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from gp_prune.application.request import Request
from gp_prune.errors import UserError
from gp_prune.pruning import (
    Architecture,
    ChannelPlan,
    Cost,
    WeightPlan,
    compact,
    mask,
    measure,
    predict,
)
from gp_prune.pruning.masking import set_to_zero
from gp_prune.pruning.modules import Forward, evaluation, run, seed_generators, tensors_of

_TOLERANCE = 1e-3
"""Largest difference of masked and compact outputs, as a share of the largest output."""


def first_cost(model: nn.Module, inputs: Any, forward_fn: Forward | None) -> Cost:
    """Cost of the network as it is given.

    Raises:
        UserError: it does not run on the inputs.
    """
    try:
        return measure(model, inputs, forward_fn=forward_fn)
    except UserError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(inputs))
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = "give the shape of its inputs with --input-shape (example_inputs)"
        if forward_fn is not None:
            remedy = "give example_inputs that forward_fn can run it on"
        elif not isinstance(inputs, Tensor):
            remedy = (
                "give example_inputs that it can be called with, or forward_fn, which runs it on "
                "them, to gp_prune.prune()"
            )
        raise UserError(
            f"the network does not run on inputs of shape {shapes} ({reason}); {remedy}"
        ) from error


def apply(
    model: nn.Module,
    plan: ChannelPlan | WeightPlan,
    architecture: Architecture,
    request: Request,
    before: Cost,
) -> tuple[nn.Module, Cost]:
    """The pruned copy and its cost.

    Raises:
        UserError: the network costs or computes something else than was planned.
    """
    inputs, forward_fn = request.inputs, request.forward_fn
    if request.mode == "compact":
        assert isinstance(plan, ChannelPlan)
        smaller = compact(model, plan, architecture)
        after = measure(smaller, inputs, forward_fn=forward_fn)
        predicted = predict(architecture, plan.kept(architecture))
        if (after.macs, after.params) != predicted:
            raise UserError(
                f"the pruned network has {after.macs} MACs and {after.params} parameters where "
                f"{predicted[0]} and {predicted[1]} were planned; use mode 'mask' for this network"
            )
        if not any(architecture.by_name[name].crosses_normalisation for name in plan.removed):
            _check_equal(_zeroed(model, plan, architecture), smaller, request)
        return smaller, after
    masked = _masked(model, plan, architecture)
    nonzero = measure(masked, inputs, forward_fn=forward_fn).nonzero
    if isinstance(plan, ChannelPlan):
        macs, params = predict(architecture, plan.kept(architecture))
        return masked, Cost(macs, params, nonzero)
    gone = sum(int((~kept.unpack()).sum()) for kept in plan.kept.values())
    share = 1.0 if plan.achieved.macs is None else plan.achieved.macs
    return masked, Cost(round(share * before.macs), before.params - gone, nonzero)


def _masked(
    model: nn.Module, plan: ChannelPlan | WeightPlan, architecture: Architecture
) -> nn.Module:
    masked = copy.deepcopy(model)
    mask(masked, plan, architecture)
    return masked


def _zeroed(model: nn.Module, plan: ChannelPlan, architecture: Architecture) -> nn.Module:
    """What a masked network computes, without the memory that masks take."""
    zeroed = copy.deepcopy(model)
    set_to_zero(zeroed, architecture.entries(plan.removed))
    return zeroed


def _check_equal(masked: nn.Module, smaller: nn.Module, request: Request) -> None:
    """Raise UserError unless removing the channels did what holding them at zero does.

    Tracing tries this on one cut with random weights; this is the cut that is made.
    """
    outputs = []
    for network in (masked, smaller):
        with evaluation(network), torch.no_grad():
            seed_generators(request.seed)
            found = tensors_of(run(network, request.inputs, request.forward_fn))
        outputs.append([tensor for tensor in found if tensor.is_floating_point()])
    for one, other in zip(*outputs, strict=True):
        if not one.numel() or not bool(one.isfinite().all()):
            continue
        scale = float(one.abs().amax()) or 1.0
        share = float((one - other).abs().amax()) / scale if one.shape == other.shape else math.inf
        if not share <= _TOLERANCE:
            raise UserError(
                "the network without the channels gives other outputs than with the channels at "
                f"zero (they differ by {share:.2g} of the largest); it uses them in a way that "
                "cannot be followed, so use mode 'mask', or ignore the layers concerned"
            )
