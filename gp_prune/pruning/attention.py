"""Opening the attention layers of a network, so that heads can be scored, masked and removed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from gp_prune.pruning.attention_modules import HeadAttention
from gp_prune.pruning.attention_multihead import OpenAttention
from gp_prune.pruning.attention_vision import FusedAttention, WindowAttention
from gp_prune.pruning.modules import tensors_of

_FAILURES = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError)
_FUSED_ARGUMENTS = ("attn_mask", "is_causal")


def open_attention(model: nn.Module) -> nn.Module:
    """The network with every attention layer made of plain linear layers; the same outputs.

    Opened are :class:`torch.nn.MultiheadAttention`, the shifted windows of torchvision's Swin
    transformer, and layers built like timm's ``Attention`` (one layer ``qkv``, one ``proj``), which
    are recognised by their parts and then tried out. A layer that carries hooks or masks, shares
    parameters with another one, or is a subclass with an own ``forward`` stays as it is.

    In a :class:`torch.nn.TransformerEncoder` with padded positions, torch's fast path in
    evaluation mode puts zeros out at those positions; opened, the network computes them as it does
    in training mode.

    Returns:
        A copy; ``model`` itself when there is nothing to open.
    """
    if not any(True for _ in _openings(model)):
        return model
    opened = copy.deepcopy(model)
    done: dict[int, HeadAttention] = {}
    for closed, make in list(_openings(opened)):
        done[id(closed)] = make(closed)
    if id(opened) in done:
        return done[id(opened)]
    for parent in list(opened.modules()):
        for name, child in parent._modules.items():
            if id(child) in done:
                parent._modules[name] = done[id(child)]
        if isinstance(parent, nn.TransformerEncoder):
            parent.use_nested_tensor = False  # nested tensors are for torch's fast path alone
    return opened


def _openings(model: nn.Module) -> Iterator[tuple[nn.Module, Callable[[Any], HeadAttention]]]:
    """Attention layers that can be opened, each with the way to do it."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for module in model.modules():
        make = _way(module)
        if make is None or any(_has_hooks(part) for part in module.modules()):
            continue
        if all(owners[id(parameter)] == 1 for parameter in module.parameters()):
            yield module, make


def _way(module: nn.Module) -> Callable[[Any], HeadAttention] | None:
    forward = type(module).forward
    if isinstance(module, nn.MultiheadAttention):
        plain = forward is nn.MultiheadAttention.forward and "out_proj" in module._modules
        kinds = (nn.Linear, NonDynamicallyQuantizableLinear)
        return OpenAttention if plain and type(module.out_proj) in kinds else None
    origin = (type(module).__module__, type(module).__name__)
    if origin == ("torchvision.models.swin_transformer", "ShiftedWindowAttention"):
        return WindowAttention
    return FusedAttention if _is_fused(module) else None


def _has_hooks(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)


def _is_fused(module: Any) -> bool:
    """Whether a module is built like timm's attention, and :class:`FusedAttention` equals it."""
    qkv, proj = getattr(module, "qkv", None), getattr(module, "proj", None)
    heads = getattr(module, "num_heads", None)
    if isinstance(module, HeadAttention) or type(qkv) is not nn.Linear:
        return False
    if type(proj) is not nn.Linear or not isinstance(heads, int) or heads < 1:
        return False
    if qkv.out_features != 3 * proj.in_features or proj.in_features % heads:
        return False
    parts = {name for name, part in module._modules.items() if part is not None}
    own = [value for value in module._parameters.values() if value is not None]
    others = list(inspect.signature(module.forward).parameters)[1:]
    if parts - set(FusedAttention.PARTS) or own or module._buffers:
        return False
    return set(others) <= set(_FUSED_ARGUMENTS) and _equals_fused(module)


def _equals_fused(module: Any) -> bool:
    """Whether a module computes on random numbers what its opened form computes."""
    weight = module.qkv.weight
    if not weight.is_floating_point() or weight.is_meta:
        return False
    trial = copy.deepcopy(module).eval()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 5, module.qkv.in_features, generator=generator).to(weight)
    with torch.no_grad():
        try:
            expected = trial(inputs)
        except _FAILURES:
            return False
        found = FusedAttention(trial)(inputs)
    if [t.shape for t in tensors_of(expected)] != [found.shape]:
        return False
    info = torch.finfo(found.dtype)
    tolerance = info.eps ** (0.7 if info.bits >= 32 else 0.5)
    scale = float(expected.abs().amax())
    return torch.allclose(expected, found, rtol=tolerance, atol=tolerance * scale)
