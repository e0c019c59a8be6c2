"""Operators on the scatter of samples: how far a vector lies out, measured by their spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gp_prune import symbols
from gp_prune.primitive import Signature, operator

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.binding import Call


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
