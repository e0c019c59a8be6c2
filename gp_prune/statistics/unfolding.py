"""The energy of the unfolded input, per input channel and tap, without unfolding anything."""

from __future__ import annotations

from itertools import product
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.statistics.layers import TRANSPOSED, spatial_axes

_Axes = tuple[int, ...]


def tap_energy(module: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
    """Sum over samples and output positions of the squared value that each tap reads.

    For a convolution this is what ``F.unfold`` would give, squared and summed, with the layer's
    padding, stride and dilation. For a transposed convolution a tap reads each input position
    whose contribution lands inside the output. For a linear layer it is the sum of squares over
    samples (and tokens). Groups do not matter: every input channel has its own numbers.

    Args:
        module: the layer.
        inputs: what the layer was called with.
        output: what it returned.

    Returns:
        (i, k), float64; its square root is the norm that Wanda uses (Sun et al., ICLR 2024).
    """
    squares = inputs.detach().to(torch.float64).square()
    if isinstance(module, nn.Linear):
        return squares.reshape(-1, squares.shape[-1]).sum(0).unsqueeze(-1)
    axes = spatial_axes(module)
    if squares.dim() == axes + 1:
        squares = squares.unsqueeze(0)
    energy = squares.sum(0)  # (i, *positions): squares add up before the taps are read
    size = tuple(output.shape[-axes:])
    if isinstance(module, TRANSPOSED):
        return _landing(module, energy, size)
    padding = _padding(module)
    if any(padding):
        mode = str(module.padding_mode)
        mode = "constant" if mode == "zeros" else mode
        energy = functional.pad(energy.unsqueeze(0), padding, mode=mode).squeeze(0)
    return _reading(module, energy, size)


def _reading(module: nn.Module, energy: Tensor, size: _Axes) -> Tensor:
    """(i, k) sums over the padded input positions that each tap of a convolution reads."""
    stride, dilation = cast(_Axes, module.stride), cast(_Axes, module.dilation)
    sums = []
    for tap in _taps(module):
        window = tuple(
            slice(t * d, t * d + s * (count - 1) + 1, s)
            for t, d, s, count in zip(tap, dilation, stride, size, strict=True)
        )
        sums.append(energy[(slice(None), *window)].flatten(1).sum(1))
    return torch.stack(sums, dim=1)


def _landing(module: nn.Module, energy: Tensor, size: _Axes) -> Tensor:
    """(i, k) sums over the input positions whose contribution by a tap lands in the output.

    Input position x reaches output position ``x * stride + tap * dilation - padding``.
    """
    stride, dilation = cast(_Axes, module.stride), cast(_Axes, module.dilation)
    padding = cast(_Axes, module.padding)
    sums = []
    for tap in _taps(module):
        window = []
        for t, d, s, p, count in zip(tap, dilation, stride, padding, size, strict=True):
            shift = t * d - p
            first = max(0, -(shift // s))
            last = (count - 1 - shift) // s
            window.append(slice(first, max(first, last + 1)))
        sums.append(energy[(slice(None), *window)].flatten(1).sum(1))
    return torch.stack(sums, dim=1)


def _taps(module: nn.Module) -> product[_Axes]:
    """Every tap as one index per spatial axis, row by row."""
    return product(*(range(size) for size in cast(_Axes, module.kernel_size)))


def _padding(module: nn.Module) -> list[int]:
    """Padding before and after each axis, last axis first, as ``F.pad`` wants it."""
    kernel, dilation = cast(_Axes, module.kernel_size), cast(_Axes, module.dilation)
    pairs: list[tuple[int, int]] = []
    for axis, (size, spread) in enumerate(zip(kernel, dilation, strict=True)):
        if module.padding == "same":
            total = spread * (size - 1)
            pairs.append((total // 2, total - total // 2))
        elif module.padding == "valid":
            pairs.append((0, 0))
        else:
            amount = cast(_Axes, module.padding)[axis]
            pairs.append((amount, amount))
    return [amount for pair in reversed(pairs) for amount in pair]
