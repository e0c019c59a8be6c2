from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.errors import UserError
from gp_prune.statistics import Batch
from gp_prune.training.samples import Samples, as_data, fingerprint, in_order, one_pass

COUNTS, SEEDS = st.integers(1, 60), st.integers(0, 2**31)


@given(count=COUNTS, size=st.integers(1, 70), seed=SEEDS)
def test_a_pass_takes_every_sample_once_in_a_seeded_order(count: int, size: int, seed: int) -> None:
    data = Samples(torch.arange(count), torch.arange(count) * 2)
    steps = list(one_pass(data, size, seed))
    taken = torch.cat([step.batch.inputs for step in steps])
    assert sorted(taken.tolist()) == list(range(count))
    assert torch.equal(torch.cat([step.batch.target for step in steps]), taken * 2)
    assert max(len(step.batch.inputs) for step in steps) <= max(size, 3 if size == 2 else 1)
    assert [step.done for step in steps] == [i / len(steps) for i in range(len(steps))]
    again = torch.cat([step.batch.inputs for step in one_pass(data, size, seed)])
    assert torch.equal(again, taken)


@given(count=COUNTS, seed=SEEDS)
def test_a_sequence_of_batches_comes_in_a_seeded_order(count: int, seed: int) -> None:
    batches = [Batch(torch.full((1,), float(i)), torch.zeros(1)) for i in range(count)]
    order = [int(step.batch.inputs) for step in one_pass(batches, 1, seed)]
    assert sorted(order) == list(range(count))
    assert order == [int(step.batch.inputs) for step in one_pass(batches, 1, seed)]
    assert [int(batch.inputs) for batch in in_order(batches, 1)] == list(range(count))


@given(count=COUNTS, size=st.integers(1, 70))
def test_in_order(count: int, size: int) -> None:
    data = Samples({"a": torch.arange(count)}, torch.arange(count))
    batches = list(in_order(data, size))
    assert torch.cat([batch.inputs["a"] for batch in batches]).tolist() == list(range(count))
    assert all(len(batch.target) == size for batch in batches[:-1])


class Unknown:
    """Batches of which nobody knows how many there are."""

    def __iter__(self) -> Iterator[Batch]:
        return iter([Batch(torch.zeros(1), torch.zeros(1))] * 3)


def test_progress_is_unknown_where_the_number_of_batches_is() -> None:
    assert [step.done for step in one_pass(Unknown(), 1, 0)] == [0.0] * 3


def test_every_kind_of_data() -> None:
    pair = (torch.zeros(4, 2), torch.zeros(4))
    for data in (pair, (*pair, pair[1]), Batch(*pair)):
        assert isinstance(as_data(data), Samples)
    for kept in (Samples(*pair), [Batch(*pair)], Unknown()):
        assert as_data(kept) is kept
    with pytest.raises(UserError, match="cannot be read once per epoch"):
        as_data(iter([]))
    for wrong in ([pair], Unknown):
        with pytest.raises(UserError):
            list(in_order(as_data(wrong), 1))


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
