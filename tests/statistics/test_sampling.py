"""The sample depends on the seed and the stream, never on batches or layers."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.statistics.records import uniform
from gp_prune.statistics.sampling import Picks, Positions, Reservoir, SampledMaps


def kept(sizes: list[int], capacity: int, seed: int) -> dict[int, int]:
    """Slot -> number of the sample in the stream."""
    reservoir, seen, found = Reservoir(capacity, seed), 0, {}
    for size in sizes:
        picks = reservoir.offer(size)
        found.update({slot: seen + row for slot, row in zip(picks.slots, picks.rows, strict=True)})
        seen += size
    return found


@given(sizes=st.lists(st.integers(0, 9), max_size=9), capacity=st.integers(1, 12))
def test_batches_do_not_change_the_sample(sizes: list[int], capacity: int) -> None:
    found = kept(sizes, capacity, 3)
    assert found == kept([sum(sizes)], capacity, 3)
    assert sorted(found) == list(range(min(capacity, sum(sizes))))
    assert len(set(found.values())) == len(found)


def test_every_sample_is_as_likely() -> None:
    hits = Counter(number for seed in range(2000) for number in kept([10], 3, seed).values())
    assert all(abs(hits[number] - 600) < 100 for number in range(10))  # five standard deviations


def test_positions_are_distinct_sorted_and_capped() -> None:
    maps = torch.arange(50.0).expand(2, 1, 50)
    store = SampledMaps(Positions(8, seed=0))
    store.put(maps, Picks([0, 1], [1, 0]))
    result = store.result()
    assert result is not None and result.shape == (1, 2, 8) and result.dtype == torch.float64
    row = result[0, 0]
    assert bool((row.diff() > 0).all())
    assert torch.equal(result[0, 1], row)


def test_maps_of_another_size_are_read_at_the_same_places() -> None:
    store = SampledMaps(Positions(4, 0))
    store.put(torch.arange(4.0).reshape(1, 1, 4), Picks([0], [0]))
    store.put(torch.arange(8.0).reshape(1, 1, 8), Picks([0], [1]))
    result = store.result()
    assert result is not None
    assert result[0].tolist() == [[0, 1, 2, 3], [0, 2, 4, 6]]


def test_noise_is_open_uniform_and_seeded() -> None:
    noise = uniform((2000, 5), 7)
    assert noise.dtype == torch.float64
    assert noise.min() > 0
    assert noise.max() < 1
    assert abs(float(noise.mean()) - 0.5) < 0.02
    assert torch.equal(noise, uniform((2000, 5), 7))
