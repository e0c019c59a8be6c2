"""Trying channel groups out: a cut network must compute what the masked network computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gp_prune.pruning.architecture import Architecture, ChannelGroup
from gp_prune.pruning.cost import measure, predict
from gp_prune.pruning.masking import channel_masks
from gp_prune.pruning.modules import (
    PerChannel,
    Prunable,
    find_module,
    map_tensors,
    run,
    seed_generators,
    tensors_of,
)
from gp_prune.pruning.surgery import remove_entries

_SEED = 0
_FORWARD_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)


def settle(model: nn.Module, inputs: Any, architecture: Architecture) -> dict[str, str]:
    """Groups that cannot be cut after all, each with the reason.

    All free groups are cut at once first, by half and by random parts; only when that fails are
    they tried one after another, each together with those that passed.

    Args:
        model: a private copy of the network, in evaluation mode; its weights are overwritten.
        inputs: the example batch.
        architecture: the groups as they were read from the graph.
    """
    _randomise(model)
    inputs = map_tensors(_random_like, inputs)
    passed: list[ChannelGroup] = []
    if not _objection(model, inputs, architecture, architecture.free):
        return {}
    reasons = {}
    for group in architecture.free:
        reason = _objection(model, inputs, architecture, [*passed, group])
        if reason:
            reasons[group.name] = reason
        else:
            passed.append(group)
    return reasons


def _objection(
    model: nn.Module, inputs: Any, architecture: Architecture, groups: Sequence[ChannelGroup]
) -> str:
    """Why channels of ``groups`` cannot be cut together; empty if they can."""
    rng = np.random.default_rng(_SEED)
    half = {group.name: group.size // 2 for group in groups}
    some = {group.name: int(rng.integers(0, group.size)) for group in groups}
    for counts in (half, some):
        removed = {
            group.name: sorted(rng.permutation(group.size)[: counts[group.name]].tolist())
            for group in groups
        }
        reason = _cut_objection(model, inputs, architecture, removed)
        if reason:
            return reason
    return ""


def _cut_objection(
    model: nn.Module, inputs: Any, architecture: Architecture, removed: Mapping[str, list[int]]
) -> str:
    entries = architecture.entries(removed)
    smaller = copy.deepcopy(model)
    remove_entries(smaller, entries)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for (name, parameter), keep in channel_masks(masked, entries).items():
            getattr(find_module(masked, name), parameter).mul_(keep)
    try:
        found = _output(smaller, inputs)
    except _FORWARD_ERRORS as error:
        first_line = str(error).strip().split("\n")[0]
        return f"the network does not run without some of its channels: {first_line}"
    if not _alike(_output(masked, inputs), found):
        return "cutting its channels changes more than setting them to zero"
    return _cost_objection(smaller, inputs, architecture, removed)


def _cost_objection(
    smaller: nn.Module, inputs: Any, architecture: Architecture, removed: Mapping[str, list[int]]
) -> str:
    kept = {name: architecture.by_name[name].size - len(gone) for name, gone in removed.items()}
    cost = measure(smaller, inputs)
    if predict(architecture, kept) != (cost.macs, cost.params):
        return "the cost of the network is not the sum of its layers' costs"
    return ""


def _output(model: nn.Module, inputs: Any) -> list[Tensor]:
    seed_generators(_SEED)  # networks that draw numbers draw the same ones
    with torch.no_grad():
        return tensors_of(run(model, inputs))


def _alike(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    if [tensor.shape for tensor in one] != [tensor.shape for tensor in other]:
        return False
    for a, b in zip(one, other, strict=True):
        if a.is_floating_point() and a.numel():
            info = torch.finfo(a.dtype)
            tolerance = info.eps ** (0.7 if info.bits >= 32 else 0.5)
            scale = float(a.abs().amax())
            if not torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
                return False
    return True


def _randomise(model: nn.Module) -> None:
    """Fill the weights with numbers of ordinary size, so that no zero hides a difference."""
    seed_generators(_SEED)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Prunable):
                for parameter in module.parameters(recurse=False):
                    fan_in = parameter.numel() // parameter.shape[0] if parameter.ndim > 1 else 9
                    bound = (3 / max(fan_in, 1)) ** 0.5
                    parameter.uniform_(-bound, bound)
            elif isinstance(module, PerChannel):
                for parameter in module.parameters(recurse=False):
                    parameter.uniform_(0.5, 1.5)
                for buffer in module.buffers(recurse=False):
                    if buffer.is_floating_point():
                        buffer.uniform_(0.5, 1.5)


def _random_like(tensor: Tensor) -> Tensor:
    return torch.randn_like(tensor) if tensor.is_floating_point() else tensor
