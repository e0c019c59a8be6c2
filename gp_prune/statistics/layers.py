"""The prunable layers of a model, and their tensors brought to the axes of gp-prune."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.prune import BasePruningMethod

from gp_prune.errors import UserError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRUNABLE = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The convolutions, transposed convolutions and linear layers of a model.

    A module that stands in the model under several names appears once, under its first name.

    Returns:
        Dotted module name -> module, in the order in which the modules were registered.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, PRUNABLE)}


def is_batch_norm(module: nn.Module) -> bool:
    """Whether the module is one of torch's batch normalisations."""
    return isinstance(module, _BatchNorm)


def out_channels(module: nn.Module) -> int:
    """Number of output channels (axis o) of a prunable layer."""
    size = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return int(size)  # type: ignore[arg-type]


def effective(module: nn.Module, field: str) -> Tensor | None:
    """The tensor that the next forward pass would use as ``weight`` or ``bias``.

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
    """
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


def effective_weight(module: nn.Module) -> Tensor:
    """The weight that the next forward pass of a prunable layer would use, in torch's layout.

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
    """The weight of a prunable layer as (o, i, k), float64; see :func:`to_dense`.

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
    if values.dim() == spatial_axes(module) + 1:  # torch allows a single sample without its axis
        values = values.unsqueeze(0)
    return values.flatten(2)


def spatial_axes(module: nn.Module) -> int:
    """Number of spatial axes of a convolution: 1, 2 or 3."""
    return len(module.kernel_size)  # type: ignore[arg-type]
