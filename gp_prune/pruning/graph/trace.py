"""From a network to its :class:`Architecture`, through Torch-Pruning's dependency graph."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from gp_prune.errors import UserError
from gp_prune.pruning.attention.heads import macs_per_head, with_heads
from gp_prune.pruning.attention.modules import HeadAttention
from gp_prune.pruning.graph.architecture import (
    HEADS,
    IN,
    NORM_SIDE,
    OUT,
    SIZE,
    Architecture,
    ChannelGroup,
    Slot,
)
from gp_prune.pruning.graph.grouping import channel_groups
from gp_prune.pruning.graph.observer import GraphObserver, adds_branches
from gp_prune.pruning.graph.trial import FAILS, Trial, objection, prepared, settle
from gp_prune.pruning.layer_cost import ATTENTION, DENSE, DEPTHWISE, NORM, LayerCost, Side
from gp_prune.pruning.modules import (
    PARAMETER,
    Conv,
    PerChannel,
    Prunable,
    Spanning,
    find_part,
    is_depthwise,
    refuse_masked,
    sample_count,
)
from gp_prune.pruning.surgery import side_width
from gp_prune.statistics.running import Forward, evaluation_mode, map_tensors

LIMIT = 2**24
"""Entries that index maps may give out, over all groups of a graph: four times what torchvision's
largest networks need, in half a minute at most."""


def bounded(graph: Any) -> Any:
    """The dependency graph, changed so that it raises RuntimeError beyond :data:`LIMIT`."""
    tally = _Tally()
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            dependency.index_mapping = _Maps(dependency.index_mapping, tally)
    return graph


class _Tally:
    """What the maps have given out so far."""

    def __init__(self) -> None:
        self.total = 0

    def checked(self, mapping: Callable[[Any], Any], indices: Any) -> Any:
        """The mapped indices."""
        # A map that multiplies would fill the memory before its result could be counted; the
        # reverse of one gives at most what it gets.
        multiplies = not getattr(mapping, "reverse", False)
        stride = int(getattr(mapping, "_stride", 1)) if multiplies else 1
        self.total += len(indices) * max(1, stride)
        if self.total > LIMIT:
            raise RuntimeError("the positions of its channels multiply without end")
        return mapping(indices)


class _Maps(list[Any]):
    """The index maps of one dependency; the graph renews its items and loops over them."""

    def __init__(self, maps: list[Any], tally: _Tally) -> None:
        super().__init__(maps)
        self._tally = tally

    def __iter__(self) -> Iterator[Any]:
        for mapping in super().__iter__():
            yield None if mapping is None else partial(self._tally.checked, mapping)


def with_sizes(trial: Trial, architecture: Architecture, group: ChannelGroup) -> ChannelGroup:
    """The group with the attributes that have to shrink with it, if the network then runs.

    An attribute is taken on trial: it is a whole number equal to the number of channels, in a
    module that is not of torch's own. Each is tried by itself, then all together.

    Args:
        trial: the network.
        architecture: the channel groups.
        group: one without which the network does not run.

    Returns:
        The group with slots of side ``"size"``; as it was if that does not help.
    """
    found = list(_attributes(trial.model, group.size))
    choices = [[name] for name in found] + ([found] if len(found) > 1 else [])
    for names in choices:
        slots = [Slot(name, SIZE, tuple(range(group.size))) for name in names]
        larger = replace(group, slots=(*group.slots, *slots), fixed="")
        others = [larger if other.name == group.name else other for other in architecture.groups]
        if not objection(trial, replace(architecture, groups=tuple(others)), [larger]):
            return larger
    return group


def _attributes(model: nn.Module, size: int) -> Iterator[str]:
    """Dotted names of the attributes of the model's own modules that equal ``size``."""
    for name, module in model.named_modules():
        if type(module).__module__.split(".")[0] in ("torch", "gp_prune"):
            continue
        for attribute, value in vars(module).items():
            if type(value) is int and value == size:
                yield f"{name}.{attribute}" if name else attribute


