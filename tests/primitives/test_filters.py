"""Operators on filters: nuclear norms; the ridge form where plain solving would fail."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gp_prune.language.primitive import builtin_primitives

nuclear_norm = builtin_primitives().operators["nuclear_norm"].compute
OPERATOR: Any = builtin_primitives().operators["ridge_form"]
ridge_form = OPERATOR.compute


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def solved(x: Tensor, d: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    matrix = centred.mT @ centred + 1e-4 * torch.eye(x.shape[2], dtype=torch.float64)
    solution: Tensor = (d * torch.linalg.solve(matrix, d.mT).mT).sum(2)
    return solution


def test_more_positions_than_samples() -> None:
    for samples in (1, 2, 6):
        x, d = normal(4, samples, 6), normal(4, 3, 6, seed=1)
        torch.testing.assert_close(ridge_form(x, d), solved(x, d), rtol=1e-7, atol=0)


def test_huge_maps_that_do_not_spread_in_every_direction() -> None:
    """The ridge alone counts across the spread; beside squares of 1e20 it would be lost."""
    x = torch.zeros(1, 5, 4, dtype=torch.float64)
    x[0, :, 0] = 1e10 * normal(5)
    along, across = torch.eye(4, dtype=torch.float64)[:2]
    form = ridge_form(x, torch.stack([along * 1e10, across])[None])[0]
    assert 0 < form[0] < 10
    torch.testing.assert_close(float(form[1]), 1e4, rtol=1e-9, atol=0)


@pytest.mark.parametrize("samples", [12, 40])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 100.0, 1e6])
def test_maps_of_any_size_have_the_form_of_an_orthogonal_decomposition(
    scale: float, samples: int
) -> None:
    """Up to a trace of 1e6, which lies between 10 and 100, the matrix is solved with."""
    x = scale * normal(2, samples, 3) @ normal(2, 3, 20, seed=1)
    d = torch.stack([x[:, :4].mean(1), x[:, 4:9].mean(1)], 1) - x.mean(1, keepdim=True)
    for_each = x[:, None].expand(-1, 2, -1, -1).numpy()
    expected = torch.from_numpy(OPERATOR.symbol.numpy(for_each, d.numpy()))
    torch.testing.assert_close(ridge_form(x, d), expected, rtol=1e-6, atol=0)


def test_a_channel_that_is_not_finite_leaves_the_others_alone() -> None:
    x, d = normal(3, 5, 4), normal(3, 2, 4, seed=1)
    expected = ridge_form(x, d)
    x[1, 2, 3] = torch.inf
    d[2, 0, 0] = torch.nan
    found = ridge_form(x, d)
    assert found[0].equal(expected[0])
    assert found[1:].isnan().all()


@pytest.mark.parametrize("shape", [(3, 5, 9), (3, 9, 4), (3, 5, 1), (3, 1, 9)])
def test_the_nuclear_norm_is_the_trace_of_the_root_of_the_gram_matrix(
    shape: tuple[int, ...],
) -> None:
    x = normal(*shape)
    values = torch.linalg.eigvalsh(x.mT @ x).clamp(min=0)
    torch.testing.assert_close(nuclear_norm(x), values.sqrt().sum(1), rtol=1e-6, atol=0)


def test_a_filter_that_is_not_finite_leaves_the_others_alone() -> None:
    x = normal(3, 5, 4)
    expected = nuclear_norm(x)
    x[1, 2, 3] = torch.inf
    found = nuclear_norm(x)
    assert found[[0, 2]].equal(expected[[0, 2]])
    assert found[1].isnan()
