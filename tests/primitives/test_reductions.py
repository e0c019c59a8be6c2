"""The entropy of a histogram: known values, and what is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gp_prune.language.primitive import builtin_primitives

histogram_entropy = builtin_primitives().operators["histogram_entropy"].compute


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([4.0, 4.0, 4.0], 0.0),  # all in one bin
        ([0.0, 1.0], math.log(2)),
        ([-3.0, 7.0, 7.0, 7.0], -0.25 * math.log(0.25) - 0.75 * math.log(0.75)),
        ([float(number) for number in range(31)], math.log(31)),  # one in each bin
        ([0.0, 0.01, 1.0], -math.log(1 / 3) / 3 - 2 * math.log(2 / 3) / 3),
        ([5.0], 0.0),
    ],
)
def test_known_entropies(values: list[float], expected: float) -> None:
    x = torch.tensor([values, values[::-1]], dtype=torch.float64)
    torch.testing.assert_close(
        histogram_entropy(x, (1,)), torch.full((2,), expected, dtype=torch.float64)
    )


def test_scale_and_shift_change_nothing() -> None:
    x: Tensor = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(
        histogram_entropy(3 * x - 7, (1,)), histogram_entropy(x, (1,)), rtol=1e-12, atol=0
    )


def test_what_is_not_finite_leaves_the_others_alone() -> None:
    x = torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(1)).double()
    expected = histogram_entropy(x, (1, 2))
    x[1, 3, 0], x[2, 0, 1] = torch.nan, torch.inf
    found = histogram_entropy(x, (1, 2))
    assert found[[0, 3]].equal(expected[[0, 3]])
    assert found[[1, 2]].isnan().all()
