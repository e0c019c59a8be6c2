"""Trying channel groups out: a cut network must compute what the masked network computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gp_prune.pruning.cost import count_macs, flop_counter, predict
from gp_prune.pruning.graph.architecture import NORM_SIDE, Architecture, ChannelGroup
from gp_prune.pruning.graph.observer import training_branches
from gp_prune.pruning.modules import (
    PARAMETER,
    PerChannel,
    Prunable,
    Spanning,
    find_module,
    find_parameter,
    sample_count,
)
from gp_prune.pruning.surgery import Entries, remove_entries, set_to_zero, side_width
from gp_prune.statistics.running import (
    Forward,
    call_model,
    map_tensors,
    random_like,
    seed_generators,
    tensors_of,
)

FAILS = "the network does not run without some of its channels"
_SEED = 0
_NUMBERS = 65537  # a prime, so that repeated numbers come in other places of every channel
FORWARD_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)
"""What networks raise that do not run without some of their channels."""


@dataclass(frozen=True)
class Trial:
    """A network to try cuts on.

    Attributes:
        model: a private copy of the network, in evaluation mode; its numbers are overwritten.
        inputs: the example batch.
        forward_fn: how the network runs, if not with the inputs as arguments.
        branches: whether to run what training mode adds, too.
    """

    model: nn.Module
    inputs: Any
    forward_fn: Forward | None = None
    branches: bool = False

    def outputs(self, model: nn.Module) -> list[Tensor]:
        """What ``model``, cut or masked, puts out."""
        found = self._outputs(model)
        if self.branches:
            with training_branches(model):
                found += self._outputs(model)
        return found

    def _outputs(self, model: nn.Module) -> list[Tensor]:
        seed_generators(_SEED)  # networks that draw numbers draw the same ones
        with torch.no_grad():
            return tensors_of(call_model(model, self.inputs, self.forward_fn))


def prepared(trial: Trial) -> Trial:
    """The trial with random numbers for inputs."""
    seed_generators(_SEED + 1)
    return replace(trial, inputs=map_tensors(random_like, trial.inputs))


def settle(trial: Trial, architecture: Architecture) -> dict[str, str]:
    """Groups that cannot be cut after all, each with the reason.

    All free groups are cut at once first, by random parts; only when that fails are they tried one
    after another, each together with those that passed.

    Args:
        trial: the network.
        architecture: the groups as they were read from the graph.
    """
    passed: list[ChannelGroup] = []
    if not objection(trial, architecture, architecture.free):
        return {}
    reasons = {}
    for group in architecture.free:
        reason = objection(trial, architecture, [*passed, group])
        if reason:
            reasons[group.name] = reason
        else:
            passed.append(group)
    return reasons


def objection(
    trial: Trial,
    architecture: Architecture,
    groups: Sequence[ChannelGroup],
    removed: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Why channels of ``groups`` cannot be cut together; empty if they can.

    Args:
        trial: the network.
        architecture: all groups.
        groups: those to be cut, some of ``architecture``.
        removed: group name -> channels that go; of the other groups random parts go.
    """
    rng = np.random.default_rng(_SEED)
    parts = {group.name: _telling_part(group.size, rng) for group in groups}
    return _cut_objection(trial, architecture, {**parts, **(removed or {})})


def _telling_part(size: int, rng: np.random.Generator) -> list[int]:
    """Channels to remove on trial: some, one of them between two that stay, if there are three.

    Where channels look at their neighbours, cutting the outermost ones tells nothing.
    """
    if size < 3:
        return [0] * (size - 1)
    inner = int(rng.integers(1, size - 1))
    others = np.delete(np.arange(size), [inner - 1, inner, inner + 1])
    count = int(rng.integers(0, others.size + 1))
    return sorted([inner, *rng.permutation(others)[:count].tolist()])


