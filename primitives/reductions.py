"""Reductions: each removes the axes named in its brackets, as in ``sum[i,k](abs(W))``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import sympy

from gp_prune.language import symbols
from gp_prune.language.axes import Reduction
from gp_prune.language.primitive import Merge, State, operator
from gp_prune.language.symbols import OverAxes

if TYPE_CHECKING:
    from torch import Tensor


OVER = Reduction()
Dims = tuple[int, ...]


def _added(left: State, right: State) -> State:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _only(state: State) -> Tensor:
    (value,) = state
    return value


def _entries(x: Tensor, dims: Dims) -> Tensor:
    """Return how many entries are reduced to one."""
    return x.new_tensor(math.prod(x.shape[dim] for dim in dims))


@operator(
    "sum",
    shape=OVER,
    meaning="sum",
    phrase="the sum over {axes} of {a}",
    unit="same",
    symbol=lambda call: symbols.total(call.body, *call.bound),
    merge=Merge(lambda x, dims: (x.sum(dims),), _added, _only),
    growth=1,
)
def total(x: Tensor, dims: Dims) -> Tensor:
    return x.sum(dims)


@operator(
    "mean",
    shape=OVER,
    meaning="mean",
    phrase="the mean over {axes} of {a}",
    unit="same",
    symbol=lambda call: symbols.mean(call.body, *call.bound),
    merge=Merge(
        lambda x, dims: (_entries(x, dims), x.sum(dims)), _added, lambda state: state[1] / state[0]
    ),
)
def mean(x: Tensor, dims: Dims) -> Tensor:
    return x.mean(dims)


class MaxOver(OverAxes):
    """Largest value over the bound indices."""

    latex = r"\max"
    definition = ""
    keeps_sign = True
    role = "largest"

    @staticmethod
    def numpy(x: Any, dims: Dims) -> Any:
        return x.max(axis=dims)


@operator(
    "max",
    shape=OVER,
    meaning="largest value",
    phrase="the largest over {axes} of {a}",
    unit="same",
    symbol=MaxOver,
    merge=Merge(lambda x, dims: (x.amax(dims),), lambda a, b: (_only(a).maximum(_only(b)),), _only),
)
def largest(x: Tensor, dims: Dims) -> Tensor:
    return x.amax(dims)


class MinOver(OverAxes):
    """Smallest value over the bound indices."""

    latex = r"\min"
    definition = ""
    keeps_sign = True
    role = "smallest"

    @staticmethod
    def numpy(x: Any, dims: Dims) -> Any:
        return x.min(axis=dims)


@operator(
    "min",
    shape=OVER,
    meaning="smallest value",
    phrase="the smallest over {axes} of {a}",
    unit="same",
    symbol=MinOver,
    merge=Merge(lambda x, dims: (x.amin(dims),), lambda a, b: (_only(a).minimum(_only(b)),), _only),
)
def smallest(x: Tensor, dims: Dims) -> Tensor:
    return x.amin(dims)


class VarOver(OverAxes):
    """Population variance over the bound indices."""

    is_nonnegative = True
    latex = r"\operatorname{var}"
    definition = r"\operatorname{var}\colon \text{population variance over the indices}"
    role = "variance"

    @staticmethod
    def numpy(x: Any, dims: Dims) -> Any:
        return x.var(axis=dims)


def _spread(x: Tensor, dims: Dims) -> State:
    """Return number, mean and summed squared deviation of the entries."""
    count, middle = _entries(x, dims), x.mean(dims, keepdim=True)
    squares = (x - middle).square_().sum(dims)
    return count, middle.reshape(squares.shape), squares


def _joined_spread(left: State, right: State) -> State:
    """Join as Chan, Golub and LeVeque (1983) do, without subtracting large numbers."""
    (count, middle, squares), (more, other, rest) = left, right
    share = more / (count + more)
    gap = other - middle
    return count + more, middle + gap * share, squares + rest + gap.square() * count * share


def _variance(state: State) -> Tensor:
    count, _, squares = state
    return squares / count


@operator(
    "var",
    shape=OVER,
    meaning="population variance",
    phrase="the variance over {axes} of {a}",
    note="Variances and standard deviations divide by the number of entries.",
    unit="square",
    symbol=VarOver,
    merge=Merge(_spread, _joined_spread, _variance),
)
def var(x: Tensor, dims: Dims) -> Tensor:
    return x.var(dims, correction=0)


class StdOver(OverAxes):
    """Population standard deviation over the bound indices."""

    is_nonnegative = True
    latex = r"\operatorname{std}"
    definition = r"\operatorname{std}\colon \text{population standard deviation over the indices}"
    role = "deviation"

    @staticmethod
    def numpy(x: Any, dims: Dims) -> Any:
        return x.std(axis=dims)


@operator(
    "std",
    shape=OVER,
    meaning="population standard deviation",
    phrase="the standard deviation over {axes} of {a}",
    note="Variances and standard deviations divide by the number of entries.",
    unit="same",
    symbol=StdOver,
    merge=Merge(_spread, _joined_spread, lambda state: _variance(state).sqrt()),
)
def std(x: Tensor, dims: Dims) -> Tensor:
    return x.std(dims, correction=0)


@operator(
    "l1",
    shape=OVER,
    meaning="sum of magnitudes",
    phrase="the sum of magnitudes over {axes} of {a}",
    unit="same",
    symbol=lambda call: symbols.total(symbols.magnitude(call.body), *call.bound),
    merge=Merge(lambda x, dims: (x.abs().sum(dims),), _added, _only),
    growth=1,
)
def l1(x: Tensor, dims: Dims) -> Tensor:
    return x.abs().sum(dims)


@operator(
    "l2",
    shape=OVER,
    meaning="square root of the sum of squares",
    phrase="the l2 norm over {axes} of {a}",
    unit="same",
    symbol=lambda call: sympy.sqrt(symbols.total(call.body**2, *call.bound)),
    merge=Merge(lambda x, dims: ((x * x).sum(dims),), _added, lambda state: _only(state).sqrt()),
    growth=0.5,
)
def l2(x: Tensor, dims: Dims) -> Tensor:
    return (x * x).sum(dims).sqrt()


BINS = 31
"""Bins of a histogram. A prime number, so that values on a grid are hardly ever on an edge."""


class HistogramEntropy(OverAxes):
    """Shannon entropy of a histogram of the values over the bound indices."""

    is_nonnegative = True
    bounds = (0.0, math.log(BINS))
    latex = r"\operatorname{entropy}"
    definition = (
        r"\operatorname{entropy}\colon -\sum_{b} p_{b} \log p_{b} "
        r"\text{ (natural logarithm), where } p_{b} \text{ is the share of the entries in bin } "
        rf"b \text{{ of {BINS} bins of equal width }} "
        r"\text{from the least entry to the greatest; } "
        r"\text{the upper edge belongs to the last bin; } \text{0 where all entries are equal}"
    )

    @staticmethod
    def numpy(x: Any, dims: Dims) -> Any:
        import numpy as np

        columns = x.reshape(math.prod(x.shape[dim] for dim in dims), -1)
        found = np.full(columns.shape[1], np.nan)
        for position, values in enumerate(columns.T):
            width = values.max() - values.min()
            if np.isfinite(width):
                share = (values - values.min()) / (width or 1.0)
                bins = np.minimum(np.floor(share * BINS), BINS - 1)
                _, counts = np.unique(bins, return_counts=True)
                found[position] = np.log(len(values)) - counts @ np.log(counts) / len(values)
        return found.reshape(x.shape[len(dims) :])


@operator(
    "histogram_entropy",
    shape=OVER,
    meaning=f"Shannon entropy, in nats, of a histogram of {BINS} equal bins from the smallest "
    "value to the largest",
    symbol=HistogramEntropy,
    cost=20,
    phrase="the histogram entropy over {axes} of {a}",
    note="A histogram entropy is -sum p log p (natural logarithm), where p is the share of the "
    f"entries in each of {BINS} bins of equal width from the least entry to the greatest, whose "
    "upper edge belongs to the last bin; it is 0 where all entries are equal.",
    unit="number",
)
def histogram_entropy(x: Tensor, dims: Dims) -> Tensor:
    import torch

    kept = [dim for dim in range(x.dim()) if dim not in dims]
    rows = x.permute([*kept, *dims]).flatten(len(kept))
    low, high = rows.amin(-1, keepdim=True), rows.amax(-1, keepdim=True)
    width = high - low
    finite = width.isfinite()
    share = ((rows - low) / width.where(width > 0, 1.0)).where(finite, 0.0)
    bins = (share * BINS).floor().clamp(max=BINS - 1).long()
    counts = rows.new_zeros(*rows.shape[:-1], BINS)
    shares = counts.scatter_add_(-1, bins, torch.ones_like(rows)) / rows.shape[-1]
    entropy = -torch.xlogy(shares, shares).sum(-1)
    return entropy.clamp(min=0).where(finite.squeeze(-1), torch.nan)
