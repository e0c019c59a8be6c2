"""Channels of zeros that the code of a network puts around a map, as the shortcuts of ResNets do.

The shortcut without parameters of He et al. (2016, option A) is
``F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, front, back))``. The numbers stand in code, so they cannot
be changed as the widths of layers are. The cut network runs the same code in a mode that takes
channels off what a certain call asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gp_prune.errors import UserError
from gp_prune.pruning.modules import find_module

FRONT, BACK = "front", "back"
_PLACES = {FRONT: 0, BACK: 1}


class Padding(NamedTuple):
    """A call of ``torch.nn.functional.pad`` that adds zeros, and may add channels of them.

    Attributes:
        padded: the map before.
        numbers: the argument ``pad``: two numbers for each dimension, the last dimension first.
        position: where ``numbers`` has the two numbers of dimension 1.
    """

    padded: Tensor
    numbers: tuple[int, ...]
    position: int

    @property
    def channels(self) -> tuple[int, int]:
        """Return the number of channels of zeros before and after those of the map."""
        front, back = self.numbers[self.position : self.position + 2]
        return front, back


def read_padding(
    function: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> Padding | None:
    """Return what a call of a torch function pads; None unless it says something of channels."""
    if function is not functional.pad:
        return None
    names = dict(zip(("input", "pad", "mode", "value"), arguments, strict=False)) | dict(named)
    padded, numbers = names["input"], tuple(names["pad"])
    zeros = names.get("mode", "constant") == "constant" and not names.get("value")
    position = 2 * (padded.ndim - 2)
    if not zeros or position < 0 or len(numbers) < position + 2:
        return None
    return Padding(padded, numbers, position)


class ShortPadding:
    """A module of whose paddings some have fewer channels of zeros: a base of its new class.

    The forward function belongs to the class, so copies and replicas run it on their own weights.

    Attributes:
        fewer_zeros: number of a padding, in the order in which the module and all that it calls
            come to them -> how many channels of zeros fewer there are in front and at the back.
    """

    fewer_zeros: dict[int, list[int]]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Return how the module is copied or stored: its class is made when it is needed."""
        base = type(self).__mro__[2]
        return _new_module, (base,), self.__getstate__()


def _new_module(base: Any) -> nn.Module:
    kind = _shortened(base)
    module: nn.Module = kind.__new__(kind)
    return module


@cache
def _shortened(base: Any) -> Any:
    """Return a class whose modules have fewer zeros than those of ``base``, under its name."""

    # Dynamo would not see the mode, and compile the paddings as they were.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @wraps(base.forward)
    def forward(self: Any, *arguments: Any, **named: Any) -> Any:
        with _FewerZeros(self.fewer_zeros):
            if self.replaced_forward is not None:
                return self.replaced_forward(*arguments, **named)
            return base.forward(self, *arguments, **named)

    members = {"forward": forward, "__module__": base.__module__, "__doc__": base.__doc__}
    return type(base.__name__, (ShortPadding, base), members)


class _FewerZeros(TorchFunctionMode):
    def __init__(self, fewer: Mapping[int, list[int]]) -> None:
        super().__init__()
        self._fewer = fewer
        self._count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        padding = read_padding(func, args, named)
        if padding is None:
            return func(*args, **named)
        fewer = self._fewer.get(self._count, (0, 0))
        self._count += 1
        start = padding.position
        front, back = (number - gone for number, gone in zip(padding.channels, fewer, strict=True))
        numbers = [*padding.numbers[:start], front, back, *padding.numbers[start + 2 :]]
        return func(padding.padded, numbers)


def part_name(module: str, number: int, place: str) -> str:
    """Return how a slot calls the zeros in one place of a padding of a module."""
    return f"{module}.{number}.{place}".removeprefix(".")


def shorten_padding(model: nn.Module, name: str, count: int) -> None:
    """Take channels of zeros off a padding of a module of ``model``, in place.

    Args:
        model: the network.
        name: what :func:`part_name` returned.
        count: number of channels.

    Raises:
        UserError: the model has no such module.
    """
    module, number, place = find_padding(model, name)
    if not isinstance(module, ShortPadding):
        kind: Any = type(module)
        module.__class__ = _shortened(kind)
        module.fewer_zeros = {}  # type: ignore[assignment]
        # A function in the place of that of the class is run as it is.
        module.replaced_forward = vars(module).pop("forward", None)
    fewer: dict[int, list[int]] = module.fewer_zeros  # type: ignore[assignment]
    fewer.setdefault(number, [0, 0])[_PLACES[place]] += count


def find_padding(model: nn.Module, name: str) -> tuple[nn.Module, int, str]:
    """Return the module, the number and the place that :func:`part_name` put together.

    Raises:
        UserError: the model has no such module, or it is no such name.
    """
    path, _, place = name.rpartition(".")
    path, _, number = path.rpartition(".")
    if place not in _PLACES or not (number.isascii() and number.isdecimal()):
        raise UserError(
            f"{name!r} is no padding of a module; give the network that the plan was made for"
        )
    return find_module(model, path), int(number), place
