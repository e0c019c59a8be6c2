"""Operators on the filters of a layer as points in space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sympy

from gp_prune import symbols
from gp_prune.primitive import Signature, operator

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.binding import Call


def _distance(call: Call) -> sympy.Expr:
    i, k = call.fresh("i"), call.fresh("k")
    here = call.argument(0, i=i, k=k)
    there = call.argument(0, o=call.free("p"), i=i, k=k)
    return sympy.sqrt(symbols.total(symbols.difference(here, there) ** 2, i, k))


def _medoid(call: Call) -> sympy.Expr:
    o = call.fresh("o")
    return symbols.MedoidOver(call.argument(0, o=o), o)


def _distances(x: Tensor) -> Tensor:
    import torch

    # Not torch.cdist: its matrix-product form loses half of the digits for near points.
    rows = x.reshape(x.shape[0], -1)
    if rows.numel() * rows.shape[0] <= 2**24:
        return (rows[:, None] - rows[None]).square().sum(-1).sqrt()
    return torch.stack([(rows - row).square().sum(-1).sqrt() for row in rows])


@operator(
    "pairwise_distance",
    shape=Signature("oik", to="op"),
    meaning="l2 distance between every two filters",
    symbol=_distance,
    cost=50,
)
def pairwise_distance(x: Tensor) -> Tensor:
    return _distances(x)


@operator(
    "medoid",
    shape=Signature("oik", to="ik"),
    meaning="the filter whose summed l2 distance to all filters is least",
    symbol=_medoid,
    cost=50,
)
def medoid(x: Tensor) -> Tensor:
    return x[_distances(x).sum(1).argmin()]
