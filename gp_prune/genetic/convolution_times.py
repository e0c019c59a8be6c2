"""Time the convolutions of a network beside those of the dense one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.pruning.modules import Conv
from gp_prune.pruning.timing import compare
from gp_prune.statistics.running import call_model, evaluation_mode, one_thread

_FIRST_TURNS = 11


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
        hooks = [layer.register_forward_pre_hook(self._record) for layer in layers]
        try:
            with evaluation_mode(model), torch.no_grad():
                call_model(model, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        self.layers = nn.ModuleList(layers)
        self.onednn = True
        self.repeats = 1

    def _record(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._calls.append((module, args[0].detach().clone()))

    def forward(self, _: Any) -> None:
        """Run every convolution on its own input."""
        with _onednn(self.onednn):
            for _ in range(self.repeats):
                for module, inputs in self._calls:
                    module(inputs)

    def prefers_onednn(self, inputs: Any) -> bool:
        """Return whether oneDNN is the faster way."""
        other = copy.copy(self)
        other.onednn = False
        return compare(self, other, inputs, turns=_FIRST_TURNS).share >= 1


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


class ConvolutionTimes(NamedTuple):
    """Time of the convolutions of a network divided by that of the dense network's.

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


def compare_convolutions(
    dense: nn.Module, pruned: nn.Module, inputs: Any
) -> ConvolutionTimes | None:
    """Time the convolutions of two networks on a batch, in turns and on one thread.

    oneDNN is made for many channels and takes longer than torch's own convolutions where there are
    two or three, so each network is timed in both ways (on a CPU). In every turn the smaller
    network is repeated until it takes about as long as the dense one; a single pass of a
    millisecond would mostly measure the state of the caches.

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
        default = best = _time_ratio(before, after, inputs)
        onednn = before.prefers_onednn(inputs), after.prefers_onednn(inputs)
        if not all(onednn):
            before.onednn, after.onednn = onednn
            best = _time_ratio(before, after, inputs)
    return ConvolutionTimes(*best, default[0], onednn)


def _time_ratio(
    before: Convolutions, after: Convolutions, inputs: Any
) -> tuple[float, float, float]:
    """Return the time of ``after`` divided by that of ``before``: median and quartiles."""
    after.repeats = 1
    first = compare(before, after, inputs, turns=_FIRST_TURNS)
    repeats = after.repeats = max(1, round(1 / first.share))
    ratio = compare(before, after, inputs)
    after.repeats = 1
    return ratio.share / repeats, ratio.lower / repeats, ratio.upper / repeats
