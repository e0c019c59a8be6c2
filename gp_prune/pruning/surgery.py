"""Removing channels: a smaller copy of a network, through Torch-Pruning's layer functions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import nn

from gp_prune.errors import UserError
from gp_prune.pruning.architecture import DEPTHWISE_SIDE, IN, OUT, RESHAPE, Architecture
from gp_prune.pruning.modules import Conv, InstanceNorm, find_module, refuse_masked
from gp_prune.pruning.plan import ChannelPlan

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
        module = find_module(model, name)
        found, traced = side_width(module, side), widths[name, side]
        if found != traced:
            raise UserError(
                f"layer {name!r} has {found} entries on side {side!r} where the architecture has "
                f"{traced}; give the network that was traced, or trace this one"
            )


def remove_entries(model: nn.Module, entries: Entries) -> None:
    """Remove entries from module sides, in place, each side once.

    Args:
        model: the network to cut.
        entries: (module, side) -> sorted entries to remove.
    """
    for (name, side), gone in entries.items():
        module = find_module(model, name)
        flags = {key: p.requires_grad for key, p in module.named_parameters(recurse=False)}
        _remove(module, side, gone.tolist())
        # Torch-Pruning makes new parameters, which would all require gradients.
        for key, parameter in module.named_parameters(recurse=False):
            parameter.requires_grad_(flags[key])


def _remove(module: Any, side: str, gone: list[int]) -> None:
    if side == RESHAPE:
        first, *others = module.unflattened_size
        module.unflattened_size = (first - len(gone), *others)
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
    else:
        tp.prune_batchnorm_out_channels(module, gone)


def _remove_instance_norm(module: Any, gone: list[int]) -> None:
    # Torch-Pruning leaves the running statistics of an instance norm at their old length.
    if module.running_mean is not None:
        keep = np.setdiff1d(np.arange(module.num_features), gone)
        index = torch.from_numpy(keep).to(module.running_mean.device)
        module.running_mean = module.running_mean[index]
        module.running_var = module.running_var[index]
    tp.prune_instancenorm_out_channels(module, gone)


def side_width(module: Any, side: str) -> int:
    """Number of entries on one side of a module (see :class:`Slot`); 0 if it has no such side."""
    if side == RESHAPE:
        return int(module.unflattened_size[0])
    names = {
        OUT: ("out_channels", "out_features"),
        IN: ("in_channels", "in_features"),
        DEPTHWISE_SIDE: ("out_channels",),
    }.get(side, ("num_features", "num_parameters"))
    return next((int(getattr(module, name)) for name in names if hasattr(module, name)), 0)
