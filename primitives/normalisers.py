"""Normalisers: each relates every entry to the others along the axes named in its brackets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sympy

from gp_prune.language import symbols
from gp_prune.language.primitive import Normaliser, operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from gp_prune.language.symbols import Call


ALONG = Normaliser()


def _written(
    name: type[symbols.Along], out: Callable[[Call], sympy.Expr]
) -> Callable[[Call], sympy.Expr]:
    """A normaliser written out by ``out`` where its argument is short, else by its name."""

    def write(call: Call) -> sympy.Expr:
        x = call.argument(0)
        return name(x, *call.along) if symbols.is_long(x) else out(call)

    return write


def _protected(a: Tensor, b: Tensor) -> Tensor:
    allowed = b.abs() > symbols.EPSILON
    return (a / b.where(allowed, 1.0)).where(allowed, 0.0)


@operator(
    "by_sum",
    shape=ALONG,
    meaning="x / sum of |x|",
    symbol=_written(
        symbols.SumShare,
        lambda call: symbols.Div(
            call.argument(0), symbols.total(symbols.magnitude(call.body), *call.bound)
        ),
    ),
    cost=2,
)
def by_sum(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return _protected(x, x.abs().sum(dims, keepdim=True))


@operator(
    "by_max",
    shape=ALONG,
    meaning="x / largest |x|",
    symbol=_written(
        symbols.MaxShare,
        lambda call: symbols.Div(
            call.argument(0), symbols.MaxOver(symbols.magnitude(call.body), *call.bound)
        ),
    ),
    cost=2,
)
def by_max(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return _protected(x, x.abs().amax(dims, keepdim=True))


@operator(
    "min_max",
    shape=ALONG,
    meaning="(x - min x) / (max x - min x)",
    symbol=_written(
        symbols.MinMax,
        lambda call: symbols.Div(
            symbols.difference(call.argument(0), symbols.MinOver(call.body, *call.bound)),
            symbols.MaxOver(call.body, *call.bound) - symbols.MinOver(call.body, *call.bound),
        ),
    ),
    cost=3,
)
def min_max(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    low = x.amin(dims, keepdim=True)
    return _protected(x - low, x.amax(dims, keepdim=True) - low)


@operator(
    "z_score",
    shape=ALONG,
    meaning="(x - mean x) / standard deviation of x",
    symbol=_written(
        symbols.ZScore,
        lambda call: symbols.Div(
            symbols.difference(call.argument(0), symbols.mean(call.body, *call.bound)),
            symbols.StdOver(call.body, *call.bound),
        ),
    ),
    cost=3,
)
def z_score(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    mean = x.mean(dims, keepdim=True)
    return _protected(x - mean, x.std(dims, correction=0, keepdim=True))


@operator(
    "tail_sum",
    shape=ALONG,
    meaning="sum of all entries that are at least x",
    symbol=_written(
        symbols.TailSum,
        lambda call: symbols.total(
            symbols.AtLeast(call.body, call.argument(0)) * call.body, *call.bound
        ),
    ),
    cost=20,
)
def tail_sum(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    import torch

    kept = [dim for dim in range(x.dim()) if dim not in dims]
    order = [*kept, *dims]
    moved = x.permute(order)
    shape = moved.shape
    rows = moved.reshape(*shape[: len(kept)], -1).contiguous()
    ascending, positions = rows.sort(dim=-1)
    ascending = ascending.contiguous()
    tails = ascending.flip(-1).cumsum(-1).flip(-1)
    # Entries that are equal share the tail of the first of them: each is "at least" the others.
    first = torch.searchsorted(ascending, ascending, side="left")
    result = rows.new_empty(rows.shape).scatter_(-1, positions, tails.gather(-1, first))
    inverse = [order.index(dim) for dim in range(x.dim())]
    return result.reshape(shape).permute(inverse)
