"""Attention heads as channels: their groups, and what the attention itself costs.

Torch-Pruning cannot follow channels through an attention layer. So its graph is cut there: the
queries, keys and values end in outputs of their own, and what the heads have gathered begins anew.
The groups are then made from the attention layers themselves.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from gp_prune.pruning.attention.modules import (
    FusedAttention,
    HeadAttention,
    OpenAttention,
    WindowAttention,
)
from gp_prune.pruning.cost import flop_counter
from gp_prune.pruning.graph.architecture import HEADS, IN, OUT, ChannelGroup, Slot
from gp_prune.pruning.modules import Prunable
from gp_prune.statistics.running import Forward, call_model, map_tensors, tensors_of

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


def attention_layers(model: nn.Module) -> dict[str, HeadAttention]:
    """The opened attention layers, by name, in module order."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, HeadAttention)
    }


class AttentionEnds(NamedTuple):
    """Where the autograd graph was cut.

    Attributes:
        sources: what makes queries, keys and values in opened attention layers.
        closed: what enters a closed attention layer, and what linear layers inside it put out.
    """

    sources: list[Tensor]
    closed: list[Tensor]


@contextmanager
def cut_graph_at_attention(model: nn.Module, *, closed: bool = False) -> Iterator[AttentionEnds]:
    """Run the network inside with the autograd graph cut in every opened attention layer.

    Args:
        model: the network.
        closed: cut it around everything else that has a number of heads, too.

    Yields:
        What the graph needs as further outputs; filled while the network runs.
    """
    ends = AttentionEnds([], [])
    handles = []
    for attention in attention_layers(model).values():
        sources = [attention.get_submodule(source) for source in attention.SOURCES]
        sink = attention.get_submodule(attention.SINK)
        handles += [source.register_forward_hook(_end(ends.sources)) for source in sources]
        handles.append(sink.register_forward_pre_hook(_begin))
    for module in _closed_attention(model) if closed else ():
        inside = [part for part in module.modules() if isinstance(part, Prunable)]
        handles += [part.register_forward_pre_hook(_begin) for part in inside]
        handles += [part.register_forward_hook(_end(ends.closed)) for part in inside]
        handles.append(module.register_forward_pre_hook(_enter(ends.closed), with_kwargs=True))
        handles.append(module.register_forward_hook(_leave))
    try:
        yield ends
    finally:
        for handle in handles:
            handle.remove()


def _begin(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    first, *others = inputs
    return first.detach().requires_grad_(), *others


def _end(ends: list[Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        ends.append(output)

    return hook


def _enter(ends: list[Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, named: Any) -> None:
        ends.extend(tensors_of((inputs, named)))

    return hook


def _leave(module: nn.Module, inputs: Any, output: Any) -> Any:
    return map_tensors(lambda x: x.detach().requires_grad_(x.is_floating_point()), output)


def _closed_attention(model: nn.Module) -> list[nn.Module]:
    """The innermost modules that have a number of heads, but are not opened."""
    return [
        module
        for module in model.modules()
        if _has_heads(module)
        and sum(map(_has_heads, module.modules())) == 1
        and not isinstance(module, HeadAttention)
    ]


def _has_heads(module: nn.Module) -> bool:
    return isinstance(module, HeadAttention) or any(
        isinstance(getattr(module, name, None), int) for name in ("num_heads", "n_heads", "heads")
    )


def replace_with_heads(
    model: nn.Module, groups: Sequence[ChannelGroup], interface: Sequence[str]
) -> list[ChannelGroup]:
    """The groups with those of queries, keys and values replaced by groups of heads.

    Args:
        model: the traced network.
        groups: what the severed graph gave.
        interface: names of layers that keep their output channels.
    """
    made = {producer for group in groups for producer in group.producers}
    heads: list[ChannelGroup] = []
    replaced: set[str] = set()
    for name, attention in attention_layers(model).items():
        group = _group(name, attention, interface)
        if made.issuperset(group.producers):  # otherwise the network never runs it
            heads.append(group)
            replaced.update(group.producers)
    rest = [group for group in groups if not replaced.intersection(group.producers)]
    order = {name: position for position, (name, _) in enumerate(model.named_modules())}
    return sorted([*rest, *heads], key=lambda group: [order[name] for name in group.producers])


def _group(name: str, attention: HeadAttention, interface: Sequence[str]) -> ChannelGroup:
    block = np.repeat(np.arange(attention.num_heads), attention.head_dim)
    prefix = f"{name}." if name else ""
    slots = [Slot(name, HEADS, tuple(range(attention.num_heads)))]
    for source, blocks in attention.SOURCES.items():
        slots.append(Slot(prefix + source, OUT, tuple(np.tile(block, blocks).tolist())))
    first = slots[1].module
    slots.append(Slot(prefix + attention.SINK, IN, tuple(block.tolist())))
    named = any(slot.module in interface for slot in slots if slot.side != IN)
    reason = "named interface" if named else attention.whole
    return ChannelGroup(first, attention.num_heads, tuple(slots), reason)


def macs_per_head(model: nn.Module, inputs: Any, forward_fn: Forward | None = None) -> Counter[str]:
    """MACs of one head of each attention layer, over the whole batch, without linear layers.

    Args:
        model: the network, in the mode in which it is counted.
        inputs: the example batch.
        forward_fn: runs the network, see :func:`~gp_prune.statistics.running.call_model`.
    """
    layers = attention_layers(model)
    if not layers:
        return Counter()
    spent: Counter[nn.Module] = Counter()
    with flop_counter(model) as counter, torch.no_grad():

        def tally(sign: int) -> Callable[..., None]:
            def hook(module: nn.Module, *_: Any) -> None:
                spent[module] += sign * counter.total // 2

            return hook

        watched = dict.fromkeys(
            part for layer in layers.values() for part in (layer, *_weighted(layer))
        )
        handles = [module.register_forward_pre_hook(tally(-1)) for module in watched]
        handles += [module.register_forward_hook(tally(1)) for module in watched]
        try:
            (forward_fn or call_model)(model, inputs)
        finally:
            for handle in handles:
                handle.remove()
    own = {
        name: spent[layer] - sum(spent[part] for part in _weighted(layer))
        for name, layer in layers.items()
    }
    return Counter({name: macs // layers[name].num_heads for name, macs in own.items()})


def _weighted(layer: nn.Module) -> list[nn.Module]:
    return [part for part in layer.modules() if isinstance(part, Prunable)]
