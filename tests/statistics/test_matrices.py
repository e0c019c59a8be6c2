"""Ranks and nuclear norms of whole maps, against a decomposition of every matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gp_prune.statistics import Batch, collect, matrices
from gp_prune.statistics.matrices import nuclear_losses

NEEDS = {"outputs", "map_ranks", "map_spectra", "map_norms"}


def plain_losses(matrix: Tensor) -> Tensor:
    """(o,): one decomposition for every row that is left out."""
    values = matrix.double().numpy()
    whole = np.linalg.norm(values, "nuc")
    found = []
    for row in range(len(values)):
        rest = values.copy()
        rest[row] = 0
        found.append(whole - np.linalg.norm(rest, "nuc"))
    return torch.tensor(found)


def least_of_minors(matrix: Tensor) -> float:
    """The smallest singular value of the matrix and of what is left without one of its rows."""
    count = len(matrix)
    parts = [matrix, *(matrix[torch.arange(count) != row] for row in range(count))]
    return min(float(torch.linalg.svdvals(part).min()) for part in parts if part.numel())


@settings(max_examples=100)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    kind=st.sampled_from(["normal", "rectified", "low rank", "equal rows", "mixed sizes", "ones"]),
    scale=st.sampled_from([1e-6, 1.0, 1e8]),
    seed=st.integers(0, 1000),
)
def test_losses_equal_leaving_out_each_row(
    rows: int, columns: int, kind: str, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator).double()
    if kind == "rectified":
        matrix = matrix.relu()
    elif kind == "low rank":
        matrix = matrix[:, :1] @ matrix[:1]
    elif kind == "equal rows":
        matrix = matrix[:1].repeat(rows, 1)
    elif kind == "mixed sizes":
        matrix *= 10.0 ** -torch.arange(rows).double().unsqueeze(1)
    elif kind == "ones":
        matrix = torch.ones_like(matrix)
    matrix *= scale
    largest = float(torch.linalg.matrix_norm(matrix, 2))
    found = nuclear_losses(matrix.unsqueeze(0))[0]
    torch.testing.assert_close(found, plain_losses(matrix), rtol=1e-9, atol=1e-7 * largest)
    if least_of_minors(matrix) > 1e-3 * largest:  # elsewhere both are off: nearly singular
        torch.testing.assert_close(found, plain_losses(matrix), rtol=1e-9, atol=1e-9 * largest)


def test_rows_of_zero_lose_nothing() -> None:
    matrix = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    losses = nuclear_losses(torch.stack([matrix, matrix * 0]))
    torch.testing.assert_close(losses, torch.tensor([[5**0.5, 0.0], [0.0, 0.0]]).double())


def test_whole_maps_of_all_samples(mixture: nn.Module, parts: list[Batch]) -> None:
    full = collect(mixture, None, parts, needs=NEEDS)
    sizes = {"conv": (6, 6), "depthwise": (4, 4), "grouped": (3, 3), "up": (5, 5)}
    for name, record in full.items():
        maps = record.require("activation")  # (o, n, positions)
        rows, columns = sizes.get(name, (1, maps.shape[2]))
        for o, channel in enumerate(maps):
            for n, values in enumerate(channel):
                rank = np.linalg.matrix_rank(values.reshape(rows, columns).numpy())
                assert record.require("map_rank")[o, n] == rank
                norm = np.linalg.norm(values.reshape(rows, columns).numpy(), "nuc")
                assert record.require("map_nuclear")[o, n] == pytest.approx(norm, rel=1e-12)
        for n in range(maps.shape[1]):
            torch.testing.assert_close(
                record.require("nuclear_loss")[:, n], plain_losses(maps[:, n])
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ranks_are_counted_in_the_precision_of_the_network(dtype: torch.dtype) -> None:
    """A map of rank one plus noise of 1e-12 has rank one in float32 only."""
    outer = torch.outer(torch.arange(1.0, 6), torch.arange(1.0, 6)).double()
    noise = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double() * 1e-12
    model: Any = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)).to(dtype)
    nn.init.ones_(model[0].weight)
    data = [Batch((outer + noise)[None, None].to(dtype))]
    record = collect(model, None, data, needs={"map_ranks"})["0"]
    assert record.require("map_rank").item() == (5 if dtype == torch.float64 else 1)


def test_a_linear_layer_has_rank_zero_or_one() -> None:
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2))
    (record,) = collect(
        layer, None, [Batch(torch.tensor([[1.0, 0.0], [1e-30, 2.0]]))], needs={"map_ranks"}
    ).values()
    assert record.require("map_rank").tolist() == [[1.0, 1.0], [0.0, 1.0]]


def test_volumes_take_two_axes_as_rows() -> None:
    layer = nn.Conv3d(1, 1, 1, bias=False).double()
    nn.init.ones_(layer.weight)
    x = torch.randn(2, 1, 3, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    (record,) = collect(layer, None, [Batch(x)], needs={"map_ranks"}).values()
    assert record.require("map_rank").tolist() == [[4.0, 4.0]]


def test_parts_do_not_matter(
    mixture: nn.Module, whole: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = collect(mixture, None, [whole], needs=NEEDS)
    monkeypatch.setattr(matrices, "_MOST_AT_ONCE", 1)
    for name, record in collect(mixture, None, [whole], needs=NEEDS).items():
        torch.testing.assert_close(record.nuclear_loss, at_once[name].nuclear_loss)
