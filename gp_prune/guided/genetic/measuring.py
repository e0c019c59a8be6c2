"""What the networks of the front cost: time of their convolutions, and bytes as stored."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gp_prune.application.latency import Turns, compare
from gp_prune.pruning.modules import Conv, evaluation, run
from gp_prune.tuning.context import one_thread

BATCH = 256
"""Samples of a batch on which convolutions are timed."""

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
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self._calls: list[tuple[nn.Module, Tensor]] = []
        layers = [module for module in model.modules() if isinstance(module, Conv)]
        hooks = [layer.register_forward_pre_hook(self._note) for layer in layers]
        try:
            with evaluation(model), torch.no_grad():
                run(model, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        self.layers = nn.ModuleList(layers)

    def _note(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._calls.append((module, args[0].detach().clone()))

    def forward(self, _: Any) -> None:
        """Run every convolution on its own input."""
        for module, inputs in self._calls:
            module(inputs)


def compare_convolutions(dense: nn.Module, pruned: nn.Module, inputs: Any) -> Turns | None:
    """Time of the convolutions of two networks on a batch, in turns and on one thread.

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
        return compare(before, after, inputs)
