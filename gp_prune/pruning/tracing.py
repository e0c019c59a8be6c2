"""From a network to its :class:`Architecture`, through Torch-Pruning's dependency graph."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.pruning.architecture import Architecture, ChannelGroup
from gp_prune.pruning.cost import count_macs
from gp_prune.pruning.grouping import channel_groups
from gp_prune.pruning.layer_cost import DENSE, DEPTHWISE, NORM, LayerCost, Side
from gp_prune.pruning.modules import (
    Conv,
    PerChannel,
    Prunable,
    evaluation,
    is_depthwise,
    is_transposed,
    map_tensors,
    refuse_masked,
    run,
    sample_count,
    tensors_of,
)
from gp_prune.pruning.probe import settle
from gp_prune.pruning.surgery import side_width

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


def trace(model: nn.Module, example_inputs: Any, *, interface: Sequence[str] = ()) -> Architecture:
    """Find which channels of a network can only be cut together, and what each layer costs.

    Everything happens on a private copy; the model, its flags and the random state stay as they
    are. Frozen parameters, training mode and surrounding ``no_grad`` or ``inference_mode`` blocks
    make no difference. The groups are tried out on the copy with random weights: a group whose cut
    network fails, or computes anything else than the masked one, is fixed with that reason.

    Args:
        model: a network that :func:`copy.deepcopy` can copy.
        example_inputs: a batch: a tensor (samples, ...), a list of arguments or a mapping.
        interface: names of layers whose output channels are kept, such as a latent code.

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
    with torch.inference_mode(False), torch.enable_grad():
        private = _private_copy(model)
        inputs = map_tensors(lambda tensor: tensor.detach().clone(), example_inputs)
        with evaluation(private):
            macs = count_macs(private, inputs)  # first, so that a model's own errors stay its own
            groups, positions = _groups(private, inputs, interface)
            architecture = _architecture(private, groups, positions, inputs, macs)
            reasons = settle(private, inputs, architecture)
    settled = [replace(g, fixed=g.fixed or reasons.get(g.name, "")) for g in groups]
    return _architecture(private, settled, positions, inputs, macs)


def _private_copy(model: nn.Module) -> nn.Module:
    private = copy.deepcopy(model)
    for parameter in private.parameters():
        # Torch-Pruning walks the autograd graph and loses everything behind frozen weights.
        parameter.requires_grad_(parameter.is_floating_point())
    return private


def _groups(
    model: nn.Module, inputs: Any, interface: Sequence[str]
) -> tuple[list[ChannelGroup], Counter[str]]:
    """The channel groups, and how often each weight of each layer is used."""
    watch = _Watch(model)
    try:
        graph = _dependency_graph(model, inputs, watch)
        return channel_groups(model, graph, watch.unflattened, interface), watch.positions
    except UserError:
        raise
    except _GRAPH_ERRORS as error:
        raise UserError(
            "Torch-Pruning cannot follow the channels of this network "
            f"({type(error).__name__}: {error}); it cannot be cut by channels"
        ) from error


class _Watch:
    """Runs the network once and notes what the dependency graph does not know."""

    def __init__(self, model: nn.Module) -> None:
        self.positions: Counter[str] = Counter()
        self.unflattened: dict[Any, str] = {}  # autograd node -> name of the nn.Unflatten
        self._names = {module: name for name, module in model.named_modules()}

    def __call__(self, model: nn.Module, inputs: Any) -> Any:
        handles = [
            module.register_forward_hook(self._note)
            for module in self._names
            if isinstance(module, (*Prunable, nn.Unflatten))
        ]
        try:
            return run(model, inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        name = self._names[module]
        if isinstance(module, nn.Unflatten):
            self.unflattened[output.grad_fn] = name
        elif is_transposed(module):
            self.positions[name] += inputs[0].numel() // side_width(module, "in")
        else:
            self.positions[name] += output.numel() // side_width(module, "out")


def _dependency_graph(model: nn.Module, inputs: Any, watch: _Watch) -> Any:
    def mark_outputs(output: Any) -> list[Tensor]:
        # A product with one gives every output an own node, so that outputs need no name.
        marked = [tensor * 1 for tensor in tensors_of(output) if tensor.requires_grad]
        if not marked:
            raise UserError(
                "the output of the model does not depend on its parameters through autograd; "
                "give a model whose forward pass is differentiable"
            )
        return marked

    return tp.DependencyGraph().build_dependency(
        model, inputs, forward_fn=watch, output_transform=mark_outputs, verbose=False
    )


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
            entries = sum(channel == 0 for channel in slot.channels)
            terms.setdefault((slot.module, slot.side), []).append((group.name, entries))
    sizes = {group.name: group.size for group in free}

    def side(name: str, module: nn.Module, kind: str) -> Side:
        found = tuple(terms.get((name, kind), ()))
        varying = sum(entries * sizes[group] for group, entries in found)
        return Side(side_width(module, kind) - varying, found)

    costs = []
    for name, module in model.named_modules():
        if isinstance(module, Prunable) and positions[name] and "weight" in module._parameters:
            costs.append(_weighted(name, module, positions[name], side))
        elif isinstance(module, PerChannel) and (name, "norm") in terms:
            numbers = sum(1 for _ in module.parameters())
            width = side(name, module, "norm")
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
    return LayerCost(name, DENSE, positions, taps, groups, bias, inputs, outputs)
