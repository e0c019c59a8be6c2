"""Operators on whole filters: distances, nuclear norms, and how far out a vector lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy

from gp_prune.language.axes import Signature
from gp_prune.language.primitive import operator
from gp_prune.language.symbols import BoundArguments, OverAxes, difference, total

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.language.symbols import Call

RIDGE = 1e-4
"""What is added to the diagonal of a scatter matrix before it is inverted."""


def _distances(x: Tensor) -> Tensor:
    import torch

    # Not torch.cdist: its matrix-product form loses half of the digits for near points, and its
    # other one takes four times as long.
    rows = x.reshape(x.shape[0], -1)
    distances = rows.new_zeros(len(rows), len(rows))
    one, other = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
    distances[one, other] = distances[other, one] = torch.pdist(rows)
    return distances


def _distance(call: Call) -> sympy.Expr:
    i, k = call.fresh("i"), call.fresh("k")
    here = call.argument(0, i=i, k=k)
    there = call.argument(0, o=call.free("p"), i=i, k=k)
    return sympy.sqrt(total(difference(here, there) ** 2, i, k))


@operator(
    "pairwise_distance",
    shape=Signature("oik", to="op"),
    meaning="l2 distance between every two filters",
    symbol=_distance,
    cost=50,
    phrase="the l2 distance between the filters of the channel and of channel p in {a}",
    note="A filter is all entries of a channel, over input channels and taps.",
    unit="same",
)
def pairwise_distance(x: Tensor) -> Tensor:
    return _distances(x)


class MedoidOver(OverAxes):
    """The slice, along the bound index, whose summed l2 distance to all slices is least."""

    latex = r"\operatorname{medoid}"
    definition = (
        r"\operatorname{medoid}_{o'} x_{o',i,k}\colon \text{entry } i,k \text{ of the slice } "
        r"x_{o',\cdot,\cdot} \text{ with the least summed } \ell_2 \text{ distance to all slices}"
    )
    keeps_sign = True

    @classmethod
    def write(cls, call: Call) -> Any:
        """Return the formula of the operator."""
        o = call.fresh("o")
        return cls(call.argument(0, o=o), o)

    @staticmethod
    def numpy(x: Any, dims: tuple[int, ...]) -> Any:
        import numpy as np

        slices = x.reshape(x.shape[0], -1)
        distances = np.sqrt(((slices[:, None, :] - slices[None, :, :]) ** 2).sum(axis=2))
        return x[int(np.argmin(distances.sum(axis=1)))]


@operator(
    "medoid",
    shape=Signature("oik", to="ik"),
    meaning="the filter whose summed l2 distance to all filters is least",
    symbol=MedoidOver,
    cost=50,
    phrase="the medoid over channels of {a}",
    note="The medoid is the filter (all entries of a channel, over input channels and taps) whose "
    "summed l2 distance to all filters is least.",
    unit="same",
)
def medoid(x: Tensor) -> Tensor:
    return x[_distances(x).sum(1).argmin()]


class NuclearNorm(BoundArguments):
    """The sum of the singular values of a matrix over the bound indices."""

    is_nonnegative = True
    binds = ("ik",)
    definition = (
        r"\left\lVert X \right\rVert_{*}\colon \text{sum of the singular values of the matrix } "
        r"\text{of input channels by taps}"
    )

    def _latex(self, printer: Any) -> str:
        """Print an operand with dots for its indices, any other matrix by its entries."""
        x, i, k = self.args
        if isinstance(x, sympy.Indexed):
            matrix = printer.print_dotted(x, i, k)
        else:
            entries, rows, columns = (printer.doprint(part) for part in self.args)
            matrix = rf"\left({entries}\right)_{{{rows},{columns}}}"
        return rf"\left\lVert {matrix} \right\rVert_{{*}}"

    @staticmethod
    def numpy(x: Any) -> Any:
        import numpy as np

        return np.linalg.svd(x, compute_uv=False).sum(axis=-1)


@operator(
    "nuclear_norm",
    shape=Signature("oik", to="o"),
    meaning="nuclear norm, the sum of the singular values, of each filter as a matrix of its "
    "input channels by its taps",
    symbol=NuclearNorm,
    cost=50,
    by_channel=True,
    phrase="the nuclear norm of the matrix of input channels by taps of {a}",
    note="A nuclear norm is the sum of the singular values.",
    unit="same",
)
def nuclear_norm(x: Tensor) -> Tensor:
    import torch

    finite = x.isfinite().flatten(1).all(1)
    x = x.where(finite[:, None, None], 0.0)
    vectors = 1 in x.shape[1:]  # the one singular value of a vector is its length
    norms = x.square().sum((1, 2)).sqrt() if vectors else torch.linalg.svdvals(x).sum(1)
    return norms.where(finite, torch.nan)


class RidgeForm(BoundArguments):
    """d^T (S + RIDGE I)^-1 d, where S is the scatter of samples x about their mean.

    ``RidgeForm(x, d, n, s)``: x is a vector over the bound index s for every sample n, and d is a
    vector over s.
    """

    is_nonnegative = True
    binds = ("ns", "s")
    definition = (
        r"\left\lVert d \right\rVert^{2}_{M^{-1}} = d^{\top} M^{-1} d, \quad "
        r"\operatorname{scatter}_{n}\left(x_{n,\cdot}\right) = \sum_{n} "
        r"(x_{n,\cdot} - \bar{x}) (x_{n,\cdot} - \bar{x})^{\top}, \quad "
        r"\bar{x} = \frac{1}{N_{n}} \sum_{n} x_{n,\cdot}"
    )

    def _latex(self, printer: Any) -> str:
        """Print it as a squared norm, the bound position as a dot."""
        samples, vector, n, s = self.args
        d, x = (printer.print_dotted(part, s) for part in (vector, samples))
        scatter = rf"\operatorname{{scatter}}_{{{printer.doprint(n)}}}\left({x}\right)"
        ridge = printer.doprint(sympy.Float(RIDGE))
        return rf"\left\lVert {d} \right\rVert^{{2}}_{{\left({scatter} + {ridge} I\right)^{{-1}}}}"

    @staticmethod
    def numpy(samples: Any, vector: Any) -> Any:
        """Compute the form of every leading entry; samples (..., n, s), vector (..., s).

        With [X; sqrt(RIDGE) I] = Q R it is the squared length of R^-T d.
        """
        import numpy as np

        centred = samples - samples.mean(axis=-2, keepdims=True)
        below = np.sqrt(RIDGE) * np.eye(centred.shape[-1])
        forms = np.full(vector.shape[:-1], np.nan)
        for entry in np.ndindex(forms.shape):
            if np.isfinite(centred[entry]).all() and np.isfinite(vector[entry]).all():
                _, upper = np.linalg.qr(np.vstack([centred[entry], below]))
                forms[entry] = (np.linalg.solve(upper.T, vector[entry]) ** 2).sum()
        return forms


_LARGEST_SCATTER = 1e10 * RIDGE
"""Trace of a scatter up to which solving loses no more than a few digits of double precision."""


def _form_by_solving(x: Tensor, d: Tensor) -> Tensor:
    """Solve with the smaller of S + RIDGE I and the Gram matrix of the samples."""
    import torch

    samples, positions = x.shape[1:]
    if positions <= samples:
        scatter = x.mT @ x
        scatter.diagonal(dim1=1, dim2=2).add_(RIDGE)
        factor = torch.linalg.cholesky(scatter)
        solved: Tensor = torch.linalg.solve_triangular(factor, d.mT, upper=False)
        return solved.square().sum(1)
    gram = x @ x.mT
    gram.diagonal(dim1=1, dim2=2).add_(RIDGE)
    # With y = (X X^T + RIDGE I)^-1 X d and v = d - X^T y it is a sum of squares, y^2 + v^2 / RIDGE.
    y = torch.cholesky_solve(x @ d.mT, torch.linalg.cholesky(gram))  # (o, n, c)
    return y.square().sum(1) + (d - y.mT @ x).square().sum(2) / RIDGE


def _form_by_svd(x: Tensor, d: Tensor) -> Tensor:
    """Divide along the singular vectors, where squares of large maps would drown the ridge."""
    import torch

    _, singular, axes = torch.linalg.svd(x, full_matrices=False)
    along = d @ axes.mT  # (o, c, r): d in the coordinates of the spread
    form: Tensor = (along.square() / (singular.square() + RIDGE).unsqueeze(1)).sum(2)
    if axes.shape[1] < axes.shape[2]:  # what no sample spreads along
        form = form + (d - along @ axes).square().sum(2) / RIDGE
    return form


@operator(
    "ridge_form",
    shape=Signature("ons", "ocs", to="oc"),
    meaning="d^T (S + 1e-4 I)^-1 d over the positions, S the scatter of the maps x over samples",
    symbol=RidgeForm,
    cost=50,
    growth=0.5,
    by_channel=True,
    phrase="the ridge form of {a} at {b}",
    note="The ridge form of maps x at d is d^T (S + 1e-4 I)^-1 d over positions, where S is the "
    "sum over samples of (x - m)(x - m)^T and m is the mean of x over samples.",
    unit="plain",
)
def ridge_form(x: Tensor, d: Tensor) -> Tensor:
    import torch

    finite = x.isfinite().all(2).all(1) & d.isfinite().all(2).all(1)
    kept = finite[:, None, None]
    x, d = x.where(kept, 0.0), d.where(kept, 0.0)
    x = x - x.mean(1, keepdim=True)
    largest = x.square().sum((1, 2)).amax()
    form = _form_by_solving(x, d) if largest <= _LARGEST_SCATTER else _form_by_svd(x, d)
    return form.where(finite[:, None], torch.nan)
