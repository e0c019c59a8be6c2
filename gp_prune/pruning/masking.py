"""Masks: channels or weights held at zero through :mod:`torch.nn.utils.prune`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import prune

from gp_prune.errors import UserError
from gp_prune.pruning.graph.architecture import HEADS, IN, OUT, RESHAPE, SIZE, Architecture
from gp_prune.pruning.modules import (
    PARAMETER,
    channel_dim,
    find_module,
    find_parameter,
    is_grouped,
    is_transposed,
    masked_parameters,
)
from gp_prune.pruning.plan.channels import ChannelPlan
from gp_prune.pruning.plan.weights import WeightPlan
from gp_prune.pruning.surgery import Entries, check_widths


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
    for (name, parameter), dim, gone in _zeros(model, entries):
        module = find_module(model, name)
        weight = getattr(module, parameter)
        keep = masks.get((name, parameter))
        if keep is None:
            keep = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
            masks[name, parameter] = keep
        _fill(module, keep, dim, gone)
    return masks


def set_to_zero(model: nn.Module, entries: Entries) -> None:
    """Set to zero, in place and for good, what :func:`channel_masks` holds at zero.

    Args:
        model: a network whose numbers nobody else needs.
        entries: (module, side) -> entries that go (see :meth:`Architecture.entries`).
    """
    with torch.no_grad():
        for (name, parameter), dim, gone in _zeros(model, entries):
            module = find_module(model, name)
            _fill(module, getattr(module, parameter), dim, gone)


def _zeros(
    model: nn.Module, entries: Entries
) -> Iterator[tuple[tuple[str, str], int | None, NDArray[np.int64]]]:
    """What loses values: (module, parameter), the dimension of the entries, the entries.

    The dimension is None where they are offsets within each group of a grouped convolution.
    """
    for (name, side), gone in entries.items():
        if side == SIZE:
            continue
        if side == PARAMETER:
            owner, leaf = find_parameter(model, name)
            yield (name.rpartition(".")[0], leaf), channel_dim(owner.get_parameter(leaf)), gone
            continue
        module = find_module(model, name)
        for parameter, dim in _zeroed(module, side):
            yield (name, parameter), None if dim == 1 and is_grouped(module) else dim, gone


def _fill(module: Any, values: Tensor, dim: int | None, gone: NDArray[np.int64]) -> None:
    """Set entries of a parameter, or of its mask, to zero (False), in place."""
    index = torch.from_numpy(gone).to(values.device)
    if dim is not None:
        values.index_fill_(dim, index, 0)
        return
    # The columns are the offsets within each group, whose rows follow those of the group before.
    by_group = values.view(module.groups, -1, *values.shape[1:])
    group, offset = index // values.shape[1], index % values.shape[1]
    by_group[group, :, offset] = 0


def _zeroed(module: nn.Module, side: str) -> list[tuple[str, int]]:
    """Parameters that lose values on this side, each with the dimension of the channels."""
    if side in (RESHAPE, HEADS) or isinstance(module, nn.PReLU):
        return []  # a PReLU maps zero to zero, whatever its slopes are
    if side == IN:
        return [("weight", 0 if is_transposed(module) else 1)]
    dim = 1 if side == OUT and is_transposed(module) else 0
    present = [("weight", dim), ("bias", 0)]
    return [(name, d) for name, d in present if getattr(module, name, None) is not None]