def _cut_objection(
    trial: Trial, architecture: Architecture, removed: Mapping[str, Sequence[int]]
) -> str:
    entries = architecture.entries(removed)
    _randomise(trial.model)
    shared = {id(parameter): parameter for parameter in trial.model.parameters()}
    smaller = copy.deepcopy(trial.model, {**shared})
    remove_entries(smaller, entries)
    try:
        with flop_counter(smaller) as counter:
            found = trial.outputs(smaller)
    except FORWARD_ERRORS as error:
        first_line = str(error).strip().split("\n")[0]
        return f"{FAILS}: {first_line}"
    with _masked(trial.model, smaller, entries):  # behind the smaller one, which shares numbers
        expected = trial.outputs(trial.model)
    if not _alike(expected, found):
        return "cutting its channels changes more than setting them to zero"
    if trial.branches:  # ran in both modes; only evaluation mode counts
        macs = count_macs(smaller, trial.inputs, trial.forward_fn)
    else:
        macs = counter.total // 2
    kept = {name: architecture.by_name[name].size - len(gone) for name, gone in removed.items()}
    params = sum(parameter.numel() for parameter in smaller.parameters())
    if predict(architecture, kept) != (macs // sample_count(trial.inputs), params):
        return "the cost of the network is not the sum of its layers' costs"
    return ""


@contextmanager
def _masked(model: nn.Module, smaller: nn.Module, entries: Entries) -> Iterator[None]:
    """Set entries to zero, which they remain until the numbers are drawn anew.

    Normalisations that span channels run over those that are left, as in the smaller network.
    Free parameters, which are not drawn anew, get their numbers back.
    """
    with ExitStack() as stack:
        for name in (name for name, side in entries if side == PARAMETER):
            owner, leaf = find_parameter(model, name)
            values = owner.get_parameter(leaf).data
            stack.callback(values.copy_, values.clone())
        set_to_zero(model, entries)
        for (name, side), gone in entries.items():
            spanning = find_module(model, name) if side == NORM_SIDE else None
            if isinstance(spanning, Spanning):
                narrow = _Narrow(spanning, find_module(smaller, name), gone)
                stack.callback(spanning.register_forward_hook(narrow).remove)
        yield


class _Narrow:
    """Makes a normalisation of a masked network run over the channels that are left.

    That is what the cut network's does; with it the two networks can be compared.
    """

    def __init__(self, module: nn.Module, cut: nn.Module, gone: NDArray[np.int64]) -> None:
        width = side_width(module, NORM_SIDE)
        self._cut = cut
        self._kept = torch.from_numpy(np.setdiff1d(np.arange(width), gone))
        self._width = width

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        last = type(module) is nn.LayerNorm or inputs[0].shape[1] != self._width
        dim = inputs[0].ndim - 1 if last and isinstance(module, nn.LayerNorm) else 1
        kept = self._kept.to(output.device)
        normed = self._cut(inputs[0].index_select(dim, kept))
        return torch.zeros_like(output).index_copy(dim, kept, normed)


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
    """Give the weights numbers of ordinary size, in place, so that no zero hides a difference."""
    seed_generators(_SEED)
    some: dict[Any, Tensor] = {}  # numbers to repeat: drawing all takes as long as a forward pass
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Prunable):
                for parameter in module.parameters(recurse=False):
                    fan_in = parameter.numel() // parameter.shape[0] if parameter.ndim > 1 else 9
                    bound = (3 / max(fan_in, 1)) ** 0.5
                    key = parameter.dtype, parameter.device
                    if key not in some:
                        some[key] = parameter.new_empty(_NUMBERS).uniform_(-1, 1)
                    start = int(torch.randint(_NUMBERS, ()))
                    _repeat(some[key].roll(start) * bound, parameter)
            elif isinstance(module, (*PerChannel, *Spanning)):
                for values in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                    if values.is_floating_point():
                        values.uniform_(0.5, 1.5)


def _repeat(numbers: Tensor, parameter: Tensor) -> None:
    """Fill a parameter with numbers, again and again."""
    if parameter.is_contiguous():
        flat = parameter.view(-1)
        rows, rest = divmod(flat.numel(), numbers.numel())
        whole = flat.numel() - rest
        flat[:whole].view(rows, numbers.numel()).copy_(numbers)
        flat[whole:].copy_(numbers[:rest])
        return
    enough = numbers.repeat(parameter.numel() // numbers.numel() + 1)
    parameter.copy_(enough[: parameter.numel()].reshape(parameter.shape))
