"""Tell apart the kinds of modules that pruning knows, and find them in a network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import prune

from gp_prune.errors import UserError
from gp_prune.statistics.running import tensors_of

PARAMETER = "parameter"
Conv = _ConvNd
Prunable = (_ConvNd, nn.Linear)
"""Module types whose output channels and weights can be cut."""
PerChannel = (_BatchNorm, _InstanceNorm, nn.PReLU)
"""Module types that work on every channel by itself and may hold numbers per channel."""
Spanning = (nn.LayerNorm, nn.GroupNorm)
"""Normalisations over several channels: without some of them, the others change."""


def is_depthwise(module: nn.Module) -> bool:
    """Return whether the module is a convolution with one filter per channel."""
    return (
        isinstance(module, _ConvNd)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )


def is_grouped(module: nn.Module) -> bool:
    """Return whether the module is a grouped convolution other than a depthwise one."""
    return isinstance(module, _ConvNd) and module.groups > 1 and not is_depthwise(module)


def is_transposed(module: nn.Module) -> bool:
    """Return whether the weight has the layout (in, out, ...) of a transposed convolution."""
    return isinstance(module, _ConvNd) and module.transposed


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Return the submodule ``name``.

    Raises:
        UserError: the model has no such module.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise UserError(
            f"the model has no layer {name!r}; give the network that the plan was made for"
        ) from None


def find_part(model: nn.Module, name: str, side: str) -> Any:
    """Return the module ``name``, or the parameter of that name where ``side`` is ``"parameter"``.

    Raises:
        UserError: the model has no such part.
    """
    if side != PARAMETER:
        return find_module(model, name)
    owner, leaf = find_owner(model, name, side)
    return owner._parameters[leaf]


def find_owner(model: nn.Module, name: str, side: str) -> tuple[nn.Module, str]:
    """Return the module that holds the parameter ``name``, and its name there.

    Where ``side`` is not ``"parameter"``, ``name`` is an attribute that is a whole number.

    Raises:
        UserError: the model has no such parameter or number.
    """
    path, _, leaf = name.rpartition(".")
    owner = find_module(model, path)
    if side == PARAMETER:
        missing, what = owner._parameters.get(leaf) is None, "parameter"
    else:
        missing, what = type(vars(owner).get(leaf)) is not int, "number"
    if missing:
        raise UserError(
            f"the model has no {what} {name!r}; give the network that the plan was made for"
        )
    return owner, leaf


def find_holders(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """Return id of a parameter -> name and module of all that hold it, in the order of modules."""
    holders: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append((name, module))
    return holders


def channel_dim(parameter: Tensor) -> int:
    """Return the dimension of a free parameter that holds channels: the last of size over 1."""
    sizes = tuple(parameter.shape)
    return max((dim for dim, size in enumerate(sizes) if size > 1), default=len(sizes) - 1)


def weight_of(model: nn.Module, name: str) -> nn.Parameter:
    """Return the weight of the convolution or linear layer ``name``; of a masked one, all values.

    Raises:
        UserError: the model has no such layer, or it is of another kind.
    """
    module = find_module(model, name)
    weight = module._parameters.get("weight")
    if weight is None and "weight_mask" in module._buffers:
        weight = module._parameters.get("weight_orig")
    if not isinstance(module, Prunable) or weight is None:
        raise UserError(
            f"layer {name!r} is a {type(module).__name__} without prunable weights; "
            "name convolution or linear layers"
        )
    return weight


def masked_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (module name, module, parameter name) of every mask of :mod:`torch.nn.utils.prune`."""
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                yield name, module, hook._tensor_name


def renew_masked(model: nn.Module) -> None:
    """Compute the masked tensors again from their parameters, as plain tensors, in place.

    A masked layer makes the tensor that it computes with when it runs, so after a change of its
    parameter the old one is still there; and one that was made with gradients cannot be copied.
    """
    with torch.no_grad():
        for _, module, name in masked_parameters(model):
            setattr(module, name, getattr(module, f"{name}_orig") * getattr(module, f"{name}_mask"))


def unwrapping(module: nn.Module) -> str:
    """Return which call makes the weight of a layer plain again, as the end of a sentence."""
    if hasattr(module, "parametrizations"):
        call = "parametrize.remove_parametrizations(layer, 'weight')"
    elif hasattr(module, "weight_g"):
        call = "remove_weight_norm(layer)"
    elif hasattr(module, "weight_u"):
        call = "remove_spectral_norm(layer)"
    else:
        return ""
    return f"; call torch.nn.utils.{call} first"


def refuse_masked(model: nn.Module) -> None:
    """Raise UserError if the model carries masks of :mod:`torch.nn.utils.prune`."""
    for name, _, parameter in masked_parameters(model):
        raise UserError(
            f"parameter {parameter!r} of layer {name!r} carries a pruning mask; make the masks "
            "permanent with unmask(model) first"
        )


def sample_count(example_inputs: Any) -> int:
    """Return the size of the first dimension of the first input tensor.

    Raises:
        UserError: there is no tensor, or its first dimension is missing or empty.
    """
    for tensor in tensors_of(example_inputs):
        if tensor.ndim and tensor.shape[0]:
            return int(tensor.shape[0])
        break
    raise UserError("example_inputs hold no batch of samples; give a tensor (samples, ...)")


def as_dense(tensor: Tensor) -> Tensor:
    """Return a sparse tensor in ordinary form, and others as they are."""
    return tensor.to_dense() if "sparse" in str(tensor.layout) else tensor


def largest_difference(expected: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """Return the largest difference of outputs, as a share of the largest value of their tensor.

    It is infinite where the shapes differ or an output is not finite.
    """
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in outputs]:
        return math.inf
    largest = 0.0
    for one, other in zip(expected, outputs, strict=True):
        if one.numel():
            a, b = (as_dense(tensor).to(torch.float64) for tensor in (one, other))
            share = float((a - b).abs().amax()) / (float(a.abs().amax()) or 1.0)
            largest = max(largest, share if math.isfinite(share) else math.inf)
    return largest


def tell_nothing(outputs: Sequence[Tensor]) -> bool:
    """Return whether outputs can be equal whatever a network computes.

    So they can where they are empty, whole numbers, not finite, or hold one value throughout.
    """
    for tensor in map(as_dense, outputs):
        if tensor.numel() > 1 and (tensor.is_floating_point() or tensor.is_complex()):
            finite = tensor[tensor.isfinite()]
            if finite.numel() and bool((finite != finite.flatten()[0]).any()):
                return False
    return True


def all_close(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Return whether tensors agree in shape and, up to rounding, in value."""
    if [tensor.shape for tensor in one] != [tensor.shape for tensor in other]:
        return False
    for a, b in zip(one, other, strict=True):
        a, b = as_dense(a), as_dense(b)
        if a.is_floating_point() and a.numel():
            info = torch.finfo(a.dtype)
            tolerance = info.eps ** (0.7 if info.bits >= 32 else 0.5)
            scale = float(a.abs().amax())
            if not torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True):
                return False
    return True
