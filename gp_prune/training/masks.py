"""Zeros that stay zero while a network is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.pruning import Architecture, ChannelPlan, WeightPlan
from gp_prune.pruning.modules import find_module, masked_parameters
from gp_prune.pruning.surgery import channel_masks

Held = Mapping[tuple[str, str], Tensor]
"""(module, parameter) -> bool tensor of the parameter's shape: False where a zero must stay."""


def held_by(
    model: nn.Module, plan: ChannelPlan | WeightPlan, architecture: Architecture | None = None
) -> dict[tuple[str, str], Tensor]:
    """What ``plan`` holds at zero in a network whose masks were made permanent.

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


class Holder:
    """Puts zeros back into the parameters of a network.

    Args:
        model: the network.
        held: what stays.

    Raises:
        UserError: the network lacks a parameter, it has another shape, or it is not zero where it
            should be.
    """

    def __init__(self, model: nn.Module, held: Held) -> None:
        self._gone: list[tuple[nn.Parameter, Tensor]] = []
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
            gone = ~keep.to(parameter.device, torch.bool)
            if bool(parameter.detach()[gone].count_nonzero()):
                raise UserError(
                    f"{what} is not zero where it is to be held; apply the plan with mask() and "
                    "make it permanent with unmask() first"
                )
            self._gone.append((parameter, gone))

    def apply(self) -> None:
        """Make every held entry zero."""
        with torch.no_grad():
            for parameter, gone in self._gone:
                parameter.masked_fill_(gone, 0.0)


def renew_masked(model: nn.Module) -> None:
    """Compute the masked tensors from their parameters, as plain tensors, in place.

    A masked layer makes the tensor that it computes with when it runs, so after a change of its
    parameter the old one is still there; and one that was made with gradients cannot be copied.
    """
    with torch.no_grad():
        for _, module, name in masked_parameters(model):
            setattr(module, name, getattr(module, f"{name}_orig") * getattr(module, f"{name}_mask"))
