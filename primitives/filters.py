"""Operators on the scatter of samples: how far a vector lies out, measured by their spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sympy

from gp_prune.language import symbols
from gp_prune.language.primitive import Signature, operator

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.language.symbols import Call


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


def _ridge_form(call: Call) -> symbols.RidgeForm:
    n, s = call.fresh("n"), call.fresh("s")
    return symbols.RidgeForm(call.argument(0, n=n, s=s), call.argument(1, s=s), n, s)


@operator(
    "ridge_form",
    shape=Signature("ons", "ocs", to="oc"),
    meaning="d^T (S + 1e-4 I)^-1 d over the positions, S the scatter of the maps x over samples",
    symbol=_ridge_form,
    cost=50,
)
def ridge_form(x: Tensor, d: Tensor) -> Tensor:
    import torch

    finite = x.isfinite().all(2).all(1) & d.isfinite().all(2).all(1)
    kept = finite[:, None, None]
    x, d = x.where(kept, 0.0), d.where(kept, 0.0)
    # Not by solving with S + ridge: squares of large maps would drown the ridge.
    _, singular, axes = torch.linalg.svd(x - x.mean(1, keepdim=True), full_matrices=False)
    along = d @ axes.mT  # (o, c, r): d in the coordinates of the spread
    form: Tensor = (along.square() / (singular.square() + symbols.RIDGE).unsqueeze(1)).sum(2)
    if axes.shape[1] < axes.shape[2]:  # what no sample spreads along
        form = form + (d - along @ axes).square().sum(2) / symbols.RIDGE
    return form.where(finite[:, None], torch.nan)
