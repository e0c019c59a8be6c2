"""Try cuts out: a cut network must compute what the masked network computes."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gp_prune.pruning.cost import count_macs, predict
from gp_prune.pruning.flops import flop_counter
from gp_prune.pruning.graph.architecture import (
    DEPTHWISE_SIDE,
    NORM_SIDE,
    OUT,
    Architecture,
    ChannelGroup,
    Removed,
)
from gp_prune.pruning.graph.function_modes import training_branches
from gp_prune.pruning.graph.inner_maps import find_differing_layer, recorded_maps
from gp_prune.pruning.modules import (
    PARAMETER,
    PerChannel,
    Prunable,
    Spanning,
    all_close,
    find_module,
    find_owner,
    sample_count,
)
from gp_prune.pruning.surgery import Entries, remove_entries, set_to_zero, side_width
from gp_prune.statistics.running import (
    Forward,
    call_model,
    copy_model,
    map_tensors,
    random_like,
    seed_generators,
    tensors_of,
)
from gp_prune.statistics.time_limit import TimeLimitError

FAILS = "the network does not run without some of its channels"
_LONGEST = 160
"""Characters of somebody else's message that fit a reason."""
TRIAL_SECONDS = 10
"""Processor time after which no further group is tried out, where some were tried one by one."""

_OUTPUTS = (OUT, DEPTHWISE_SIDE)
_SEED = 0
_NUMBERS = 65537  # a prime, so that repeated numbers come in other places of every channel


def _explain_failure(error: Exception, model: nn.Module) -> str:
    """Return why a network without some channels fails, from what raised in which module."""
    names = {id(module): name for name, module in model.named_modules()}
    inner = None
    trace = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if id(owner) in names and isinstance(owner, nn.Module):
            inner = owner
        trace = trace.tb_next
    if inner is not None and inner._buffers and not inner._parameters:
        buffers = ", ".join(repr(name) for name in inner._buffers)
        return f"the buffers {buffers} of {names[id(inner)]!r} hold values of its channels"
    first_line = str(error).strip().split("\n")[0]
    if isinstance(error, KeyError):  # whose message is the key alone
        first_line = f"it looks up {first_line} in a dictionary"
    if "TorchScript" in first_line:
        return "a TorchScript module reads its channels"
    return first_line if len(first_line) <= _LONGEST else f"{first_line[:_LONGEST]}..."


