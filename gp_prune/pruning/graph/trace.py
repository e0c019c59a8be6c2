"""Read the :class:`Architecture` of a network from Torch-Pruning's dependency graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from gp_prune.errors import UserError
from gp_prune.pruning.attention.heads import macs_per_head, replace_with_heads
from gp_prune.pruning.attention.modules import HeadAttention
from gp_prune.pruning.cost import ATTENTION, DENSE, DEPTHWISE, NORM, LayerCost, Side
from gp_prune.pruning.graph.architecture import (
    HEADS,
    IN,
    NORM_SIDE,
    OUT,
    SIZE,
    Architecture,
    ChannelGroup,
    Removed,
    Slot,
)
from gp_prune.pruning.graph.cut_check import FAILS, CutCheck, verify_groups
from gp_prune.pruning.graph.grouping import build_groups
from gp_prune.pruning.graph.observer import GraphObserver, adds_branches
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
from gp_prune.statistics.running import Forward, copy_model, evaluation_mode, map_tensors

INDEX_MAP_LIMIT = 2**24
"""Entries that index maps may give out, over all groups of a graph: four times what torchvision's
largest networks need, in half a minute at most."""

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
        try_out: False leaves the trial to :func:`find_violation`, which must be asked about the
            cut that is made in the end. Auxiliary heads are tried out all the same.

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
    with _private_copy(model, example_inputs) as (private, inputs):
        # Some networks keep what they once computed, which cannot be copied with its history. The
        # numbers of the parameters are shared: the check overwrites them when the graph was read.
        shared = {id(parameter): parameter for parameter in private.parameters()}
        unused = copy_model(private, {**shared})
        reader = _GraphReader(private, inputs, tuple(interface), cut_residual, forward_fn)
        architecture = reader.read()
        if not (try_out or reader.branches):
            return architecture
        check = CutCheck(unused, inputs, forward_fn, branches=reader.branches)
        return _verify(check, architecture, reader)


def find_violation(
    model: nn.Module,
    example_inputs: Any,
    architecture: Architecture,
    removed: Removed,
    *,
    forward_fn: Forward | None = None,
) -> str:
    """Return why a cut computes something else than the same channels at zero; empty if it is fine.

    It is tried out in evaluation mode, with random weights and inputs, together with random parts
    of all free groups from which it takes nothing.

    Args:
        model: the network; it stays as it is.
        example_inputs: the batch that it was traced with.
        architecture: what :func:`trace` returned for it.
        removed: group name -> channels.
        forward_fn: as for :func:`trace`.
    """
    with _private_copy(model, example_inputs) as (private, inputs):
        check = CutCheck(private, inputs, forward_fn)
        return check.find_violation(architecture, architecture.free, removed)


@contextmanager
def _private_copy(model: nn.Module, example_inputs: Any) -> Iterator[tuple[nn.Module, Any]]:
    """Yield copies of model and inputs, in evaluation mode and where autograd is at work."""
    with torch.inference_mode(False), torch.enable_grad():
        # Parameters are copied, too: a network may write to them when it runs, as codebooks do.
        copies = {
            id(parameter): nn.Parameter(parameter.detach().clone(), False)
            for parameter in model.parameters()
            if type(parameter) is nn.Parameter
        }
        private = copy_model(model, {**copies})
        for parameter in private.parameters():
            # Torch-Pruning follows the autograd graph and loses everything before frozen weights.
            parameter.requires_grad_(parameter.is_floating_point())
        inputs = map_tensors(lambda tensor: tensor.detach().clone(), example_inputs)
        with evaluation_mode(private):
            yield private, inputs


@dataclass
class _GraphReader:
    """Reads the channel groups of a private copy of a network, and what its layers cost.

    Attributes:
        branches: whether training mode adds layers, such as auxiliary heads.
        positions: how often each weight of each layer is used in evaluation mode.
        macs: MACs of the whole batch.
    """

    model: nn.Module
    inputs: Any
    interface: tuple[str, ...]
    cut_residual: bool
    forward_fn: Forward | None
    branches: bool = False

    def read(self) -> Architecture:
        """Run the network and return its architecture, not verified yet."""
        groups, self.positions, self.macs = self._read_groups()
        self.branches = adds_branches(self.model, self.inputs, self.forward_fn, self.positions)
        if self.branches:
            groups, _, _ = self._read_groups()
            groups = [self._fix_if_idle(group) for group in groups]
        return self.build(groups)

    def _read_groups(self) -> tuple[list[ChannelGroup], Counter[str], int]:
        """Return the channel groups, the uses of every layer, and the MACs."""
        first = self._observe()
        try:
            return *self._follow(first), first.macs
        except _GRAPH_ERRORS as error:
            if isinstance(error, UserError) or error is first.failure:
                raise  # the network's own errors stay its own
            second = self._observe(cut_more=True)
            try:
                followed = self._follow(second)
            except _GRAPH_ERRORS as again:
                raise _refusal(again) from again
            if not second.cut:
                raise _refusal(error) from error
            return *followed, first.macs

    def _observe(self, *, cut_more: bool = False) -> GraphObserver:
        return GraphObserver(self.model, self.forward_fn, branches=self.branches, cut_more=cut_more)

    def _follow(self, observer: GraphObserver) -> tuple[list[ChannelGroup], Counter[str]]:
        graph = tp.DependencyGraph().build_dependency(
            self.model, self.inputs, forward_fn=observer, output_transform=observer.outputs,
            verbose=False,
        )  # fmt: skip
        _limit_index_maps(graph)
        groups = build_groups(
            self.model, graph, observer, self.interface, cut_residual=self.cut_residual
        )
        if observer.has_attention:
            observer.positions.update(macs_per_head(self.model, self.inputs, self.forward_fn))
            groups = replace_with_heads(self.model, groups, self.interface)
        return groups, observer.positions

    def _fix_if_idle(self, group: ChannelGroup) -> ChannelGroup:
        """Keep the group whole if one of its producers runs in training mode only."""
        idle = next((name for name in group.producers if not self.positions[name]), None)
        if idle is None or group.fixed:
            return group
        return replace(group, fixed=f"layer {idle!r} runs in training mode only")

    def build(self, groups: Sequence[ChannelGroup]) -> Architecture:
        """Return the architecture with these groups, and with the costs that they explain."""
        free = [group for group in groups if not group.fixed]
        bare = Architecture(tuple(groups), tuple(_layer_costs(self.model, free, self.positions)))
        params = sum(parameter.numel() for parameter in self.model.parameters())
        layer_macs, layer_params = bare.dense_costs
        return replace(
            bare,
            samples=sample_count(self.inputs),
            constant_macs=self.macs - layer_macs,
            constant_params=params - layer_params,
        )


def _refusal(error: Exception) -> UserError:
    return UserError(
        "Torch-Pruning cannot follow the channels of this network "
        f"({type(error).__name__}: {error}); it cannot be cut by channels"
    )


def _limit_index_maps(graph: Any) -> None:
    """Make the graph raise RuntimeError beyond :data:`INDEX_MAP_LIMIT`, in place."""
    tally: Counter[str] = Counter()
    for node in graph.module2node.values():
        for dependency in node.dependencies:
            dependency.index_mapping = _LimitedMaps(dependency.index_mapping, tally)


class _LimitedMaps(list[Any]):
    """The index maps of one dependency; the graph renews its items and loops over them."""

    def __init__(self, maps: list[Any], tally: Counter[str]) -> None:
        super().__init__(maps)
        self._tally = tally

    def __iter__(self) -> Iterator[Any]:
        for mapping in super().__iter__():
            yield None if mapping is None else partial(self._count_and_map, mapping)

    def _count_and_map(self, mapping: Any, indices: Any) -> Any:
        # A map that multiplies would fill the memory before its result could be counted; the
        # reverse of one gives at most what it gets.
        multiplies = not getattr(mapping, "reverse", False)
        stride = int(getattr(mapping, "_stride", 1)) if multiplies else 1
        self._tally["entries"] += len(indices) * max(1, stride)
        if self._tally["entries"] > INDEX_MAP_LIMIT:
            raise RuntimeError("the positions of its channels multiply without end")
        return mapping(indices)


def _verify(check: CutCheck, architecture: Architecture, reader: _GraphReader) -> Architecture:
    """Return the architecture with every group fixed that cannot be cut after all."""
    reasons = verify_groups(check, architecture)
    failing = {name for name, reason in reasons.items() if reason.startswith(FAILS)}
    groups = architecture.groups
    sized = tuple(
        _add_static_attributes(check, architecture, group) if group.name in failing else group
        for group in groups
    )
    if sized != groups:
        architecture = reader.build(sized)
        reasons = verify_groups(check, architecture)
    if not reasons:
        return architecture
    return reader.build(
        [replace(group, fixed=group.fixed or reasons.get(group.name, "")) for group in sized]
    )


def _add_static_attributes(
    check: CutCheck, architecture: Architecture, group: ChannelGroup
) -> ChannelGroup:
    """Add the attributes that have to shrink with a group, if the network then runs.

    An attribute is taken on trial: it is a whole number equal to the number of channels, in a
    module that is not of torch's own. Each is tried by itself, then all together.
    """
    names = list(_attributes_equal_to(check.model, group.size))
    for chosen in [[name] for name in names] + ([names] if len(names) > 1 else []):
        slots = [Slot(name, SIZE, tuple(range(group.size))) for name in chosen]
        larger = replace(group, slots=(*group.slots, *slots), fixed="")
        others = [larger if other.name == group.name else other for other in architecture.groups]
        if not check.find_violation(replace(architecture, groups=tuple(others)), [larger]):
            return larger
    return group


def _attributes_equal_to(model: nn.Module, size: int) -> Iterator[str]:
    for name, module in model.named_modules():
        if type(module).__module__.split(".")[0] in ("torch", "gp_prune"):
            continue
        for attribute, value in vars(module).items():
            if type(value) is int and value == size:
                yield f"{name}.{attribute}" if name else attribute


def _layer_costs(
    model: nn.Module, free: Sequence[ChannelGroup], positions: Counter[str]
) -> list[LayerCost]:
    terms: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for group in free:
        for slot in group.slots:
            entries = slot.channels.count(0)
            terms.setdefault((slot.module, slot.side), []).append((group.name, entries))
    sizes = {group.name: group.size for group in free}

    def side(name: str, module: nn.Module, which: str) -> Side:
        own_terms = tuple(terms.get((name, which), ()))
        varying = sum(entries * sizes[group] for group, entries in own_terms)
        return Side(side_width(module, which) - varying, own_terms)

    costs = []
    for name, module in model.named_modules():
        uses = positions[name]
        if isinstance(module, Prunable) and "weight" in module._parameters:
            if uses or any((name, which) in terms for which in (IN, OUT)):
                costs.append(_weighted_cost(name, module, uses, side))
        elif isinstance(module, (*PerChannel, *Spanning)) and (name, NORM_SIDE) in terms:
            count = sum(1 for _ in module.parameters())
            width = side(name, module, NORM_SIDE)
            costs.append(LayerCost(name, NORM, 0, count, 1, False, Side(1), width))
        elif isinstance(module, HeadAttention) and uses:
            count, heads = module.head_parameters(), side(name, module, HEADS)
            costs.append(LayerCost(name, ATTENTION, uses, count, 1, False, Side(1), heads))
    for name, which in terms:
        if which == PARAMETER:
            parameter = find_part(model, name, which)
            count = parameter.numel() // side_width(parameter, which)
            width = side(name, parameter, which)
            costs.append(LayerCost(name, NORM, 0, count, 1, False, Side(1), width))
    types = {name: type(module).__name__ for name, module in model.named_modules()}
    return [replace(cost, type=types.get(cost.name, "")) for cost in costs]


def _weighted_cost(name: str, module: Any, positions: int, side: Any) -> LayerCost:
    taps = module.weight[0, 0].numel() if isinstance(module, Conv) else 1
    bias = module.bias is not None
    if is_depthwise(module):
        width = side(name, module, "depthwise")
        return LayerCost(name, DEPTHWISE, positions, taps, 1, bias, Side(1), width)
    groups = module.groups if isinstance(module, Conv) else 1
    inputs, outputs = side(name, module, IN), side(name, module, OUT)
    if groups > 1 and {group for group, _ in inputs.terms} & {group for group, _ in outputs.terms}:
        # Whole groups go: each output keeps the inputs that it reads.
        inputs, groups = Side(module.in_channels // groups), 1
    return LayerCost(name, DENSE, positions, taps, groups, bias, inputs, outputs)
