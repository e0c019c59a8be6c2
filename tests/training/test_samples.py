from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from gp_prune.errors import UserError
from gp_prune.statistics import Batch
from gp_prune.training.samples import (
    Data,
    Samples,
    as_data,
    draw,
    equal_parts,
    fingerprint,
    gather,
    in_order,
    shuffled,
    take,
)


def tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value


COUNTS, SEEDS = st.integers(1, 60), st.integers(0, 2**31)


@given(count=COUNTS, size=st.integers(1, 70), seed=SEEDS)
def test_a_pass_takes_every_sample_once_in_a_seeded_order(count: int, size: int, seed: int) -> None:
    data = Samples(torch.arange(count), torch.arange(count) * 2)
    steps = list(shuffled(data, size, seed))
    taken = torch.cat([tensor(batch.inputs) for _, batch in steps])
    assert sorted(taken.tolist()) == list(range(count))
    assert torch.equal(torch.cat([batch.target for _, batch in steps]), taken * 2)
    assert max(len(batch.inputs) for _, batch in steps) <= max(size, 3 if size == 2 else 1)
    assert [done for done, _ in steps] == [i / len(steps) for i in range(len(steps))]
    again = torch.cat([tensor(batch.inputs) for _, batch in shuffled(data, size, seed)])
    assert torch.equal(again, taken)


@given(count=COUNTS, seed=SEEDS)
def test_a_sequence_of_batches_comes_in_a_seeded_order(count: int, seed: int) -> None:
    batches = [Batch(torch.full((1,), float(i)), torch.zeros(1)) for i in range(count)]
    order = [int(tensor(batch.inputs)) for _, batch in shuffled(batches, 1, seed)]
    assert sorted(order) == list(range(count))
    assert order == [int(tensor(batch.inputs)) for _, batch in shuffled(batches, 1, seed)]
    assert [int(tensor(batch.inputs)) for batch in in_order(batches, 1)] == list(range(count))


@given(count=COUNTS, size=st.integers(1, 70))
def test_in_order(count: int, size: int) -> None:
    data = Samples({"a": torch.arange(count)}, torch.arange(count))
    batches = list(in_order(data, size))
    assert torch.cat([dict(batch.inputs)["a"] for batch in batches]).tolist() == list(range(count))
    assert all(len(batch.target) == size for batch in batches[:-1])


class Unknown:
    """Batches whose number is unknown."""

    def __iter__(self) -> Iterator[Batch]:
        return iter([Batch(torch.zeros(1), torch.zeros(1))] * 3)


def test_progress_is_unknown_where_the_number_of_batches_is() -> None:
    assert [done for done, _ in shuffled(Unknown(), 1, 0)] == [0.0] * 3


class Numbers(Dataset[tuple[Tensor, int]]):
    """Samples that are read one by one."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((2,), float(index)), index


class Stream(IterableDataset[int]):
    """Samples that cannot be picked."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def test_every_kind_of_data() -> None:
    pair = (torch.zeros(4, 2), torch.zeros(4))
    for data in (pair, (*pair, pair[1]), Batch(*pair), TensorDataset(*pair), {"x": pair[0]}):
        assert isinstance(as_data(data), Samples)
    for kept in (Samples(*pair), [Batch(*pair)], [pair], Unknown(), Numbers()):
        assert as_data(kept) is kept
    with pytest.raises(UserError, match="cannot be read once per epoch"):
        as_data(iter([]))
    with pytest.raises(UserError, match="give a data loader"):
        as_data(Stream())
    for wrong in ([3], Unknown):
        with pytest.raises(UserError):
            list(in_order(as_data(wrong), 1))


@pytest.mark.parametrize("part", [None, [5, 3, 3, 11, 0]])
def test_a_data_set_of_torch_gives_what_its_tensors_give(part: list[int] | None) -> None:
    tensors = torch.arange(20.0)[:, None].expand(-1, 2).contiguous(), torch.arange(20)
    data: list[Dataset[Any]] = [Samples(*tensors, tensors[1]), Numbers(), TensorDataset(*tensors)]
    if part is not None:
        data = [Subset(whole, part) for whole in data]
    for size, seed in ((3, 0), (7, 5)):
        orders: list[list[Batch]] = [
            [batch for _, batch in shuffled(as_data(one), size, seed)] for one in data
        ]
        orders += [list(in_order(as_data(one), size)) for one in data]
        for group in (orders[:3], orders[3:]):
            for first, *others in zip(*group, strict=True):
                assert all(torch.equal(first.inputs, other.inputs) for other in others)
                assert all(torch.equal(first.target, other.target) for other in others)


def test_a_loader_gives_the_batches_that_it_gives() -> None:
    loader = DataLoader(Numbers(), batch_size=6)
    batches = list(in_order(as_data(loader), 2))
    assert batches[0].target.tolist() == list(range(6))
    assert torch.equal(tensor(gather(loader).labels), torch.arange(20))
    assert [done for done, _ in shuffled(loader, 2, 0)] == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("data", [Numbers(), DataLoader(Numbers(), 8)])
def test_samples_are_gathered_and_drawn(data: Data) -> None:
    assert gather(data, 5).target.tolist() == [0, 1, 2, 3, 4]
    assert len(gather(data)) == 20
    drawn = draw(data, 5, seed=1)
    assert len(drawn) == 5
    assert torch.equal(tensor(drawn.inputs)[:, 0].long(), drawn.target)
    if isinstance(data, Dataset):
        assert drawn.target.tolist() != [0, 1, 2, 3, 4]


def test_samples_that_do_not_fit_together_are_refused() -> None:
    class Ragged(Numbers):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return torch.zeros(index), index

    with pytest.raises(UserError, match="collate_fn"):
        take(Ragged(), torch.arange(3))


def test_one_sample_has_no_first_axis_and_a_selection_is_of_the_same_class() -> None:
    data = Samples(torch.arange(6.0).reshape(3, 2), torch.arange(3))
    assert tensor(data[1].inputs).tolist() == [2.0, 3.0]
    assert data.select(slice(2)).target.tolist() == [0, 1]
    assert tensor(data.select(torch.tensor([2])).inputs).tolist() == [[4.0, 5.0]]


def test_fingerprints_tell_contents_apart() -> None:
    data = Samples(torch.zeros(4, 2), torch.zeros(4))
    same = Samples(torch.zeros(4, 2), torch.zeros(4))
    others = [
        None,
        Samples(torch.ones(4, 2), torch.zeros(4)),
        Samples(torch.zeros(4, 2), torch.ones(4)),
        Samples(torch.zeros(4, 2).double(), torch.zeros(4)),
        Samples(torch.zeros(3, 2), torch.zeros(3)),
        [Batch(torch.zeros(4, 2), torch.zeros(4))],
    ]
    prints = [fingerprint(other) for other in others]
    assert fingerprint(data) == fingerprint(same)
    assert len({fingerprint(data), *prints}) == len(others) + 1


@given(count=st.integers(1, 300), most=st.integers(1, 80))
def test_equal_parts(count: int, most: int) -> None:
    sizes = [len(part) for part in torch.arange(count).tensor_split(equal_parts(count, most))]
    assert max(sizes) <= (3 if most == 2 and count % 2 else most)
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(2, most, count)
