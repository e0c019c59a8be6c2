"""Change or watch what a network calls while it runs, as far as autograd does not tell it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gp_prune.pruning.padding import read_padding

_VIEWS = (torch.Tensor.view, torch.Tensor.reshape, torch.reshape)
_JOINS = (torch.cat, torch.concat, torch.concatenate)
_SWAPS = (
    torch.transpose, torch.permute, torch.swapaxes, torch.swapdims, torch.Tensor.transpose,
    torch.Tensor.permute, torch.Tensor.swapaxes, torch.Tensor.swapdims,
)  # fmt: skip


@contextmanager
def gradients_everywhere() -> Iterator[None]:
    """Let autograd work inside, whatever the network says."""
    mode: Any = torch.inference_mode
    methods = mode.__enter__, mode.__exit__
    mode.__enter__, mode.__exit__ = lambda _: None, lambda *_: None
    try:
        with _IgnoredGradMode():
            yield
    finally:
        mode.__enter__, mode.__exit__ = methods


class _IgnoredGradMode(TorchFunctionMode):
    """Ignores ``torch.no_grad()`` and its kind."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        return func(*args, **(kwargs or {}))


class Joined(NamedTuple):
    """What a concatenation puts where.

    Attributes:
        dim: the dimension.
        dims: number of dimensions.
        total: size of the result along the dimension.
        parts: (first entry, entry after the last) of every part with a gradient, in order.
    """

    dim: int
    dims: int
    total: int
    parts: tuple[tuple[int, int], ...]


class Joins(TorchFunctionMode):
    """Notes what is concatenated: autograd knows no sizes, nor parts without gradients."""

    def __init__(self, joined: dict[Any, Joined]) -> None:
        """Note into ``joined``: autograd node of a concatenation -> where its parts lie."""
        super().__init__()
        self._joined = joined

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _JOINS and result.requires_grad:
            named = kwargs or {}
            tensors = list(args[0] if args else named["tensors"])
            dim = args[1] if len(args) > 1 else named.get("dim", named.get("axis", 0))
            if isinstance(dim, int) and all(tensor.ndim == result.ndim for tensor in tensors):
                self._joined[result.grad_fn] = _locate(tensors, dim % result.ndim, result)
        return result


def _locate(tensors: Sequence[Tensor], dim: int, result: Tensor) -> Joined:
    ends = list(accumulate(tensor.shape[dim] for tensor in tensors))
    parts = zip([0, *ends], ends, tensors, strict=False)
    found = tuple((start, end) for start, end, tensor in parts if tensor.requires_grad)
    return Joined(dim, result.ndim, result.shape[dim], found)


class Padded(NamedTuple):
    """Where a padding puts the channels of a map.

    Attributes:
        module: name of the innermost module that was running.
        number: how many paddings that module and all that it calls had come to before.
        front: channels of zeros before those of the map.
        channels: channels of the map.
        total: channels of the result.
    """

    module: str
    number: int
    front: int
    channels: int
    total: int


class Pads(TorchFunctionMode):
    """Notes what is padded with channels of zeros, and in which module.

    Attributes:
        padded: autograd node of a padding -> where it puts the channels. One that runs several
            times is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.padded: dict[Any, Padded] = {}
        self._running: list[tuple[str, list[int]]] = []  # name of a module, number of paddings
        self._met: dict[tuple[str, int], Any] = {}

    def enter(self, module: str) -> None:
        """Note that a module begins to run."""
        self._running.append((module, [0]))

    def leave(self) -> None:
        """Note that the module that began last has run."""
        self._running.pop()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        padding = read_padding(func, args, named)
        if padding is None or not self._running:
            return result
        module, [number] = self._running[-1]
        for _, count in self._running:
            count[0] += 1
        front, back = padding.channels
        if result.requires_grad and min(front, back) >= 0 < front + back:
            self.padded.pop(self._met.get((module, number)), None)
            if (module, number) not in self._met:
                self._met[module, number] = result.grad_fn
                self.padded[result.grad_fn] = Padded(
                    module, number, front, padding.padded.shape[1], result.shape[1]
                )
        return result


class Shuffles(TorchFunctionMode):
    """Cuts the autograd graph where maps (n, g * m, ...) become (n, m, g, ...).

    Attributes:
        mixed: the maps before the cuts.
    """

    def __init__(self, least_dims: int) -> None:
        """Look at maps of at least ``least_dims`` dimensions."""
        super().__init__()
        self.mixed: list[Tensor] = []
        self._least_dims = least_dims
        self._views: dict[int, tuple[Tensor, Tensor]] = {}  # id of a view -> view, what is viewed

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not args:
            return result
        if func in _VIEWS:
            if args[0].ndim >= self._least_dims and _splits_channels(args[0], result):
                self._views[id(result)] = (result, args[0])
        elif func in _SWAPS and id(args[0]) in self._views:
            view, before = self._views[id(args[0])]
            if result.shape[1:3] == (view.shape[2], view.shape[1]) and before.requires_grad:
                self.mixed.append(before)
                return result.detach()
        return result


def _splits_channels(before: Tensor, after: Tensor) -> bool:
    old, new = tuple(before.shape), tuple(after.shape)
    return (
        len(new) == len(old) + 1
        and new[0] == old[0]
        and new[1] * new[2] == old[1]
        and min(new[1:3]) > 1
        and new[3:] == old[2:]
    )


@contextmanager
def training_branches(model: nn.Module) -> Iterator[None]:
    """Run what is for training mode only, such as auxiliary heads, without its randomness.

    Modules with children are in training mode inside, all others (dropout, normalisations) in
    evaluation mode. The model must be in evaluation mode, and is so again afterwards.
    """
    containers = [module for module in model.modules() if next(module.children(), None)]
    try:
        for module in containers:
            module.training = True
        with _NoDropout():
            yield
    finally:
        for module in containers:
            module.training = False


class _NoDropout(TorchFunctionMode):
    """Evaluation mode for functions that drop values at random."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if kwargs.get("training") and ("dropout" in name or "attention" in name):
            kwargs["training"] = False
        return func(*args, **kwargs)
