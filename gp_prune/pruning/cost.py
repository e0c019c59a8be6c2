"""Count what a network costs (MACs, parameters), or predict it from the widths of its layers.

One MAC is one multiplication with its addition in a convolution, a transposed convolution or a
matrix product: half of what :class:`torch.utils.flop_counter.FlopCounterMode` counts. Biases,
normalisations and activation functions have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gp_prune.errors import UserError
from gp_prune.pruning.flops import flop_counter
from gp_prune.pruning.modules import masked_parameters, sample_count
from gp_prune.statistics.running import Forward, call_model, evaluation_mode

if TYPE_CHECKING:
    from gp_prune.pruning.graph.architecture import Architecture

DENSE = "dense"
DEPTHWISE = "depthwise"
NORM = "norm"
ATTENTION = "attention"
LAYER_KINDS = (DENSE, DEPTHWISE, NORM, ATTENTION)
"""Kinds of layers, see :class:`LayerCost`."""


class Cost(NamedTuple):
    """Cost of a network.

    Attributes:
        macs: multiply-accumulates per sample.
        params: number of parameters, zeros included.
        nonzero: number of parameters that are not zero, masks applied.
    """

    macs: int
    params: int
    nonzero: int


@dataclass(frozen=True)
class Side:
    """The width of one side of a layer: ``constant + sum(entries * kept channels of the group)``.

    Attributes:
        constant: entries that no plan removes.
        terms: pairs of a group's name and the number of entries that each of its channels has on
            this side (1, or the number of positions where a map was flattened).
    """

    constant: int
    terms: tuple[tuple[str, int], ...] = ()

    def width(self, kept: Mapping[str, int]) -> int:
        """Return the number of entries when group ``g`` keeps ``kept[g]`` channels."""
        return self.constant + sum(entries * kept[group] for group, entries in self.terms)


@dataclass(frozen=True)
class LayerCost:
    """The numbers from which the MACs and the parameters of one module follow.

    Attributes:
        name: dotted name of the module.
        kind: ``"dense"`` (convolution, transposed convolution, linear), ``"depthwise"`` or
            ``"norm"`` (a module with a few numbers per channel and no MACs) or ``"attention"``
            (what the heads do between the linear layers).
        positions: how often each weight is used in a pass over the whole example batch; for
            ``"attention"`` the MACs of one head.
        taps: kernel taps; for ``"norm"`` the parameters per channel, for ``"attention"`` those
            per head.
        groups: groups of a grouped convolution whose groups become narrower, otherwise 1.
        bias: whether a dense or depthwise layer has a bias.
        inputs: width of the input side; what one output reads where whole groups of a grouped
            convolution go, 1 for ``"depthwise"`` and ``"norm"``.
        outputs: width of the output side.
        type: name of the module's class; empty where it is not known.
        owner: the layer whose weight it is, too, and with which it is counted; empty where the
            weight is its own.
    """

    name: str
    kind: str
    positions: int
    taps: int
    groups: int
    bias: bool
    inputs: Side
    outputs: Side
    type: str = ""
    owner: str = ""


class CostTable:
    """The costs of all layers as arrays, so that one prediction takes microseconds."""

    def __init__(
        self, layers: Sequence[LayerCost], groups: Sequence[str], sizes: Mapping[str, int]
    ) -> None:
        """Lay the costs out.

        Args:
            layers: the layers whose costs are added up.
            groups: names of the groups, in the order of the widths that :meth:`evaluate` takes.
            sizes: number of channels of each group, used where a group is not in ``groups``.
        """
        position = {name: index for index, name in enumerate(groups)}
        count = len(layers)
        self._inputs = np.zeros((count, len(groups)), dtype=np.int64)
        self._outputs = np.zeros((count, len(groups)), dtype=np.int64)
        self._input_constant = np.zeros(count, dtype=np.int64)
        self._output_constant = np.zeros(count, dtype=np.int64)
        for row, layer in enumerate(layers):
            for side, matrix, constant in (
                (layer.inputs, self._inputs, self._input_constant),
                (layer.outputs, self._outputs, self._output_constant),
            ):
                constant[row] = side.constant
                for group, entries in side.terms:
                    if group in position:
                        matrix[row, position[group]] += entries
                    else:
                        constant[row] += entries * sizes[group]
        self._taps = np.array([layer.taps for layer in layers], dtype=np.int64)
        self._groups = np.array([layer.groups for layer in layers], dtype=np.int64)
        self._positions = np.array([layer.positions for layer in layers], dtype=np.int64)
        self._attention = np.array([layer.kind == ATTENTION for layer in layers], dtype=bool)
        self._bias = np.array([layer.bias for layer in layers], dtype=np.int64)
        self._owned = np.array([not layer.owner for layer in layers], dtype=np.int64)

    def evaluate(self, kept: NDArray[np.int64]) -> tuple[int, int]:
        """Return the MACs of the example batch and the parameters for widths ``kept`` (groups,)."""
        outputs = self._outputs @ kept + self._output_constant
        inputs = self._inputs @ kept + self._input_constant
        weights = inputs * outputs * self._taps // self._groups
        macs = int(np.where(self._attention, outputs, weights) @ self._positions)
        params = int(weights @ self._owned + outputs @ self._bias)
        return macs, params


def predict(architecture: Architecture, kept: Mapping[str, int]) -> tuple[int, int]:
    """Predict MACs per sample and parameters of a pruned network, without running anything.

    Args:
        architecture: the traced network.
        kept: group name -> number of channels kept; groups left out are whole.

    Returns:
        ``(macs, params)``, exactly what :func:`measure` finds on the compact network.

    Raises:
        UserError: a group is unknown, or fixed and not whole, or a width is outside [1, size].
    """
    widths = {group.name: group.size for group in architecture.groups}
    for name, width in kept.items():
        if name not in widths:
            raise UserError(f"the network has no channel group {name!r}; it has {list(widths)}")
        group = architecture.by_name[name]
        if not 1 <= width <= group.size or (group.fixed and width != group.size):
            fixed = f" and is fixed ({group.fixed})" if group.fixed else ""
            raise UserError(
                f"group {name!r} cannot keep {width} channels; it has {group.size}{fixed}"
            )
        widths[name] = width
    free = [widths[group.name] for group in architecture.free]
    return architecture.costs(np.array(free, dtype=np.int64))


def measure(model: nn.Module, example_inputs: Any, *, forward_fn: Forward | None = None) -> Cost:
    """Measure the cost of a network on one forward pass in evaluation mode.

    Args:
        model: any network; its flags and the random state are as before afterwards.
        example_inputs: a batch: a tensor (samples, ...), a list of arguments or a mapping.
        forward_fn: runs the network, see :func:`~gp_prune.statistics.running.call_model`.

    Returns:
        MACs per sample, parameters and non-zero parameters.
    """
    samples = sample_count(example_inputs)
    with evaluation_mode(model):
        macs = count_macs(model, example_inputs, forward_fn)
    params = sum(parameter.numel() for parameter in model.parameters())
    return Cost(macs // samples, params, count_nonzero(model))


def count_macs(model: nn.Module, example_inputs: Any, forward_fn: Forward | None = None) -> int:
    """Count the MACs of one pass over the whole batch, in the mode in which the model is."""
    with torch.no_grad(), flop_counter(model) as counter:
        call_model(model, example_inputs, forward_fn)
    return counter.total // 2


def count_nonzero(model: nn.Module) -> int:
    """Count the parameters that are not zero, masks applied."""
    masks = {
        id(getattr(module, f"{name}_orig")): getattr(module, f"{name}_mask")
        for _, module, name in masked_parameters(model)
    }
    total = 0
    for parameter in model.parameters():
        values = parameter.detach()
        if id(parameter) in masks:
            values = values * masks[id(parameter)]
        total += int(torch.count_nonzero(values))
    return total
