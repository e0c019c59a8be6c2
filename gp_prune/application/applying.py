"""Making the pruned network, and counting what it costs."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

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
from gp_prune.pruning.modules import Forward, tensors_of


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
        raise UserError(
            f"the network does not run on inputs of shape {shapes} ({reason}); give the shape of "
            "its inputs with --input-shape (example_inputs)"
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
        UserError: the network costs something else than was planned.
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
        return smaller, after
    masked = copy.deepcopy(model)
    mask(masked, plan, architecture)
    nonzero = measure(masked, inputs, forward_fn=forward_fn).nonzero
    if isinstance(plan, ChannelPlan):
        macs, params = predict(architecture, plan.kept(architecture))
        return masked, Cost(macs, params, nonzero)
    gone = sum(int((~kept.unpack()).sum()) for kept in plan.kept.values())
    share = 1.0 if plan.achieved.macs is None else plan.achieved.macs
    return masked, Cost(round(share * before.macs), before.params - gone, nonzero)
