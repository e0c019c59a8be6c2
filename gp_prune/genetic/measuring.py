"""What the networks of the front cost: time of their convolutions, and bytes as stored."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.apply.latency import compare
from gp_prune.pruning.modules import Conv
from gp_prune.statistics.running import call_model, evaluation_mode
from gp_prune.training.context import one_thread

BATCH = 256
"""Samples of a batch on which convolutions are timed."""

_FIRST_TURNS = 11

_VALUE = 4  # bytes of a weight
_INDEX = 4  # bytes of a row pointer or a column number


class Bytes(NamedTuple):
    """What the weights of a network take.

    Attributes:
        dense: all numbers that are left, zeros included, as 32-bit floats.
        csr: likewise, but every matrix in compressed sparse rows where that is smaller: 32-bit
            values, column numbers and row pointers.
    """

    dense: int
    csr: int


def stored_bytes(model: nn.Module) -> Bytes:
    """Bytes of the parameters of a network."""
    dense = csr = 0
    for parameter in model.parameters():
        full = parameter.numel() * _VALUE
        dense += full
        csr += min(full, _csr_bytes(parameter.detach()))
    return Bytes(dense, csr)


def _csr_bytes(parameter: Tensor) -> int:
    """Bytes of a tensor as a sparse matrix of its first dimension by all others."""
    values = int(parameter.count_nonzero()) * (_VALUE + _INDEX)
    return values + (len(parameter) + 1) * _INDEX if parameter.dim() > 1 else 1 << 62


class Convolutions(nn.Module):
    """The convolutions of a network alone, each on what reaches it in the network.

    Args:
        model: the network.
        inputs: a batch.

    Attributes:
        layers: the convolutions.
        onednn: whether they run in oneDNN, torch's default on a CPU; otherwise in torch's own way.
        repeats: how often a pass runs them.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self._calls: list[tuple[nn.Module, Tensor]] = []
        layers = [module for module in model.modules() if isinstance(module, Conv)]
        hooks = [layer.register_forward_pre_hook(self._note) for layer in layers]
        try:
            with evaluation_mode(model), torch.no_grad():
                call_model(model, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        self.layers = nn.ModuleList(layers)
        self.onednn = True
        self.repeats = 1

    def _note(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._calls.append((module, args[0].detach().clone()))

    def forward(self, _: Any) -> None:
        """Run every convolution on its own input."""
        with _onednn(self.onednn):
            for _ in range(self.repeats):
                for module, inputs in self._calls:
                    module(inputs)


@contextmanager
def _onednn(enabled: bool) -> Iterator[None]:
    """Let torch use oneDNN or not for a while; nothing else of its settings is touched."""
    # torch.backends.mkldnn.flags would also set the precision of matrix products.
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(enabled)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


class Times(NamedTuple):
    """Time of the convolutions of a network by that of the dense network's.

    Attributes:
        share: median of the ratio; each network in the faster of torch's two ways on a CPU.
        lower: its lower quartile.
        upper: its upper quartile.
        default: median of the ratio where both run in torch's default way.
        onednn: whether oneDNN, the default, is the faster way for the dense and for the other one.
    """

    share: float
    lower: float
    upper: float
    default: float
    onednn: tuple[bool, bool]


def compare_convolutions(dense: nn.Module, pruned: nn.Module, inputs: Any) -> Times | None:
    """Time of the convolutions of two networks on a batch, in turns and on one thread.

    oneDNN is made for many channels and takes longer than torch's own convolutions where there are
    two or three, so each network is timed in both ways (on a CPU). In every turn the smaller
    network runs so many times that it takes about as long as the dense one; a single pass of a
    millisecond would mostly measure how the caches were left.

    Args:
        dense: a network.
        pruned: a smaller one.
        inputs: the batch, on the device of both.

    Returns:
        None where the network has no convolution.
    """
    with one_thread():
        before, after = Convolutions(dense, inputs), Convolutions(pruned, inputs)
        if not len(before.layers):
            return None
        default = _ratio(before, after, inputs)
        ways = tuple(_faster_by_default(network, inputs) for network in (before, after))
        best = default
        if not all(ways):
            before.onednn, after.onednn = ways
            best = _ratio(before, after, inputs)
    return Times(*best, default[0], (ways[0], ways[1]))


def _ratio(before: Convolutions, after: Convolutions, inputs: Any) -> tuple[float, float, float]:
    """Time of ``after`` by that of ``before``: median and quartiles."""
    after.repeats = 1
    first = compare(before, after, inputs, turns=_FIRST_TURNS)
    after.repeats = max(1, round(1 / first.share))
    found = compare(before, after, inputs)
    share, lower, upper = (r / after.repeats for r in (found.share, found.lower, found.upper))
    after.repeats = 1
    return share, lower, upper


def _faster_by_default(network: Convolutions, inputs: Any) -> bool:
    """Whether oneDNN is the faster way for a network."""
    other = copy.copy(network)
    other.onednn = False
    return compare(network, other, inputs, turns=_FIRST_TURNS).share >= 1
