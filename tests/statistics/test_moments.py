"""Streamed moments against numpy on all values at once."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gp_prune.statistics.moments import Moments


def streamed(maps: Tensor, labels: Tensor, cuts: list[int]) -> Moments:
    moments, size = Moments(), 0
    for part, classes in zip(maps.tensor_split(cuts), labels.tensor_split(cuts), strict=True):
        if len(classes):
            size = max(size, int(classes.max()) + 1)
            moments.add(part, classes, size)
    return moments


@settings(deadline=None, max_examples=60)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=4).map(sorted),
    offset=st.sampled_from([0.0, 1e6, -3e8]),
)
def test_any_cut_equals_numpy(labels: list[int], cuts: list[int], offset: float) -> None:
    generator = torch.Generator().manual_seed(len(labels))
    maps = torch.randn(len(labels), 3, 4, generator=generator, dtype=torch.float64) + offset
    classes = torch.tensor(labels)
    moments = streamed(maps, classes, cuts)
    rest = moments.rest()
    values = maps.transpose(0, 1).numpy()  # (channels, n, s)
    for group in range(max(labels) + 1):
        member = np.array(labels) == group
        for found, chosen in ((moments, member), (rest, ~member)):
            picked = values[:, chosen].reshape(3, -1)
            assert found.count[group] == picked.shape[1]
            if picked.size == 0:
                assert not found.mean[:, group].any()
                assert not found.variance[:, group].any()
                continue
            np.testing.assert_allclose(found.mean[:, group], picked.mean(1), rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(
                found.variance[:, group], picked.var(1), rtol=1e-6, atol=1e-13
            )


def test_growing_adds_empty_groups() -> None:
    moments = streamed(torch.ones(2, 1, 1), torch.tensor([0, 0]), [])
    moments.grow(3)
    assert moments.count.tolist() == [2, 0, 0]
    assert moments.rest().count.tolist() == [0, 2, 2]
    assert moments.mean.tolist() == [[1, 0, 0]]
