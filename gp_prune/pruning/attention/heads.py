"""Treat attention heads as channels: open attention layers, build their groups, count their MACs.

Torch-Pruning cannot follow channels through an attention layer. So its graph is cut there: the
queries, keys and values become outputs of the graph, and what the heads have gathered is a new
beginning. The groups are then made from the attention layers themselves.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from gp_prune.pruning.flops import flop_counter
from gp_prune.pruning.graph.architecture import HEADS, IN, OUT, ChannelGroup, Slot
from gp_prune.pruning.modules import Prunable, all_close
from gp_prune.statistics.running import Forward, call_model, copy_model, map_tensors, tensors_of


def open_attention(model: nn.Module) -> nn.Module:
    """Return the network with every attention layer made of plain linear layers.

    Its outputs are the same.

    Opened are :class:`torch.nn.MultiheadAttention`, the shifted windows of torchvision's Swin
    transformer, and layers built like timm's ``Attention`` (one layer ``qkv``, one ``proj``), which
    are recognised by their parts and then tried out. A layer that carries hooks or masks, shares
    parameters with another one, or is a subclass with another ``forward`` stays as it is.

    In a :class:`torch.nn.TransformerEncoder` with padded positions, torch's fast path in
    evaluation mode puts zeros out at those positions; opened, the network computes them as it does
    in training mode.

    Returns:
        A copy; ``model`` itself when there is nothing to open.
    """
    if next(_find_openings(model), None) is None:
        return model
    opened = copy_model(model)
    done: dict[int, HeadAttention] = {}
    for closed, opening in list(_find_openings(opened)):
        done[id(closed)] = opening(closed)
    if id(opened) in done:
        return done[id(opened)]
    for parent in list(opened.modules()):
        for name, child in parent._modules.items():
            if id(child) in done:
                parent._modules[name] = done[id(child)]
        if isinstance(parent, nn.TransformerEncoder):
            parent.use_nested_tensor = False  # nested tensors are for torch's fast path alone
    return opened


def _find_openings(
    model: nn.Module,
) -> Iterator[tuple[nn.Module, Callable[[Any], HeadAttention]]]:
    """Yield attention layers that can be opened, each with the class that takes its place."""
    owners = Counter(
        id(parameter) for module in model.modules() for parameter in module._parameters.values()
    )
    for module in model.modules():
        opening = _find_opening(module)
        if opening is None or any(_has_hooks(part) for part in module.modules()):
            continue
        if all(owners[id(parameter)] == 1 for parameter in module.parameters()):
            yield module, opening


def _find_opening(module: nn.Module) -> Callable[[Any], HeadAttention] | None:
    if isinstance(module, nn.MultiheadAttention):
        plain = type(module).forward is nn.MultiheadAttention.forward
        linear = (nn.Linear, NonDynamicallyQuantizableLinear)
        return OpenAttention if plain and type(module._modules.get("out_proj")) in linear else None
    origin = (type(module).__module__, type(module).__name__)
    if origin == ("torchvision.models.swin_transformer", "ShiftedWindowAttention"):
        return WindowAttention
    return FusedAttention if _is_fused(module) else None


def _has_hooks(module: nn.Module) -> bool:
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in names)


def _is_fused(module: Any) -> bool:
    """Return whether a module is built like timm's attention and computes the same opened."""
    qkv, proj = getattr(module, "qkv", None), getattr(module, "proj", None)
    heads = getattr(module, "num_heads", None)
    if isinstance(module, HeadAttention) or type(qkv) is not nn.Linear:
        return False
    if type(proj) is not nn.Linear or not isinstance(heads, int) or heads < 1:
        return False
    if qkv.out_features != 3 * proj.in_features or proj.in_features % heads:
        return False
    parts = {name for name, part in module._modules.items() if part is not None}
    parameters = [value for value in module._parameters.values() if value is not None]
    if parts - set(FusedAttention.PARTS) or parameters or module._buffers:
        return False
    others = list(inspect.signature(module.forward).parameters)[1:]
    return set(others) <= {"attn_mask", "is_causal"} and _equals_fused(module)


