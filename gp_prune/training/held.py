"""Hold what was pruned at zero in a network whose masks were made permanent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.pruning import Architecture, ChannelPlan, WeightPlan
from gp_prune.pruning.modules import find_module
from gp_prune.pruning.surgery import channel_masks
from gp_prune.training.gradual import Zeros

Held = Mapping[tuple[str, str], Tensor]
"""(module, parameter) -> bool tensor of the parameter's shape: False where a zero must stay."""


def held_by(
    model: nn.Module, plan: ChannelPlan | WeightPlan, architecture: Architecture | None = None
) -> dict[tuple[str, str], Tensor]:
    """Return what ``plan`` holds at zero in a network whose masks were made permanent.

    :func:`gp_prune.pruning.unmask` keeps the zeros but takes away what would keep them in
    training; give this as ``held`` to :func:`gp_prune.training.fine_tune`.

    Args:
        model: the network, of its original widths.
        plan: what was masked.
        architecture: where the channels are; needed for a channel plan only.

    Raises:
        UserError: plan and model do not belong together.
    """
    if isinstance(plan, WeightPlan):
        return plan.masks(model)
    if architecture is None:
        raise UserError("holding channels needs the architecture; give what trace() returned")
    plan.check(architecture)
    return channel_masks(model, architecture.entries(plan.removed))


def find_zeros(model: nn.Module, held: Held) -> Zeros:
    """Return every held parameter with a mask of the entries that must stay zero.

    Raises:
        UserError: the network lacks a parameter, it has another shape, or it is not zero where it
            should be.
    """
    zeros: Zeros = []
    for (module, name), keep in held.items():
        parameter = find_module(model, module)._parameters.get(name)
        what = f"parameter {name!r} of layer {module!r}"
        if parameter is None:
            raise UserError(
                f"the network has no {what}; give the network that the plan was made for, "
                "without masks (unmask)"
            )
        if parameter.shape != keep.shape:
            raise UserError(
                f"{what} has shape {tuple(parameter.shape)}, what is held {tuple(keep.shape)}; "
                "give the network that the plan was made for"
            )
        zero = ~keep.to(parameter.device, torch.bool)
        if bool(parameter.detach()[zero].count_nonzero()):
            raise UserError(
                f"{what} is not zero where it is to be held; apply the plan with mask() and "
                "make it permanent with unmask() first"
            )
        zeros.append((parameter, zero))
    return zeros


@torch.no_grad()
def set_zeros(zeros: Zeros) -> None:
    """Set every entry that must stay zero to zero."""
    for parameter, zero in zeros:
        parameter.masked_fill_(zero, 0.0)
