"""Removing channels: a smaller copy of a network, through Torch-Pruning's layer functions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.pruning.attention.modules import HeadAttention
from gp_prune.pruning.graph.architecture import (
    DEPTHWISE_SIDE,
    HEADS,
    IN,
    NORM_SIDE,
    OUT,
    RESHAPE,
    SIZE,
    Architecture,
)
from gp_prune.pruning.modules import (
    PARAMETER,
    Conv,
    InstanceNorm,
    Spanning,
    channel_dim,
    find_attribute,
    find_module,
    find_parameter,
    find_part,
    is_grouped,
    refuse_masked,
)
from gp_prune.pruning.plan.channels import ChannelPlan

Entries = Mapping[tuple[str, str], NDArray[np.int64]]


def compact(model: nn.Module, plan: ChannelPlan, architecture: Architecture) -> nn.Module:
    """A copy of ``model`` without the channels that ``plan`` removes.

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
    plan.check(architecture)
    entries = architecture.entries(plan.removed)
    check_widths(model, entries, architecture)
    smaller = copy.deepcopy(model)
    remove_entries(smaller, entries)
    return smaller


def check_widths(model: nn.Module, entries: Entries, architecture: Architecture) -> None:
    """Raise UserError unless every module side to be cut exists and has the traced width."""
    widths = {
        (slot.module, slot.side): len(slot.channels)
        for group in architecture.groups
        for slot in group.slots
    }
    for name, side in entries:
        found, traced = _width(model, name, side), widths[name, side]
        if found != traced:
            raise UserError(
                f"layer {name!r} has {found} entries on side {side!r} where the architecture has "
                f"{traced}; give the network that was traced, or trace this one"
            )


def _width(model: nn.Module, name: str, side: str) -> int:
    if side == SIZE:
        owner, leaf = find_attribute(model, name)
        return int(getattr(owner, leaf))
    return side_width(find_part(model, name, side), side)


def remove_entries(model: nn.Module, entries: Entries) -> None:
    """Remove entries from module sides, in place, each side once.

    Args:
        model: the network to cut.
        entries: (module, side) -> sorted entries to remove.
    """
    done = set()  # grouped convolutions, which lose both sides at once
    for (name, side), gone in entries.items():
        if side == PARAMETER:
            _remove_from_parameter(*find_parameter(model, name), gone)
            continue
        if side == SIZE:
            owner, leaf = find_attribute(model, name)
            setattr(owner, leaf, getattr(owner, leaf) - len(gone))
            continue
        module = find_module(model, name)
        flags = {key: p.requires_grad for key, p in module.named_parameters(recurse=False)}
        if name in done:
            continue
        if is_grouped(module) and side in (IN, OUT):
            done.add(name)
            _remove_grouped(module, entries.get((name, IN)), entries.get((name, OUT)))
        else:
            _remove(module, side, gone.tolist())
        # The new parameters would all require gradients.
        for key, parameter in module.named_parameters(recurse=False):
            parameter.requires_grad_(flags[key])


def _remove(module: Any, side: str, gone: list[int]) -> None:
    if side == RESHAPE:
        first, *others = module.unflattened_size
        module.unflattened_size = (first - len(gone), *others)
    elif side == HEADS:
        module.remove_heads(gone)
    elif side == DEPTHWISE_SIDE:
        tp.prune_depthwise_conv_out_channels(module, gone)
    elif side == OUT and isinstance(module, Conv):
        tp.prune_conv_out_channels(module, gone)
    elif side == OUT:
        tp.prune_linear_out_channels(module, gone)
    elif side == IN and isinstance(module, Conv):
        tp.prune_conv_in_channels(module, gone)
    elif side == IN:
        tp.prune_linear_in_channels(module, gone)
    elif isinstance(module, nn.PReLU):
        tp.prune_prelu_out_channels(module, gone)
    elif isinstance(module, InstanceNorm):
        _remove_instance_norm(module, gone)
    elif isinstance(module, Spanning):
        _remove_spanned(module, gone)
    else:
        tp.prune_batchnorm_out_channels(module, gone)


