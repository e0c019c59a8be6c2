"""What each tap of a layer reads: its energy without unfolding anything, or all values."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.statistics.layers import TRANSPOSED, spatial_axes

_Axes = tuple[int, ...]
_Window = tuple[slice, ...]

_EVERY = (slice(None), slice(None))
"""All samples and input channels."""


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
    # Squares add up over the samples before the taps are read.
    energy = _with_samples(module, squares).sum(0, keepdim=True)
    size = tuple(output.shape[-spatial_axes(module) :])
    if isinstance(module, TRANSPOSED):
        windows = [read for read, _ in _landing(module, tuple(energy.shape[2:]), size)]
    else:
        energy, windows = _padded(module, energy), _reading(module, size)
    return torch.stack([energy[window].flatten(2).sum((0, 2)) for window in windows], 1)


def unfolded(module: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
    """The value that each tap reads for each output position.

    For a convolution this is ``F.unfold`` with the layer's padding, stride and dilation, in any
    number of spatial axes. For a transposed convolution a tap reads, for an output position, the
    input position whose contribution lands there, and 0 where there is none.

    Args:
        module: the layer.
        inputs: what the layer was called with.
        output: what it returned.

    Returns:
        (i, k, n * positions), float64.
    """
    values = inputs.detach().to(torch.float64)
    if isinstance(module, nn.Linear):
        return values.reshape(-1, values.shape[-1]).T.unsqueeze(1)
    values = _with_samples(module, values)
    size = tuple(output.shape[-spatial_axes(module) :])
    if isinstance(module, TRANSPOSED):
        pairs = list(_landing(module, tuple(values.shape[2:]), size))
        columns = values.new_zeros(*values.shape[:2], len(pairs), *size)
        for tap, (read, written) in enumerate(pairs):
            columns[:, :, tap][written] = values[read]
    else:
        values = _padded(module, values)
        windows = _reading(module, size)
        columns = torch.stack([values[window] for window in windows], 2)
    return columns.flatten(3).permute(1, 2, 0, 3).flatten(2)


def _with_samples(module: nn.Module, values: Tensor) -> Tensor:
    """(n, i, *positions): torch allows a single sample without its axis."""
    return values.unsqueeze(0) if values.dim() == spatial_axes(module) + 1 else values


def _padded(module: nn.Module, values: Tensor) -> Tensor:
    """The input (n, i, *positions) with the padding that the convolution gives it."""
    padding = _padding(module)
    if not any(padding):
        return values
    mode = str(module.padding_mode)
    return functional.pad(values, padding, mode="constant" if mode == "zeros" else mode)


def _reading(module: nn.Module, size: _Axes) -> list[_Window]:
    """The padded input positions (n, i, ...) that each tap of a convolution reads."""
    stride, dilation = cast(_Axes, module.stride), cast(_Axes, module.dilation)
    windows = []
    for tap in _taps(module):
        window = [
            slice(t * d, t * d + s * (count - 1) + 1, s)
            for t, d, s, count in zip(tap, dilation, stride, size, strict=True)
        ]
        windows.append((*_EVERY, *window))
    return windows


def _landing(module: nn.Module, given: _Axes, size: _Axes) -> Iterator[tuple[_Window, _Window]]:
    """The input positions whose contribution by each tap lands in the output, and where it lands.

    Input position x reaches output position ``x * stride + tap * dilation - padding``; the maps
    have ``given`` positions in the input and ``size`` in the output.
    """
    stride, dilation = cast(_Axes, module.stride), cast(_Axes, module.dilation)
    padding = cast(_Axes, module.padding)
    for tap in _taps(module):
        read, written = [], []
        for t, d, s, p, inside, count in zip(
            tap, dilation, stride, padding, given, size, strict=True
        ):
            shift = t * d - p
            first = max(0, -(shift // s))
            stop = max(first, min(inside, (count - 1 - shift) // s + 1))
            start = first * s + shift
            read.append(slice(first, stop))
            written.append(slice(start, max(start, (stop - 1) * s + shift + 1), s))
        yield (*_EVERY, *read), (*_EVERY, *written)


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
