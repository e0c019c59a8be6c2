"""How much is kept, where memory is short: positions first, then samples; never silently."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.statistics.records import uniform
from gp_prune.statistics.sampling import (
    Census,
    Demand,
    KeptValues,
    Positions,
    Sampling,
    share_memory,
)

CENSUS = Census(100, 10)


def shared(demands: list[Demand], memory: int, *, together: bool = False) -> Sampling:
    layers = list(dict.fromkeys(demand.layer for demand in demands))
    return share_memory(demands, layers, CENSUS, memory=memory, together=together, seed=0)


def held(demands: list[Demand], found: Sampling) -> dict[str, int]:
    """Bytes by layer."""
    sizes: dict[str, int] = {}
    for demand in demands:
        count = found.most.get((demand.layer, demand.side), demand.positions)
        sizes[demand.layer] = sizes.get(demand.layer, 0) + count * demand.each
    return sizes


DEMANDS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)), min_size=1, max_size=6).map(
    lambda sizes: [Demand(f"layer{n}", "outputs", *size) for n, size in enumerate(sizes)]
)


@given(demands=DEMANDS, memory=st.integers(1, 600), together=st.booleans())
def test_what_is_held_at_a_time_fits(demands: list[Demand], memory: int, together: bool) -> None:
    found = shared(demands, memory, together=together)
    assert [name for group in found.groups for name in group] == [d.layer for d in demands]
    assert len(found.groups) == 1 or not together
    sizes = held(demands, found)
    for group in found.groups:
        if found.samples is None:
            assert sum(sizes[name] for name in group) <= memory
    if sum(demand.total for demand in demands) <= memory * 5 // 8:
        assert not found.most and found.samples is None and len(found.groups) == 1
    if not together and all(demand.total <= memory * 7 // 8 for demand in demands):
        assert not found.most and found.samples is None


def test_layers_are_measured_in_as_few_groups_as_fit() -> None:
    demands = [Demand(name, "outputs", 10, 1) for name in "abcde"]
    assert shared(demands, 40).groups == [["a", "b"], ["c", "d"], ["e"]]


def test_a_group_leaves_room_for_what_evaluating_takes() -> None:
    demands = [Demand(name, "outputs", 1, 90, 720) for name in "abcdef"]
    assert shared(demands, 1000).groups == [[name] for name in "abcdef"]
    assert shared(demands, 1200).groups == [["a", "b", "c"], ["d", "e", "f"]]


def test_the_largest_maps_are_cut_first() -> None:
    demands = [Demand("a", "inputs", 10, 1), Demand("a", "outputs", 1000, 1)]
    assert shared(demands, 64).most == {("a", "outputs"): 46}
    both = [Demand("a", "outputs", 400, 1), Demand("b", "outputs", 100, 4)]
    assert shared(both, 200, together=True).most == {("a", "outputs"): 100, ("b", "outputs"): 25}


def test_samples_are_left_out_where_one_position_is_too_much() -> None:
    found = shared([Demand("a", "outputs", 8, 1000)], 250)
    assert (found.samples, found.most) == (21, {("a", "outputs"): 1})
    chosen = found.chosen_samples(100)
    assert chosen is not None and len(chosen) == 21 and bool((chosen.diff() > 0).all())
    assert found.coverage("a", "activation", 21, 100) == (21, 100, 1, 8)
    assert found.coverage("a", "weight_grad", 21, 100) == (21, 100, 1, 1)


def test_positions_are_distinct_sorted_and_the_same_for_all_samples() -> None:
    maps = torch.arange(50.0).expand(2, 1, 50)
    result = Positions(8, seed=0).among(maps)
    assert result.shape == (2, 1, 8)
    assert bool((result[0, 0].diff() > 0).all())
    assert torch.equal(result[0], result[1])
    assert Positions(None, seed=0).among(maps) is maps


@pytest.mark.parametrize("most", [4, None])
def test_maps_of_another_size_are_read_at_the_same_places(most: int | None) -> None:
    positions = Positions(most, 0)
    assert positions.among(torch.arange(4.0).reshape(1, 1, 4)).flatten().tolist() == [0, 1, 2, 3]
    found = positions.among(torch.arange(8.0).reshape(1, 1, 8)).flatten().tolist()
    assert found == ([0, 2, 4, 6] if most else list(range(8)))


@given(cuts=st.lists(st.integers(1, 5), min_size=1, max_size=5), expected=st.integers(0, 30))
def test_kept_values_are_those_of_all_samples_in_order(cuts: list[int], expected: int) -> None:
    values = torch.arange(sum(cuts) * 6.0).reshape(-1, 2, 3)
    store = KeptValues(expected)
    for part in values.split(cuts):  # type: ignore[no-untyped-call]
        store.put(part)
    result = store.result()
    assert result is not None and torch.equal(result, values.transpose(0, 1))


def test_noise_is_open_uniform_and_seeded() -> None:
    noise = uniform((2000, 5), 7)
    assert noise.dtype == torch.float64
    assert noise.min() > 0
    assert noise.max() < 1
    assert abs(float(noise.mean()) - 0.5) < 0.02
    assert torch.equal(noise, uniform((2000, 5), 7))
