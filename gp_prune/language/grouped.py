"""Evaluate formulas on grouped layers, where a weight exists only within a group.

A record holds the weights of a grouped layer as ``(o, i, k)`` with zeros between groups. Those
zeros are no weights: a mean over ``i`` must not count them, and the distance of two filters is that
of the filters themselves. So while a formula is evaluated, a value that is made from weights is
packed: ``(o, i / groups, ...)``, the inputs that each output channel reads. A value without ``o``
has all inputs, and so has a product of one by outputs and one by inputs. What is computed from
several values exists where all of them do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gp_prune.language.axes import Axes, Elementwise, Signature

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gp_prune.language.primitive import Operator
    from gp_prune.language.record import LayerRecord


class Groups(NamedTuple):
    """How the inputs of a grouped layer are divided among its output channels.

    Attributes:
        number: how many groups, more than one.
        outputs: output channels of all groups together.
        inputs: input channels of all groups together.
    """

    number: int
    outputs: int
    inputs: int

    def pack(self, value: Tensor, axes: Axes) -> Tensor:
        """Return the entries within groups, ``(o, i / groups, ...)``, of a value with o and i."""
        if not _is_by_both(axes) or self._is_packed(value, axes):
            return value
        blocks = value.reshape(self.outputs, self.number, -1, *value.shape[2:])
        return blocks[self._entries(value.device)]

    def unpack(self, value: Tensor, axes: Axes) -> Tensor:
        """Return a packed value as ``(o, i, ...)``, with zeros between groups."""
        if not self._is_packed(value, axes):
            return value
        full = value.new_zeros(self.outputs, self.number, *value.shape[1:])
        full[self._entries(value.device)] = value
        return full.flatten(1, 2)

    def apply(
        self, operator: Operator, values: Sequence[Tensor], types: Sequence[Axes], over: Axes
    ) -> Tensor:
        """Apply an operator where values may be packed; see ``Operator.apply``."""
        if not any(map(self._is_packed, values, types)):
            return operator.apply(values, types, over)
        if isinstance(operator.shape, Elementwise):
            pairs = [self._spread(*pair) for pair in zip(values, types, strict=True)]
            return operator.apply([value for value, _ in pairs], [axes for _, axes in pairs], over)
        if isinstance(operator.shape, Signature):
            return self._apply_signature(operator, operator.shape, values, types)
        if "o" not in over or "i" in over:
            return operator.apply(values, types, over)
        # Each input is read by the outputs of its group: (groups, o / groups, i / groups, ...).
        by_group = values[0].reshape(self.number, -1, *values[0].shape[1:])
        dims = tuple(types[0].index(letter) + 1 for letter in over)
        return operator.compute(by_group, dims).flatten(0, 1)

    def _apply_signature(
        self, operator: Operator, shape: Signature, values: Sequence[Tensor], types: Sequence[Axes]
    ) -> Tensor:
        """Apply a function of fixed types to the filters themselves, or to zeros between groups.

        The latter where it also reads values by input, whose numbers a packed filter lacks.
        """
        if all(_is_by_both(axes) for axes in types if "i" in axes):
            result = operator.apply(values, types, Axes())
            if "i" in shape.to and "o" not in shape.to:  # the same at the inputs of each group
                return result.repeat(self.number, *[1] * (result.dim() - 1))
            return result
        full = [self.unpack(*pair) for pair in zip(values, types, strict=True)]
        return self.pack(operator.apply(full, types, Axes()), shape.to)

    def _spread(self, value: Tensor, axes: Axes) -> tuple[Tensor, Axes]:
        """Return an argument of an elementwise operator as what each output channel reads."""
        if "i" not in axes:
            return value, axes
        if "o" in axes:
            return self.pack(value, axes), axes
        by_group = value.reshape(self.number, -1, *value.shape[1:])
        return by_group[self._entries(value.device)[1]], axes | Axes("o")

    def _is_packed(self, value: Tensor, axes: Axes) -> bool:
        return _is_by_both(axes) and value.shape[1] != self.inputs

    def _entries(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return every output channel and its group."""
        import torch

        channels = torch.arange(self.outputs, device=device)
        return channels, channels // (self.outputs // self.number)


def groups_of(layer: LayerRecord) -> Groups | None:
    """Return the groups of a layer; None where there is only one."""
    if layer.groups == 1:
        return None
    outputs, inputs = layer.weight.shape[:2]
    return Groups(layer.groups, outputs, inputs)


def _is_by_both(axes: Axes) -> bool:
    """Return whether a value has both output and input channels, which are its first axes."""
    return "o" in axes and "i" in axes
