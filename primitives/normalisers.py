"""Normalisers: each relates every entry to the others along the axes named in its brackets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gp_prune.language.axes import Normaliser
from gp_prune.language.primitive import operator
from gp_prune.language.symbols import EPSILON, AlongAxes, difference, magnitude, mean, total
from gp_prune.primitives.elementwise import AtLeast, Div
from gp_prune.primitives.reductions import Dims, MaxOver, MinOver, StdOver

if TYPE_CHECKING:
    from torch import Tensor

    from gp_prune.language.symbols import Call


ALONG = Normaliser()


def _protected(a: Tensor, b: Tensor) -> Tensor:
    allowed = b.abs() > EPSILON
    return (a / b.where(allowed, 1.0)).where(allowed, 0.0)


class SumShare(AlongAxes):
    """x / sum of |x|, protected."""

    latex = r"\operatorname{bysum}"
    definition = r"\operatorname{bysum}_{i}(x_{i}) = \frac{x_{i}}{\sum_{i'} |x_{i'}|}^{\dagger}"
    note = Div.note
    keeps_sign = odd = idempotent = scale_free = True
    rescales = True
    bounds = (-1.0, 1.0)

    @staticmethod
    def written_out(call: Call) -> Any:
        return Div(call.argument(0), total(magnitude(call.body), *call.bound))


@operator(
    "by_sum",
    shape=ALONG,
    meaning="x / sum of |x|",
    symbol=SumShare,
    cost=2,
    growth=-1,
    phrase="{a} divided by the sum of its magnitudes over {axes}",
    note="A quotient is 0 where the divisor is at most 1e-12 in magnitude.",
    unit="number",
)
def by_sum(x: Tensor, dims: Dims) -> Tensor:
    return _protected(x, x.abs().sum(dims, keepdim=True))


class MaxShare(AlongAxes):
    """x / largest |x|, protected."""

    latex = r"\operatorname{bymax}"
    definition = r"\operatorname{bymax}_{i}(x_{i}) = \frac{x_{i}}{\max_{i'} |x_{i'}|}^{\dagger}"
    note = Div.note
    keeps_sign = odd = idempotent = scale_free = True
    rescales = True
    bounds = (-1.0, 1.0)

    @staticmethod
    def written_out(call: Call) -> Any:
        return Div(call.argument(0), MaxOver(magnitude(call.body), *call.bound))


@operator(
    "by_max",
    shape=ALONG,
    meaning="x / largest |x|",
    symbol=MaxShare,
    cost=2,
    phrase="{a} divided by its largest magnitude over {axes}",
    note="A quotient is 0 where the divisor is at most 1e-12 in magnitude.",
    unit="number",
)
def by_max(x: Tensor, dims: Dims) -> Tensor:
    return _protected(x, x.abs().amax(dims, keepdim=True))


class MinMax(AlongAxes):
    """(x - min x) / (max x - min x), protected."""

    latex = r"\operatorname{minmax}"
    definition = (
        r"\operatorname{minmax}_{i}(x_{i}) = "
        r"\frac{x_{i} - \min_{i'} x_{i'}}{\max_{i'} x_{i'} - \min_{i'} x_{i'}}^{\dagger}"
    )
    note = Div.note
    idempotent = scale_free = shift_free = True
    rescales = True
    bounds = (0.0, 1.0)

    @staticmethod
    def written_out(call: Call) -> Any:
        low, high = (over(call.body, *call.bound) for over in (MinOver, MaxOver))
        return Div(difference(call.argument(0), low), high - low)


@operator(
    "min_max",
    shape=ALONG,
    meaning="(x - min x) / (max x - min x)",
    symbol=MinMax,
    cost=3,
    phrase="{a} scaled to the range from 0 to 1 over {axes}",
    note="To scale x to the range from 0 to 1 is (x - smallest) / (largest - smallest), or 0 where "
    "that divisor is at most 1e-12.",
    unit="number",
)
def min_max(x: Tensor, dims: Dims) -> Tensor:
    low = x.amin(dims, keepdim=True)
    return _protected(x - low, x.amax(dims, keepdim=True) - low)


class ZScore(AlongAxes):
    """(x - mean x) / std x, protected."""

    latex = r"\operatorname{zscore}"
    definition = (
        r"\operatorname{zscore}_{i}(x_{i}) = \frac{x_{i} - \frac{1}{N_{i}} \sum_{i'} x_{i'}}"
        r"{\operatorname{std}_{i'} x_{i'}}^{\dagger}"
    )
    note = Div.note
    odd = idempotent = scale_free = shift_free = True
    rescales = True

    @staticmethod
    def written_out(call: Call) -> Any:
        centred = difference(call.argument(0), mean(call.body, *call.bound))
        return Div(centred, StdOver(call.body, *call.bound))


@operator(
    "z_score",
    shape=ALONG,
    meaning="(x - mean x) / standard deviation of x",
    symbol=ZScore,
    cost=3,
    phrase="{a} standardised over {axes}",
    note="To standardise x is (x - mean) / standard deviation, or 0 where that divisor is at most "
    "1e-12; the deviation divides by the number of entries.",
    unit="number",
)
def z_score(x: Tensor, dims: Dims) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return _protected(centred, x.std(dims, correction=0, keepdim=True))


class TailSum(AlongAxes):
    """The sum of all entries that are at least x."""

    latex = r"\operatorname{tailsum}"
    definition = (
        r"\operatorname{tailsum}_{i}(x_{i}) = \sum_{i'} \left[x_{i'} \geq x_{i}\right] x_{i'}"
    )
    keeps_sign = True

    @staticmethod
    def written_out(call: Call) -> Any:
        return total(AtLeast(call.body, call.argument(0)) * call.body, *call.bound)


@operator(
    "tail_sum",
    shape=ALONG,
    meaning="sum of all entries that are at least x",
    symbol=TailSum,
    cost=20,
    growth=1,
    phrase="the tail sum over {axes} of {a}",
    note="The tail sum of an entry is the sum of all entries that are at least as large, itself "
    "included.",
    unit="same",
)
def tail_sum(x: Tensor, dims: Dims) -> Tensor:
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