def _remove_grouped(
    module: Any, inputs: NDArray[np.int64] | None, outputs: NDArray[np.int64] | None
) -> None:
    """Remove entries of a grouped convolution: whole groups, or as many from every group.

    Torch-Pruning keeps the number of groups, and takes the first offsets of transposed ones.
    """
    sides = []
    for width, gone in ((module.in_channels, inputs), (module.out_channels, outputs)):
        keep = np.ones(width, dtype=bool)
        keep[[] if gone is None else gone] = False
        sides.append(keep.reshape(module.groups, -1))
    reads, makes = sides
    whole = np.asarray(reads.any(axis=1) & makes.any(axis=1))
    stay = np.flatnonzero(whole)
    rows, columns = (reads, makes) if module.transposed else (makes, reads)
    size = rows.shape[1]
    weight = module.weight.data
    parts = []
    for group in stay.tolist():
        part = weight[group * size : (group + 1) * size]
        parts.append(part[_index(rows[group], part)][:, _index(columns[group], part)])
    module.weight = nn.Parameter(torch.cat(parts))
    if module.bias is not None:
        kept = (makes & whole[:, np.newaxis]).ravel()
        module.bias = nn.Parameter(module.bias.data[_index(kept, module.bias)])
    module.groups = len(stay)
    module.in_channels = int(reads[stay].sum())
    module.out_channels = int(makes[stay].sum())


def _index(keep: NDArray[np.bool_], like: Tensor) -> Tensor:
    return torch.from_numpy(np.flatnonzero(keep)).to(like.device)


def _remove_instance_norm(module: Any, gone: list[int]) -> None:
    # Torch-Pruning leaves the running statistics of an instance norm at their old length.
    if module.running_mean is not None:
        keep = np.setdiff1d(np.arange(module.num_features), gone)
        index = torch.from_numpy(keep).to(module.running_mean.device)
        module.running_mean = module.running_mean[index]
        module.running_var = module.running_var[index]
    tp.prune_instancenorm_out_channels(module, gone)


def _remove_spanned(module: Any, gone: list[int]) -> None:
    """Remove channels of a layer or group normalisation, which keeps its number of groups."""
    keep = np.ones(side_width(module, NORM_SIDE), dtype=bool)
    keep[gone] = False
    for name, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(parameter.data[_index(keep, parameter)]))
    if isinstance(module, nn.LayerNorm):
        module.normalized_shape = (int(keep.sum()),)
    else:
        module.num_channels = int(keep.sum())


def _remove_from_parameter(owner: nn.Module, leaf: str, gone: NDArray[np.int64]) -> None:
    parameter = owner.get_parameter(leaf)
    dim = channel_dim(parameter)
    keep = np.ones(parameter.shape[dim], dtype=bool)
    keep[gone] = False
    smaller = parameter.data.index_select(dim, _index(keep, parameter))
    setattr(owner, leaf, nn.Parameter(smaller, requires_grad=parameter.requires_grad))


def side_width(module: Any, side: str) -> int:
    """Number of entries on one side of a module (see :class:`Slot`); 0 if it has no such side."""
    if side == RESHAPE:
        return int(module.unflattened_size[0])
    if side == HEADS:
        return module.num_heads if isinstance(module, HeadAttention) else 0
    if side == PARAMETER:
        return int(module.shape[channel_dim(module)])
    if isinstance(module, nn.LayerNorm):
        return int(module.normalized_shape[-1])
    names = {
        OUT: ("out_channels", "out_features"),
        IN: ("in_channels", "in_features"),
        DEPTHWISE_SIDE: ("out_channels",),
    }.get(side, ("num_features", "num_parameters", "num_channels"))
    return next((int(getattr(module, name)) for name in names if hasattr(module, name)), 0)
