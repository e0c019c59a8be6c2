"""Read the :class:`Architecture` of a network from Torch-Pruning's dependency graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from gp_prune.errors import UserError
from gp_prune.pruning.attention.heads import macs_per_head, replace_with_heads
from gp_prune.pruning.graph.architecture import OUT, SIZE, Architecture, ChannelGroup, Removed, Slot
from gp_prune.pruning.graph.cut_check import FAILS, CutCheck, verify_groups
from gp_prune.pruning.graph.following import GRAPH_ERRORS, ChannelGraph
from gp_prune.pruning.graph.grouping import build_groups
from gp_prune.pruning.graph.layer_costs import build_architecture
from gp_prune.pruning.graph.observer import GraphObserver, adds_branches
from gp_prune.pruning.modules import refuse_masked, sample_count
from gp_prune.statistics.running import Forward, copy_model, evaluation_mode, map_tensors


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
        unused = copy_model(private, {**shared}) if try_out else None
        reader = _GraphReader(private, inputs, tuple(interface), cut_residual, forward_fn)
        architecture = reader.read()
        if unused is not None:
            check = CutCheck(unused, inputs, forward_fn, branches=reader.branches)
            return _verify(check, architecture, reader)
        if reader.branches:
            with _private_copy(model, example_inputs) as (fresh, _):
                check = CutCheck(fresh, inputs, forward_fn, branches=True)
                return _verify(check, architecture, reader)
        return architecture


def trace_layers(
    model: nn.Module,
    example_inputs: Any,
    *,
    forward_fn: Forward | None = None,
    share: bool = False,
) -> Architecture:
    """Count what the layers of a network cost, without any channel group.

    That is all that pruning single weights needs of a network. The arguments are those of
    :func:`trace`; with ``share`` the weights are not copied, for networks that fill the memory.

    Raises:
        UserError: the model carries pruning masks.
    """
    refuse_masked(model)
    sample_count(example_inputs)
    with _private_copy(model, example_inputs, share=share) as (private, inputs):
        observer = GraphObserver(private, forward_fn)
        with torch.no_grad():
            observer(private, inputs)
        if observer.has_attention:
            observer.positions.update(macs_per_head(private, inputs, forward_fn))
        return build_architecture(private, inputs, observer, None)


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
def _private_copy(
    model: nn.Module, example_inputs: Any, *, share: bool = False
) -> Iterator[tuple[nn.Module, Any]]:
    """Yield copies of model and inputs, in evaluation mode and where autograd is at work.

    With ``share`` the parameters and buffers are those of the model.
    """
    with torch.inference_mode(False):
        # Copied here: a copy that is made in inference mode cannot be followed by autograd.
        inputs = map_tensors(lambda tensor: tensor.detach().clone(), example_inputs)
    if share:
        tensors = (*model.parameters(), *model.buffers())
        private = copy_model(model, {id(tensor): tensor for tensor in tensors})
        with torch.inference_mode(False), evaluation_mode(private):
            yield private, inputs
        return
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
        with evaluation_mode(private):
            yield private, inputs


@dataclass
class _GraphReader:
    """Reads the channel groups of a private copy of a network, and what its layers cost.

    Attributes:
        branches: whether training mode adds layers, such as auxiliary heads.
        observed: what was noted of the network in evaluation mode.
    """

    model: nn.Module
    inputs: Any
    interface: tuple[str, ...]
    cut_residual: bool
    forward_fn: Forward | None
    branches: bool = False
    observed: GraphObserver = field(init=False)

    def read(self) -> Architecture:
        """Run the network and return its architecture, not verified yet."""
        groups, first = self._read_groups()
        self.observed = first
        self.branches = adds_branches(self.model, self.inputs, self.forward_fn, first.positions)
        if self.branches:
            groups, _ = self._read_groups()
            groups = [self._fix_if_idle(group) for group in groups]
        return self.build(groups)

    def _read_groups(self) -> tuple[list[ChannelGroup], GraphObserver]:
        """Return the channel groups, and what was observed of the network as it is.

        Where the graph loses channels, it is cut in more places. Where layers run without
        gradients, it is tried whether the network runs with them as well.
        """
        first = self._observe()
        groups, complete = self._follow(first)
        for options in (
            {"with_gradients": True} if first.quiet else {},
            {} if complete else {"cut_more": True},
        ):
            if options:
                with suppress(*GRAPH_ERRORS):
                    others, complete = self._follow(self._observe(**options))
                    if complete or not groups:
                        groups = others
        return groups, first

    def _observe(self, **options: bool) -> GraphObserver:
        return GraphObserver(self.model, self.forward_fn, branches=self.branches, **options)

    def _follow(self, observer: GraphObserver) -> tuple[list[ChannelGroup], bool]:
        """Return the channel groups, and whether all channels were followed to the end."""
        graph = ChannelGraph(self.model, self.inputs, observer)
        groups = build_groups(
            self.model, graph, observer, self.interface, cut_residual=self.cut_residual
        )
        if observer.has_attention:
            observer.positions.update(macs_per_head(self.model, self.inputs, self.forward_fn))
            groups = replace_with_heads(self.model, groups, self.interface)
        return groups, not graph.failures

    def _fix_if_idle(self, group: ChannelGroup) -> ChannelGroup:
        """Keep the group whole if one of its producers runs in training mode only."""
        idle = next((name for name in group.producers if not self.observed.positions[name]), None)
        if idle is None or group.fixed:
            return group
        return replace(group, fixed=f"layer {idle!r} runs in training mode only")

    def build(self, groups: Sequence[ChannelGroup]) -> Architecture:
        """Return the architecture with these groups, and with the costs that they explain."""
        return build_architecture(self.model, self.inputs, self.observed, groups)


def _verify(check: CutCheck, architecture: Architecture, reader: _GraphReader) -> Architecture:
    """Return the architecture with every group fixed that cannot be cut after all."""
    reasons = verify_groups(check, architecture)
    failing = {name for name, reason in reasons.items() if reason.startswith(FAILS)}
    groups = architecture.groups
    sized = {
        group.name: _add_static_attributes(check, architecture, group)
        for group in groups
        if group.name in failing and not check.over
    }
    larger = {name for name, group in sized.items() if group != architecture.by_name[name]}
    if larger:
        passed = {group.name for group in architecture.free} - reasons.keys()
        reasons = {name: reason for name, reason in reasons.items() if name not in larger}
        groups = tuple(sized.get(group.name, group) for group in groups)
        architecture = reader.build(_fix_groups(groups, reasons))
        reasons |= verify_groups(check, architecture, passed)
    return reader.build(_fix_groups(groups, reasons)) if reasons else architecture


def _fix_groups(groups: Sequence[ChannelGroup], reasons: Mapping[str, str]) -> list[ChannelGroup]:
    return [replace(group, fixed=group.fixed or reasons.get(group.name, "")) for group in groups]


def _add_static_attributes(
    check: CutCheck, architecture: Architecture, group: ChannelGroup
) -> ChannelGroup:
    """Add the attributes that have to shrink with a group, if the network then runs.

    An attribute is taken on trial: it is a whole number equal to the number of channels, or to the
    width of a layer that produces nothing but them, in a module that is not of torch's own. Each
    is tried by itself, then all together.
    """
    tables = {group.size: tuple(range(group.size))}
    for slot in group.slots:
        if slot.side == OUT and min(slot.channels) >= 0:
            tables.setdefault(len(slot.channels), slot.channels)
    numbers = {
        name: channels
        for size, channels in tables.items()
        for name in _attributes_equal_to(check.model, size)
    }
    for chosen in [[name] for name in numbers] + ([[*numbers]] if len(numbers) > 1 else []):
        if check.over:
            break
        slots = [Slot(name, SIZE, numbers[name]) for name in chosen]
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
