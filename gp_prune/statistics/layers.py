"""Read prunable layers: their weights as (o, i, k), and what each tap reads of the input."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.prune import BasePruningMethod

from gp_prune.errors import UserError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRUNABLE = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions, transposed convolutions and linear layers of a model.

    A module that the model has under several names appears once, under its first name.

    Returns:
        Dotted module name -> module, in the order in which the modules were registered.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, PRUNABLE)}


def is_batch_norm(module: nn.Module) -> bool:
    """Return whether the module is one of torch's batch normalisations."""
    return isinstance(module, _BatchNorm)


def out_channels(module: nn.Module) -> int:
    """Return the number of output channels (axis o) of a prunable layer."""
    size = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return int(size)  # type: ignore[arg-type]


def effective(module: nn.Module, field: str) -> Tensor | None:
    """Return the tensor that the next forward pass would use as ``weight`` or ``bias``.

    A mask of ``torch.nn.utils.prune`` is applied here, because the attribute that it leaves on
    the module is only renewed by a forward pass and may be stale.

    Returns:
        The tensor, detached, or None if the module has none.
    """
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod) and getattr(hook, "_tensor_name", None) == field:
            masked: Tensor = hook.apply_mask(module)  # type: ignore[no-untyped-call]
            return masked.detach()
    value = getattr(module, field, None)
    return value.detach() if isinstance(value, Tensor) else None


def to_dense(weight: Tensor, module: nn.Module) -> Tensor:
    """Bring a tensor in the layout of a layer's weight (the weight, its gradient) to (o, i, k).

    Taps keep torch's order (row by row); a transposed convolution is not flipped. The entries of
    a grouped layer that connect different groups are zero.

    Args:
        weight: (o, i) for a linear layer, (o, i/groups, *taps) for a convolution,
            (i, o/groups, *taps) for a transposed one.
        module: the layer that the tensor belongs to.

    Returns:
        A new tensor (o, i, k), float64.

    Raises:
        UserError: the numbers are complex.
    """
    if weight.is_complex():
        raise UserError(
            f"a layer of type {type(module).__name__} has complex weights ({weight.dtype}), which "
            "no metric ranks; keep the layer whole with --ignore (ignore=[...]), or make its "
            "weights real"
        )
    values = weight.detach().to(torch.float64, copy=True)
    if isinstance(module, nn.Linear):
        return values.unsqueeze(-1)
    if module.groups == 1:
        dense = values.flatten(2)
        return dense.transpose(0, 1).contiguous() if isinstance(module, TRANSPOSED) else dense
    groups = int(module.groups)  # type: ignore[arg-type]
    taps = values[0, 0].numel()
    blocks = values.reshape(groups, values.shape[0] // groups, values.shape[1], taps)
    if isinstance(module, TRANSPOSED):
        blocks = blocks.transpose(1, 2)
    _, o, i, k = blocks.shape
    dense = values.new_zeros(groups, o, groups, i, k)
    group = torch.arange(groups, device=values.device)
    dense[group, :, group] = blocks
    return dense.reshape(groups * o, groups * i, k)


def sum_by_output(weight: Tensor, module: nn.Module) -> Tensor:
    """Sum a tensor in the layout of a layer's weight, see :func:`to_dense`, over all but axis o."""
    if not isinstance(module, TRANSPOSED):
        return weight.flatten(1).sum(1)
    blocks = weight.reshape(int(module.groups), -1, weight.shape[1], weight[0, 0].numel())
    return blocks.sum((1, 3)).flatten()


def effective_weight(module: nn.Module) -> Tensor:
    """Return the weight that the next forward pass of a layer would use, in torch's layout.

    Raises:
        UserError: the layer is lazy and has not been initialised by a forward pass.
    """
    if isinstance(getattr(module, "weight", None), UninitializedParameter):
        raise UserError(
            f"{type(module).__name__} has no weights yet; run the model once before pruning it"
        )
    weight = effective(module, "weight")
    if weight is None:
        raise UserError(
            f"{type(module).__name__} has no tensor 'weight'; give layers with plain weights"
        )
    return weight


def dense_weight(module: nn.Module) -> Tensor:
    """Return the weight of a prunable layer as (o, i, k), float64; see :func:`to_dense`.

    Raises:
        UserError: as :func:`effective_weight`.
    """
    return to_dense(effective_weight(module), module)


def as_maps(values: Tensor, module: nn.Module) -> Tensor:
    """View the input or output of a layer as (rows, channels, positions).

    Convolutions keep their rows and flatten the spatial axes row by row; a linear layer takes its
    last axis as channels and every axis between the first and the last as positions.
    """
    if isinstance(module, nn.Linear):
        if values.dim() == 1:
            return values.reshape(1, -1, 1)
        return values.reshape(values.shape[0], -1, values.shape[-1]).transpose(1, 2)
    return with_samples(module, values).flatten(2)


def spatial_axes(module: nn.Module) -> int:
    """Return the number of spatial axes of a convolution: 1, 2 or 3."""
    return len(module.kernel_size)  # type: ignore[arg-type]


_Axes = tuple[int, ...]
_Window = tuple[slice, ...]

_EVERY = (slice(None), slice(None))
"""All samples and input channels."""


def tap_energy(module: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
    """Sum the squared value that each tap reads over samples and output positions.

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
    energy = with_samples(module, squares).sum(0, keepdim=True)
    size = tuple(output.shape[-spatial_axes(module) :])
    if isinstance(module, TRANSPOSED):
        windows = [read for read, _ in _landing(module, tuple(energy.shape[2:]), size)]
    else:
        energy, windows = _padded(module, energy), _reading(module, size)
    return torch.stack([energy[window].flatten(2).sum((0, 2)) for window in windows], 1)


def unfolded(module: nn.Module, inputs: Tensor, output: Tensor) -> Tensor:
    """Return the value that each tap reads for each output position.

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
    values = with_samples(module, values)
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


def with_samples(module: nn.Module, values: Tensor) -> Tensor:
    """Return (n, i, *positions): torch allows a single sample without its axis."""
    return values.unsqueeze(0) if values.dim() == spatial_axes(module) + 1 else values


def _padded(module: nn.Module, values: Tensor) -> Tensor:
    """Pad the input (n, i, *positions) as the convolution does."""
    padding = _padding(module)
    if not any(padding):
        return values
    mode = str(module.padding_mode)
    return functional.pad(values, padding, mode="constant" if mode == "zeros" else mode)


def _reading(module: nn.Module, size: _Axes) -> list[_Window]:
    """Return the padded input positions (n, i, ...) that each tap of a convolution reads."""
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
    """Yield the input positions whose contribution by each tap lands in the output, and where.

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
    """Return every tap as one index per spatial axis, row by row."""
    return product(*(range(size) for size in cast(_Axes, module.kernel_size)))


def _padding(module: nn.Module) -> list[int]:
    """Return the padding before and after each axis, last axis first, as ``F.pad`` wants it."""
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