_GRAPH_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What Torch-Pruning is seen to raise on networks that it cannot follow."""


def trace(
    model: nn.Module,
    example_inputs: Any,
    *,
    interface: Sequence[str] = (),
    cut_residual: bool = False,
    forward_fn: Forward | None = None,
    try_out: bool = True,
) -> Architecture:
    """Find which channels of a network can only be cut together, and what each layer costs.

    Everything happens on a private copy; the model, its flags and the random state stay as they
    are. Frozen parameters, training mode and surrounding ``no_grad`` or ``inference_mode`` blocks
    make no difference. The groups are tried out on the copy with random weights: a group whose cut
    network fails, or computes anything else than the masked one, is fixed with that reason.
    Layers that run in training mode only, such as auxiliary heads, follow the channels they read.

    Args:
        model: a network that :func:`copy.deepcopy` can copy.
        example_inputs: a batch: a tensor (samples, ...), a list of arguments or a mapping.
        interface: names of layers whose output channels are kept, such as a latent code.
        cut_residual: let channels go that a layer or group normalisation spans, or a free
            parameter holds, such as the residual stream of a transformer. The normalisation then
            runs over the channels that are left, so the cut network is no longer what masks on
            the whole network compute; such groups have ``crosses_normalisation``.
        forward_fn: ``forward_fn(model, inputs) -> output`` runs the network, where calling it
            with ``example_inputs`` is not the way.
        try_out: False leaves the trial to :func:`find_violation`, which must be asked about the cut
            that is made in the end. Auxiliary heads are tried out all the same.

    Raises:
        UserError: the model carries pruning masks, an interface layer does not exist or has no
            channels of its own, the output does not depend on any parameter, or Torch-Pruning
            cannot follow the network.
    """
    refuse_masked(model)
    sample_count(example_inputs)
    known = dict(model.named_modules())
    for name in interface:
        if name not in known:
            raise UserError(f"interface layer {name!r} is not in the model; see named_modules()")
    with _privately(model, example_inputs) as (private, inputs):
        return _traced(private, _Way(inputs, tuple(interface), cut_residual, forward_fn, try_out))


def find_violation(
    model: nn.Module,
    example_inputs: Any,
    architecture: Architecture,
    removed: Mapping[str, Sequence[int]],
    *,
    forward_fn: Forward | None = None,
) -> str:
    """Why a cut computes something else than the same channels at zero; empty if it does not.

    It is tried out in evaluation mode, with random weights and inputs, together with random parts
    of all free groups from which it takes nothing.

    Args:
        model: the network; it stays as it is.
        example_inputs: the batch that it was traced with.
        architecture: what :func:`trace` made of it.
        removed: group name -> channels.
        forward_fn: as for :func:`trace`.
    """
    with _privately(model, example_inputs) as (private, inputs):
        trial = prepared(Trial(private, inputs, forward_fn))
        return objection(trial, architecture, architecture.free, removed)


@contextmanager
def _privately(model: nn.Module, example_inputs: Any) -> Iterator[tuple[nn.Module, Any]]:
    """A private copy in evaluation mode, and inputs, where autograd follows what is done."""
    with torch.inference_mode(False), torch.enable_grad():
        private = _private_copy(model)
        inputs = map_tensors(lambda tensor: tensor.detach().clone(), example_inputs)
        with evaluation_mode(private):
            yield private, inputs


def _traced(model: nn.Module, way: _Way) -> Architecture:
    # Some networks keep what they once computed, which cannot be copied with its history. The
    # numbers of the parameters are shared: the trial overwrites them when the graph was read.
    shared = {id(parameter): parameter for parameter in model.parameters()}
    unused = copy.deepcopy(model, {**shared})
    groups, positions, macs = _groups(model, way, branches=False)
    branches = adds_branches(model, way.inputs, way.forward_fn, positions)
    if branches:
        found, _, _ = _groups(model, way, branches=True)
        groups = [_fixed_if_idle(group, positions) for group in found]
    architecture = _architecture(model, groups, positions, way.inputs, macs)
    if not (way.try_out or branches):
        return architecture
    trial = prepared(Trial(unused, way.inputs, way.forward_fn, branches))
    reasons = settle(trial, architecture)
    failing = {name for name, reason in reasons.items() if reason.startswith(FAILS)}
    sized = [with_sizes(trial, architecture, g) if g.name in failing else g for g in groups]
    if sized != groups:
        architecture = _architecture(model, sized, positions, way.inputs, macs)
        reasons = settle(trial, architecture)
    if not reasons:
        return architecture
    settled = [replace(g, fixed=g.fixed or reasons.get(g.name, "")) for g in sized]
    return _architecture(model, settled, positions, way.inputs, macs)


def _fixed_if_idle(group: ChannelGroup, positions: Counter[str]) -> ChannelGroup:
    """The group, kept whole if one of its producers runs in training mode only."""
    idle = next((name for name in group.producers if not positions[name]), None)
    if idle is None or group.fixed:
        return group
    return replace(group, fixed=f"layer {idle!r} runs in training mode only")


def _is_plain(parameter: nn.Parameter) -> bool:
    return type(parameter) is nn.Parameter


def _private_copy(model: nn.Module) -> nn.Module:
    # Own numbers: a network may write to its parameters when it runs, as codebooks do.
    own = {
        id(p): nn.Parameter(p.detach().clone(), False) for p in model.parameters() if _is_plain(p)
    }
    private = copy.deepcopy(model, {**own})
    for parameter in private.parameters():
        # Torch-Pruning walks the autograd graph and loses everything behind frozen weights.
        parameter.requires_grad_(parameter.is_floating_point())
    return private


@dataclass(frozen=True)
class _Way:
    """How the network is run and read."""

    inputs: Any
    interface: tuple[str, ...]
    cut_residual: bool
    forward_fn: Forward | None
    try_out: bool


def _groups(
    model: nn.Module, way: _Way, branches: bool
) -> tuple[list[ChannelGroup], Counter[str], int]:
    """The channel groups, how often each weight of each layer is used, and the MACs."""
    first = GraphObserver(model, way.forward_fn, branches=branches)
    try:
        return *_read_groups(model, way, first), first.macs
    except _GRAPH_ERRORS as error:
        if isinstance(error, UserError) or error is first.failure:
            raise  # the network's own errors stay its own
        watch = GraphObserver(model, way.forward_fn, branches=branches, cut_more=True)
        try:
            found = _read_groups(model, way, watch)
        except _GRAPH_ERRORS as second:
            raise _not_followed(second) from second
        if not watch.cut:
            raise _not_followed(error) from error
        return *found, first.macs


def _read_groups(
    model: nn.Module, way: _Way, watch: GraphObserver
) -> tuple[list[ChannelGroup], Counter[str]]:
    graph = _dependency_graph(model, way.inputs, watch)
    groups = channel_groups(model, graph, watch, way.interface, cut_residual=way.cut_residual)
    watch.positions.update(macs_per_head(model, way.inputs, way.forward_fn))
    return with_heads(model, groups, way.interface), watch.positions


def _not_followed(error: Exception) -> UserError:
    return UserError(
        "Torch-Pruning cannot follow the channels of this network "
        f"({type(error).__name__}: {error}); it cannot be cut by channels"
    )


def _dependency_graph(model: nn.Module, inputs: Any, watch: GraphObserver) -> Any:
    graph = tp.DependencyGraph().build_dependency(
        model, inputs, forward_fn=watch, output_transform=watch.outputs, verbose=False
    )
    return bounded(graph)


def _architecture(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    positions: Counter[str],
    inputs: Any,
    macs: int,
) -> Architecture:
    layers = _layer_costs(model, [group for group in groups if not group.fixed], positions)
    params = sum(parameter.numel() for parameter in model.parameters())
    bare = Architecture(tuple(groups), tuple(layers))
    layer_macs, layer_params = bare.dense_costs
    return replace(
        bare,
        samples=sample_count(inputs),
        constant_macs=macs - layer_macs,
        constant_params=params - layer_params,
    )


def _layer_costs(
    model: nn.Module, free: Sequence[ChannelGroup], positions: Counter[str]
) -> list[LayerCost]:
    terms: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for group in free:
        for slot in group.slots:
            entries = slot.channels.count(0)
            terms.setdefault((slot.module, slot.side), []).append((group.name, entries))
    sizes = {group.name: group.size for group in free}

    def side(name: str, module: nn.Module, kind: str) -> Side:
        found = tuple(terms.get((name, kind), ()))
        varying = sum(entries * sizes[group] for group, entries in found)
        return Side(side_width(module, kind) - varying, found)

    costs = []
    for name, module in model.named_modules():
        if isinstance(module, Prunable) and "weight" in module._parameters:
            if positions[name] or any((name, kind) in terms for kind in (IN, OUT)):
                costs.append(_weighted(name, module, positions[name], side))
        elif isinstance(module, (*PerChannel, *Spanning)) and (name, NORM_SIDE) in terms:
            numbers = sum(1 for _ in module.parameters())
            width = side(name, module, NORM_SIDE)
            costs.append(LayerCost(name, NORM, 0, numbers, 1, False, Side(1), width))
        elif isinstance(module, HeadAttention) and positions[name]:
            own, heads = module.head_parameters(), side(name, module, HEADS)
            costs.append(LayerCost(name, ATTENTION, positions[name], own, 1, False, Side(1), heads))
    for name, kind in terms:
        if kind == PARAMETER:
            parameter = find_part(model, name, kind)
            width = side(name, parameter, kind)
            numbers = parameter.numel() // side_width(parameter, kind)
            costs.append(LayerCost(name, NORM, 0, numbers, 1, False, Side(1), width))
    return costs


def _weighted(name: str, module: Any, positions: int, side: Any) -> LayerCost:
    taps = module.weight[0, 0].numel() if isinstance(module, Conv) else 1
    bias = module.bias is not None
    if is_depthwise(module):
        width = side(name, module, "depthwise")
        return LayerCost(name, DEPTHWISE, positions, taps, 1, bias, Side(1), width)
    groups = module.groups if isinstance(module, Conv) else 1
    inputs, outputs = side(name, module, "in"), side(name, module, "out")
    if groups > 1 and {group for group, _ in inputs.terms} & {group for group, _ in outputs.terms}:
        # Whole groups go: each output keeps the inputs that it reads.
        inputs, groups = Side(module.in_channels // groups), 1
    return LayerCost(name, DENSE, positions, taps, groups, bias, inputs, outputs)