def _equals_fused(module: Any) -> bool:
    """Return whether a module computes on random numbers what its opened form computes."""
    weight = module.qkv.weight
    if not weight.is_floating_point() or weight.is_meta:
        return False
    copied = copy_model(module).eval()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 5, module.qkv.in_features, generator=generator).to(weight)
    with torch.no_grad():
        try:
            expected = copied(inputs)
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError):
            return False
        # The opened form returns a tensor, never a tuple of one.
        plain = isinstance(expected, Tensor) and bool(expected.isfinite().all())
        return plain and all_close([expected], [FusedAttention(copied)(inputs)])


def attention_layers(model: nn.Module) -> dict[str, HeadAttention]:
    """Return the opened attention layers, by name, in module order."""
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

    def note_source(module: nn.Module, inputs: Any, output: Tensor) -> None:
        ends.sources.append(output)

    def note_closed(module: nn.Module, inputs: Any, output: Tensor) -> None:
        ends.closed.append(output)

    def note_inputs(module: nn.Module, inputs: Any, named: Any) -> None:
        ends.closed.extend(tensors_of((inputs, named)))

    for attention in attention_layers(model).values():
        for source in attention.SOURCES:
            handles.append(attention.get_submodule(source).register_forward_hook(note_source))
        sink = attention.get_submodule(attention.SINK)
        handles.append(sink.register_forward_pre_hook(_begin_again))
    for module in _closed_attention(model) if closed else ():
        for part in _weighted_parts(module):
            handles.append(part.register_forward_pre_hook(_begin_again))
            handles.append(part.register_forward_hook(note_closed))
        handles.append(module.register_forward_pre_hook(note_inputs, with_kwargs=True))
        handles.append(module.register_forward_hook(_detach_output))
    try:
        yield ends
    finally:
        for handle in handles:
            handle.remove()


def _begin_again(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    first, *others = inputs
    return first.detach().requires_grad_(), *others


def _detach_output(module: nn.Module, inputs: Any, output: Any) -> Any:
    return map_tensors(lambda x: x.detach().requires_grad_(x.is_floating_point()), output)


def _closed_attention(model: nn.Module) -> list[nn.Module]:
    """Return the innermost modules that have a number of heads, but are not opened."""
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
    """Replace the groups of queries, keys and values by groups of heads.

    Args:
        model: the traced network.
        groups: what the graph gave that was cut at attention layers.
        interface: names of layers that keep their output channels.
    """
    producers = {producer for group in groups for producer in group.producers}
    heads: list[ChannelGroup] = []
    replaced: set[str] = set()
    for name, attention in attention_layers(model).items():
        group = _build_group(name, attention, interface)
        if producers.issuperset(group.producers):  # otherwise the network never runs it
            heads.append(group)
            replaced.update(group.producers)
    rest = [group for group in groups if not replaced.intersection(group.producers)]
    order = {name: position for position, (name, _) in enumerate(model.named_modules())}
    return sorted([*rest, *heads], key=lambda group: [order[name] for name in group.producers])


def _build_group(name: str, attention: HeadAttention, interface: Sequence[str]) -> ChannelGroup:
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
    """Count the MACs of one head of each attention layer, over the batch, without linear layers.

    Args:
        model: the network, in the mode in which it is counted.
        inputs: the example batch.
        forward_fn: how to run the network, if not with the inputs as arguments.
    """
    layers = attention_layers(model)
    spent: Counter[nn.Module] = Counter()
    watched = dict.fromkeys(
        part for layer in layers.values() for part in (layer, *_weighted_parts(layer))
    )
    with ExitStack() as stack, flop_counter(model) as counter, torch.no_grad():

        def start(module: nn.Module, *_: Any) -> None:
            spent[module] -= counter.total // 2

        def stop(module: nn.Module, *_: Any) -> None:
            spent[module] += counter.total // 2

        for module in watched:
            stack.callback(module.register_forward_pre_hook(start).remove)
            stack.callback(module.register_forward_hook(stop).remove)
        call_model(model, inputs, forward_fn)
    besides_linear = {
        name: spent[layer] - sum(spent[part] for part in _weighted_parts(layer))
        for name, layer in layers.items()
    }
    return Counter({name: macs // layers[name].num_heads for name, macs in besides_linear.items()})


def _weighted_parts(layer: nn.Module) -> list[nn.Module]:
    return [part for part in layer.modules() if isinstance(part, Prunable)]
