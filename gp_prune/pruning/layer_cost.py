"""Predict what layers cost from the widths of the channel groups around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DENSE = "dense"
DEPTHWISE = "depthwise"
NORM = "norm"
ATTENTION = "attention"


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
    """

    name: str
    kind: str
    positions: int
    taps: int
    groups: int
    bias: bool
    inputs: Side
    outputs: Side


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

    def evaluate(self, kept: NDArray[np.int64]) -> tuple[int, int]:
        """Return the MACs of the example batch and the parameters for widths ``kept`` (groups,)."""
        outputs = self._outputs @ kept + self._output_constant
        inputs = self._inputs @ kept + self._input_constant
        weights = inputs * outputs * self._taps // self._groups
        macs = int(np.where(self._attention, outputs, weights) @ self._positions)
        params = int(weights.sum() + outputs @ self._bias)
        return macs, params