def verify_groups(
    check: CutCheck, architecture: Architecture, passed: Collection[str] = ()
) -> dict[str, str]:
    """Return the free groups that cannot be cut after all, each with the reason.

    All free groups are cut at once first, by random parts; where that fails, each half of them is
    tried, together with those that passed, and so on. Groups that are left when the time of the
    check is over stay whole.

    Args:
        check: the network to try cuts on.
        architecture: all groups.
        passed: names of those that were found to be fine together.
    """
    passing = [group for group in architecture.free if group.name in passed]
    reasons: dict[str, str] = {}
    rest = [group for group in architecture.free if group.name not in passed]
    left = [rest] if rest else []
    while left:
        groups = left.pop()
        if check.over and len(groups) < len(architecture.free):
            reason = f"the {TRIAL_SECONDS} seconds for trying out what can be cut were over"
            reasons.update({group.name: reason for group in groups})
            continue
        reason = check.find_violation(architecture, [*passing, *groups])
        if not reason:
            passing += groups
        elif len(groups) == 1:
            reasons[groups[0].name] = reason
        else:
            left += [groups[len(groups) // 2 :], groups[: len(groups) // 2]]
    return reasons


class CutCheck:
    """A network to try cuts on.

    Attributes:
        model: a private copy of the network, in evaluation mode; its numbers are overwritten.
        inputs: random numbers in place of the example batch.
        forward_fn: how the network runs, if not with the inputs as arguments.
        branches: whether to run what training mode adds, too.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        forward_fn: Forward | None = None,
        *,
        branches: bool = False,
    ) -> None:
        seed_generators(_SEED + 1)
        self.model = model
        self.inputs = map_tensors(random_like, inputs)
        self.forward_fn = forward_fn
        self.branches = branches
        self._started = time.thread_time()

    @property
    def over(self) -> bool:
        """Return whether the time for trying out cuts is over."""
        return time.thread_time() - self._started > TRIAL_SECONDS

    def find_violation(
        self,
        architecture: Architecture,
        groups: Sequence[ChannelGroup],
        removed: Removed | None = None,
    ) -> str:
        """Return why channels of ``groups`` cannot be cut together; empty if they can.

        Args:
            architecture: all groups.
            groups: those to be cut, some of ``architecture``.
            removed: group name -> channels that go; of the other groups random parts go.
        """
        rng = np.random.default_rng(_SEED)
        parts = {group.name: _draw_part(group.size, rng) for group in groups}
        removed = {**parts, **(removed or {})}
        entries = architecture.entries(removed)
        randomise_weights(self.model)
        shared = {id(parameter): parameter for parameter in self.model.parameters()}
        smaller = copy_model(self.model, {**shared})
        remove_entries(smaller, entries)
        try:
            with flop_counter(smaller) as counter, recorded_maps(smaller) as inner:
                outputs = self._run(smaller)
        except TimeLimitError:
            raise
        except Exception as error:  # the code of a network may raise anything
            return f"{FAILS}: {_explain_failure(error, smaller)}"
        # The masked network runs last, because the smaller one shares its numbers.
        with _masked(self.model, smaller, entries), recorded_maps(self.model) as masked:
            expected = self._run(self.model)
        gone = {name: cut for (name, side), cut in entries.items() if side in _OUTPUTS}
        if not all_close(expected, outputs) or find_differing_layer(masked, inner, gone):
            return "cutting its channels changes more than setting them to zero"
        if self.branches:  # it ran in both modes; only evaluation mode counts
            macs = count_macs(smaller, self.inputs, self.forward_fn)
        else:
            macs = counter.total // 2
        kept = {name: architecture.by_name[name].size - len(cut) for name, cut in removed.items()}
        params = sum(parameter.numel() for parameter in smaller.parameters())
        if predict(architecture, kept) != (macs // sample_count(self.inputs), params):
            return "the cost of the network is not the sum of its layers' costs"
        return ""

    def _run(self, model: nn.Module) -> list[Tensor]:
        outputs = self._run_once(model)
        if self.branches:
            with training_branches(model):
                outputs += self._run_once(model)
        return outputs

    def _run_once(self, model: nn.Module) -> list[Tensor]:
        seed_generators(_SEED)  # networks that draw numbers draw the same ones
        with torch.no_grad():
            return tensors_of(call_model(model, self.inputs, self.forward_fn))


def _draw_part(size: int, rng: np.random.Generator) -> list[int]:
    """Draw channels to remove: some, one of them between two that stay, if there are three.

    Where channels look at their neighbours, cutting the outermost ones tells nothing; and where
    they are taken in pairs or quarters, only a number that shares no divisor with theirs tells.
    """
    if size < 3:
        return [0] * (size - 1)
    inner = int(rng.integers(1, size - 1))
    others = np.delete(np.arange(size), [inner - 1, inner, inner + 1])
    count = int(rng.integers(0, others.size + 1))
    while math.gcd(size, count + 1) > 1:
        count -= 1
    return sorted([inner, *rng.permutation(others)[:count].tolist()])


@contextmanager
def _masked(model: nn.Module, smaller: nn.Module, entries: Entries) -> Iterator[None]:
    """Set entries to zero, which they remain until the weights are drawn again.

    Normalisations that span channels run over those that are left, as in the smaller network.
    Free parameters, which are not drawn again, get their numbers back.
    """
    with ExitStack() as stack:
        for name in (name for name, side in entries if side == PARAMETER):
            owner, leaf = find_owner(model, name, PARAMETER)
            values = owner.get_parameter(leaf).data
            stack.callback(values.copy_, values.clone())
        set_to_zero(model, entries)
        for (name, side), removed in entries.items():
            spanning = find_module(model, name) if side == NORM_SIDE else None
            if isinstance(spanning, Spanning):
                narrow = _NarrowNorm(spanning, find_module(smaller, name), removed)
                stack.callback(spanning.register_forward_hook(narrow).remove)
        yield


class _NarrowNorm:
    """A hook by which a normalisation of a masked network runs as that of the cut one does."""

    def __init__(self, module: nn.Module, cut: nn.Module, removed: NDArray[np.int64]) -> None:
        self._width = side_width(module, NORM_SIDE)
        self._cut = cut
        self._kept = torch.from_numpy(np.setdiff1d(np.arange(self._width), removed))

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        last = type(module) is nn.LayerNorm or inputs[0].shape[1] != self._width
        dim = inputs[0].ndim - 1 if last and isinstance(module, nn.LayerNorm) else 1
        kept = self._kept.to(output.device)
        normed = self._cut(inputs[0].index_select(dim, kept))
        return torch.zeros_like(output).index_copy(dim, kept, normed)


def randomise_weights(model: nn.Module) -> None:
    """Give the weights numbers of ordinary size, in place, so that no zero hides a difference."""
    seed_generators(_SEED)
    pools: dict[Any, Tensor] = {}  # numbers to repeat: drawing all takes as long as a forward pass
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Prunable):
                for parameter in module.parameters(recurse=False):
                    fan_in = parameter.numel() // parameter.shape[0] if parameter.ndim > 1 else 9
                    bound = (3 / max(fan_in, 1)) ** 0.5
                    key = parameter.dtype, parameter.device
                    if key not in pools:
                        pools[key] = parameter.new_empty(_NUMBERS).uniform_(-1, 1)
                    start = int(torch.randint(_NUMBERS, ()))
                    _repeat(pools[key].roll(start) * bound, parameter)
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
