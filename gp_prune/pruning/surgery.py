"""Carry out a plan: cut channels off a copy, or hold channels and weights at zero with masks.

Both act on the entries of module sides (see :class:`Slot`), so that a masked network computes what
the compact one computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import prune

from gp_prune.errors import UserError
from gp_prune.pruning.attention.modules import HeadAttention
from gp_prune.pruning.graph.architecture import (
    DEPTHWISE_SIDE,
    HEADS,
    IN,
    NORM_SIDE,
    OUT,
    PAD,
    RESHAPE,
    SIZE,
    Architecture,
)
from gp_prune.pruning.modules import (
    PARAMETER,
    channel_dim,
    find_module,
    find_owner,
    find_part,
    is_depthwise,
    is_grouped,
    is_transposed,
    masked_parameters,
    refuse_masked,
)
from gp_prune.pruning.padding import find_padding, shorten_padding
from gp_prune.pruning.plan.channels import ChannelPlan
from gp_prune.pruning.plan.weights import WeightPlan
from gp_prune.statistics.running import copy_model

Entries = Mapping[tuple[str, str], NDArray[np.int64]]
"""(module, side) -> sorted entries that go; see :meth:`Architecture.entries`."""

_WIDTHS = {
    OUT: ("out_channels", "out_features"),
    IN: ("in_channels", "in_features"),
    DEPTHWISE_SIDE: ("out_channels", "in_channels", "groups"),
    NORM_SIDE: ("num_features", "num_parameters", "num_channels"),
}
"""Attributes that hold the number of entries of a side."""


def compact(model: nn.Module, plan: ChannelPlan, architecture: Architecture) -> nn.Module:
    """Return a copy of ``model`` without the channels that ``plan`` removes.

    Parameters keep ``requires_grad``, modules keep ``training``; ``model`` is not touched. The
    parameters of layers that were cut are new objects, so an optimiser must be made afterwards.

    Args:
        model: the network that ``architecture`` was traced from, or one of the same build.
        plan: the channels to remove.
        architecture: where the channels are.

    Raises:
        UserError: the model carries pruning masks, or plan, architecture and model do not belong
            together.
    """
    refuse_masked(model)
    entries = _find_entries(model, plan, architecture)
    smaller = copy_model(model)
    remove_entries(smaller, entries)
    if entries:
        _make_contiguous(smaller)
    return smaller


def _make_contiguous(model: nn.Module) -> None:
    """Lay parameters out as torch does by default, in place.

    With ``channels_last`` and odd widths torch computes gradients of some convolutions beyond the
    end of their memory.
    """
    for parameter in model.parameters():
        if parameter.ndim >= 4 and not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()


def mask(
    model: nn.Module, plan: ChannelPlan | WeightPlan, architecture: Architecture | None = None
) -> None:
    """Hold what ``plan`` removes at zero, in place, with masks of :mod:`torch.nn.utils.prune`.

    Where a parameter carries a mask already, what either of them removes is zero.

    For channels the weights and biases that produce them, the batch norms on their way and the
    weights that read them are all zeroed, so that the masked network computes what
    :func:`compact` computes, whatever the activation functions are.

    Args:
        model: the network; its parameters ``weight`` become ``weight_orig`` with ``weight_mask``.
        plan: a channel plan or a weight plan.
        architecture: where the channels are; needed for a channel plan only.

    Raises:
        UserError: plan and model do not belong together.
    """
    if isinstance(plan, WeightPlan):
        masks = plan.masks(model)
    elif architecture is None:
        raise UserError("masking channels needs the architecture; give what trace() returned")
    else:
        masks = channel_masks(model, _find_entries(model, plan, architecture, masked=True))
    # Without gradients the masked weight stays a leaf tensor, so the model can still be copied.
    with torch.no_grad():
        for (name, parameter), keep in masks.items():
            prune.custom_from_mask(  # type: ignore[no-untyped-call]
                find_module(model, name), parameter, keep
            )


def unmask(model: nn.Module) -> None:
    """Make the masks permanent, in place: plain parameters again, with the zeros in them."""
    for _, module, parameter in list(masked_parameters(model)):
        prune.remove(module, parameter)  # type: ignore[no-untyped-call]


def _find_entries(
    model: nn.Module, plan: ChannelPlan, architecture: Architecture, *, masked: bool = False
) -> Entries:
    """Return the entries that go; UserError unless plan, model and architecture fit each other."""
    plan.check(architecture)
    for name in plan.removed:
        if masked and architecture.by_name[name].crosses_normalisation:
            raise UserError(
                f"the plan cuts group {name!r} across a normalisation that spans its channels, "
                "which zeros in their place would not; use mode 'compact', or trace without "
                "cut_residual"
            )
    traced_widths = {
        (slot.module, slot.side): len(slot.channels)
        for group in architecture.groups
        for slot in group.slots
    }
    entries = architecture.entries(plan.removed)
    for name, side in entries:
        if side == PAD:  # its width stands in the code of the module
            find_padding(model, name)
            continue
        width, traced = _width(model, name, side), traced_widths[name, side]
        if width != traced:
            raise UserError(
                f"layer {name!r} has {width} entries on side {side!r} where the architecture has "
                f"{traced}; give the network that was traced, or trace this one"
            )
    return entries


def _width(model: nn.Module, name: str, side: str) -> int:
    if side == SIZE:
        return int(getattr(*find_owner(model, name, side)))
    part = find_part(model, name, side)
    if side in (IN, OUT, DEPTHWISE_SIDE) and is_depthwise(part) != (side == DEPTHWISE_SIDE):
        return 0
    return side_width(part, side)


def side_width(module: Any, side: str) -> int:
    """Return the number of entries on one side of a module; 0 if it has no such side."""
    if side == RESHAPE:
        return int(module.unflattened_size[0]) if isinstance(module, nn.Unflatten) else 0
    if side == HEADS:
        return module.num_heads if isinstance(module, HeadAttention) else 0
    if side == PARAMETER:
        return int(module.shape[channel_dim(module)])
    if isinstance(module, nn.LayerNorm):
        return int(module.normalized_shape[-1])
    return next(
        (int(getattr(module, name)) for name in _WIDTHS.get(side, ()) if hasattr(module, name)), 0
    )


def remove_entries(model: nn.Module, entries: Entries) -> None:
    """Remove entries from module sides, in place, each side once.

    Args:
        model: the network to cut.
        entries: (module, side) -> sorted entries to remove.
    """
    done = set()  # grouped convolutions, which lose both sides at once
    for (name, side), removed in entries.items():
        if side == PARAMETER:
            owner, leaf = find_owner(model, name, side)
            _cut_parameter(owner, leaf, channel_dim(owner.get_parameter(leaf)), removed)
        elif side == SIZE:
            owner, leaf = find_owner(model, name, side)
            setattr(owner, leaf, getattr(owner, leaf) - len(removed))
        elif side == PAD:
            shorten_padding(model, name, len(removed))
        elif name not in done:
            module = find_module(model, name)
            if is_grouped(module) and side in (IN, OUT):
                done.add(name)
                _cut_grouped(module, entries.get((name, IN)), entries.get((name, OUT)))
            else:
                _cut_side(module, side, removed)


def _cut_side(module: Any, side: str, removed: NDArray[np.int64]) -> None:
    left = side_width(module, side) - len(removed)
    if side == RESHAPE:
        module.unflattened_size = (left, *module.unflattened_size[1:])
        return
    if side == HEADS:
        module.remove_heads(removed.tolist())
        return
    for name, dim in _parameters(module, side):
        _cut_parameter(module, name, dim, removed)
    for name in ("running_mean", "running_var") if side == NORM_SIDE else ():
        statistics = getattr(module, name, None)
        if statistics is not None:
            setattr(module, name, _without(statistics, 0, removed))
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = (left,)
    for name in _WIDTHS[side]:
        if hasattr(module, name):
            setattr(module, name, left)


def _cut_parameter(owner: nn.Module, name: str, dim: int, removed: NDArray[np.int64]) -> None:
    parameter: Any = owner._parameters[name]
    smaller = _without(parameter.data, dim, removed)
    setattr(owner, name, nn.Parameter(smaller, parameter.requires_grad))


def _without(values: Tensor, dim: int, removed: NDArray[np.int64]) -> Tensor:
    keep = np.ones(values.shape[dim], dtype=bool)
    keep[removed] = False
    return values.index_select(dim, _index(keep, values))


def _index(keep: NDArray[np.bool_], like: Tensor) -> Tensor:
    return torch.from_numpy(np.flatnonzero(keep)).to(like.device)


def _cut_grouped(
    module: Any, inputs: NDArray[np.int64] | None, outputs: NDArray[np.int64] | None
) -> None:
    """Cut a grouped convolution: whole groups, or the same number of entries from every group."""
    sides = []
    for width, removed in ((module.in_channels, inputs), (module.out_channels, outputs)):
        keep = np.ones(width, dtype=bool)
        keep[[] if removed is None else removed] = False
        sides.append(keep.reshape(module.groups, -1))
    reads, makes = sides
    stays = np.asarray(reads.any(axis=1) & makes.any(axis=1))
    groups = np.flatnonzero(stays)
    rows, columns = (reads, makes) if module.transposed else (makes, reads)
    size = rows.shape[1]
    weight, bias = module.weight, module.bias
    parts = []
    for group in groups.tolist():
        part = weight.data[group * size : (group + 1) * size]
        parts.append(part[_index(rows[group], part)][:, _index(columns[group], part)])
    module.weight = nn.Parameter(torch.cat(parts), weight.requires_grad)
    if bias is not None:
        kept = (makes & stays[:, np.newaxis]).ravel()
        module.bias = nn.Parameter(bias.data[_index(kept, bias)], bias.requires_grad)
    module.groups = len(groups)
    module.in_channels = int(reads[groups].sum())
    module.out_channels = int(makes[groups].sum())


def channel_masks(model: nn.Module, entries: Entries) -> dict[tuple[str, str], Tensor]:
    """Return what stays: (module, parameter) -> bool tensor of the parameter's shape.

    Args:
        model: the network.
        entries: (module, side) -> entries that go.
    """
    masks: dict[tuple[str, str], Tensor] = {}
    for (name, parameter), dim, removed in _zeros(model, entries):
        module = find_module(model, name)
        weight = getattr(module, parameter)
        keep = masks.get((name, parameter))
        if keep is None:
            keep = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
            masks[name, parameter] = keep
        _fill_with_zero(module, keep, dim, removed)
    return masks


def set_to_zero(model: nn.Module, entries: Entries) -> None:
    """Set to zero, in place and for good, what :func:`channel_masks` holds at zero.

    Args:
        model: a network whose numbers nobody else needs.
        entries: (module, side) -> entries that go.
    """
    with torch.no_grad():
        for (name, parameter), dim, removed in _zeros(model, entries):
            module = find_module(model, name)
            _fill_with_zero(module, getattr(module, parameter), dim, removed)


def _zeros(
    model: nn.Module, entries: Entries
) -> Iterator[tuple[tuple[str, str], int | None, NDArray[np.int64]]]:
    """Yield what loses values: (module, parameter), the dimension of the entries, the entries.

    The dimension is None where they are offsets within each group of a grouped convolution.
    """
    for (name, side), removed in entries.items():
        if side in (SIZE, RESHAPE, HEADS, PAD):
            continue
        if side == PARAMETER:
            owner, leaf = find_owner(model, name, side)
            dim = channel_dim(owner.get_parameter(leaf))
            yield (name.rpartition(".")[0], leaf), dim, removed
            continue
        module = find_module(model, name)
        if isinstance(module, nn.PReLU):
            continue  # it maps zero to zero, whatever its slopes are
        for parameter, dim in _parameters(module, side):
            yield (name, parameter), None if dim == 1 and is_grouped(module) else dim, removed


def _parameters(module: nn.Module, side: str) -> list[tuple[str, int]]:
    """Return the parameters with entries on this side, each with the dimension of the entries."""
    if side == IN:
        return [("weight", 0 if is_transposed(module) else 1)]
    dim = 1 if side == OUT and is_transposed(module) else 0
    present = [("weight", dim), ("bias", 0)]
    return [(name, d) for name, d in present if getattr(module, name, None) is not None]


def _fill_with_zero(
    module: Any, values: Tensor, dim: int | None, removed: NDArray[np.int64]
) -> None:
    """Set entries of a parameter, or of its mask, to zero (False), in place."""
    index = torch.from_numpy(removed).to(values.device)
    if dim is not None:
        values.index_fill_(dim, index, 0)
        return
    # The columns are the offsets within each group, whose rows follow those of the group before.
    by_group = values.view(module.groups, -1, *values.shape[1:])
    group, offset = index // values.shape[1], index % values.shape[1]
    by_group[group, :, offset] = 0
