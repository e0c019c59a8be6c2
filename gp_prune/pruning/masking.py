"""Masks: channels or weights held at zero through :mod:`torch.nn.utils.prune`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import prune

from gp_prune.errors import UserError
from gp_prune.pruning.architecture import HEADS, IN, OUT, RESHAPE, SIZE, Architecture
from gp_prune.pruning.modules import (
    PARAMETER,
    channel_dim,
    find_module,
    is_grouped,
    is_transposed,
    masked_parameters,
)
from gp_prune.pruning.plan import ChannelPlan
from gp_prune.pruning.surgery import Entries, check_widths
from gp_prune.pruning.weight_plan import WeightPlan


def mask(
    model: nn.Module, plan: ChannelPlan | WeightPlan, architecture: Architecture | None = None
) -> None:
    """Hold what ``plan`` removes at zero, in place, with masks of :mod:`torch.nn.utils.prune`.

    Where a parameter carries a mask already, what either of them removes is zero.

    For channels the weights and biases that produce them, the batch norms on their way and the
    weights that read them are all zeroed, so that the masked network computes what
    :func:`gp_prune.pruning.compact` computes, whatever the activation functions are.

    Args:
        model: the network; its parameters ``weight`` become ``weight_orig`` with ``weight_mask``.
        plan: a channel plan or a weight plan.
        architecture: where the channels are; needed for a channel plan only.

    Raises:
        UserError: plan and model do not belong together.
    """
    if isinstance(plan, ChannelPlan):
        if architecture is None:
            raise UserError("masking channels needs the architecture; give what trace() returned")
        plan.check(architecture)
        _refuse_crossing(plan, architecture)
        entries = architecture.entries(plan.removed)
        check_widths(model, entries, architecture)
        masks = channel_masks(model, entries)
    else:
        masks = plan.masks(model)
    # Without gradients the masked weight stays a leaf tensor, so the model can still be copied.
    with torch.no_grad():
        for (name, parameter), keep in masks.items():
            prune.custom_from_mask(  # type: ignore[no-untyped-call]
                find_module(model, name), parameter, keep
            )


def _refuse_crossing(plan: ChannelPlan, architecture: Architecture) -> None:
    for name in plan.removed:
        if architecture.by_name[name].crosses_normalisation:
            raise UserError(
                f"the plan cuts group {name!r} across a normalisation that spans its channels, "
                "which zeros in their place would not; use mode 'compact', or trace without "
                "cut_residual"
            )


def unmask(model: nn.Module) -> None:
    """Make the masks permanent, in place: plain parameters again, with the zeros in them."""
    for _, module, parameter in list(masked_parameters(model)):
        prune.remove(module, parameter)  # type: ignore[no-untyped-call]


def channel_masks(model: nn.Module, entries: Entries) -> dict[tuple[str, str], Tensor]:
    """What stays of each parameter: (module, parameter) -> bool tensor of the parameter's shape.

    Args:
        model: the network.
        entries: (module, side) -> entries that go (see :meth:`Architecture.entries`).
    """
    masks: dict[tuple[str, str], Tensor] = {}
    for (name, side), gone in entries.items():
        if side == SIZE:
            continue
        if side == PARAMETER:
            name, _, leaf = name.rpartition(".")
            zeroed = [(leaf, channel_dim(find_module(model, name).get_parameter(leaf)))]
        else:
            zeroed = _zeroed(find_module(model, name), side)
        module = find_module(model, name)
        index = torch.from_numpy(gone)
        for parameter, dim in zeroed:
            weight = getattr(module, parameter)
            keep = masks.get((name, parameter))
            if keep is None:
                keep = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
            if side != PARAMETER and dim == 1 and is_grouped(module):
                masks[name, parameter] = _without_columns(module, keep, gone)
            else:
                masks[name, parameter] = keep.index_fill_(dim, index.to(weight.device), False)
    return masks


def _without_columns(module: Any, keep: Tensor, gone: NDArray[np.int64]) -> Tensor:
    """A grouped convolution's mask without entries of the side that the weight's columns are.

    The columns are the offsets within each group, whose rows follow those of the group before.
    """
    by_group = keep.reshape(module.groups, -1, *keep.shape[1:]).clone()
    group, offset = np.divmod(gone, keep.shape[1])
    by_group[torch.from_numpy(group), :, torch.from_numpy(offset)] = False
    return by_group.reshape(keep.shape)


def _zeroed(module: nn.Module, side: str) -> list[tuple[str, int]]:
    """Parameters that lose values on this side, each with the dimension of the channels."""
    if side in (RESHAPE, HEADS) or isinstance(module, nn.PReLU):
        return []  # a PReLU maps zero to zero, whatever its slopes are
    if side == IN:
        return [("weight", 0 if is_transposed(module) else 1)]
    dim = 1 if side == OUT and is_transposed(module) else 0
    present = [("weight", dim), ("bias", 0)]
    return [(name, d) for name, d in present if getattr(module, name, None) is not None]
