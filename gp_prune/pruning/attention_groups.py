"""Attention heads as channels: their groups, and what the attention itself costs.

Torch-Pruning cannot follow channels through an attention layer. So its graph is cut there: the
queries, keys and values end in outputs of their own, and what the heads have gathered begins anew.
The groups are then made from the attention layers themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gp_prune.pruning.architecture import HEADS, IN, OUT, ChannelGroup, Slot
from gp_prune.pruning.attention_modules import HeadAttention
from gp_prune.pruning.flops import flop_counter
from gp_prune.pruning.modules import Forward, Prunable, map_tensors, run, tensors_of


def attention_layers(model: nn.Module) -> dict[str, HeadAttention]:
    """The opened attention layers, by name, in module order."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, HeadAttention)
    }


class Ends(NamedTuple):
    """Where the autograd graph was cut.

    Attributes:
        sources: what makes queries, keys and values in opened attention layers.
        closed: what enters a closed attention layer, and what linear layers inside it put out.
    """

    sources: list[Tensor]
    closed: list[Tensor]


@contextmanager
def severed(model: nn.Module, *, closed: bool = False) -> Iterator[Ends]:
    """Run the network inside with the autograd graph cut in every opened attention layer.

    Args:
        model: the network.
        closed: cut it around everything else that has a number of heads, too.

    Yields:
        What the graph needs as further outputs; filled while the network runs.
    """
    ends = Ends([], [])
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


def with_heads(
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
        forward_fn: runs the network on them, in place of :func:`gp_prune.pruning.modules.run`.
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
            (forward_fn or run)(model, inputs)
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
