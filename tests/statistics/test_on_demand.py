"""Measurements that are taken when they are first asked for, against all at once."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import Tensor, nn

from gp_prune.language.record import NEEDS, LayerRecord
from gp_prune.pruning import consumers, layer_places, trace
from gp_prune.statistics import Batch, collect
from gp_prune.statistics.on_demand import Measurements

ALL = frozenset(NEEDS)


def tensors(record: LayerRecord) -> dict[str, Tensor]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def lenet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()


@pytest.fixture
def measured(whole: Batch) -> tuple[nn.Module, list[Batch]]:
    with torch.random.fork_rng():
        model = lenet()
    assert isinstance(whole.inputs, Tensor)
    labels = whole.labels
    return model, [Batch(whole.inputs.float(), labels, labels)]


def on_demand(
    model: nn.Module, batches: list[Batch], memory: int | None = None, needs: frozenset[str] = ALL
) -> Measurements:
    assert isinstance(batches[0].inputs, Tensor)
    architecture = trace(model, batches[0].inputs[:1])
    return Measurements(
        model, batches, needs=needs, max_memory=memory, loss=nn.functional.cross_entropy, seed=3,
        outgoing=consumers(architecture), places=layer_places(architecture),
    )  # fmt: skip


@pytest.mark.parametrize("memory", [None, 4000])
def test_all_needs_in_turn_give_what_they_give_together(
    measured: tuple[nn.Module, list[Batch]], memory: int | None
) -> None:
    model, batches = measured
    forward, backward = on_demand(model, batches, memory), on_demand(model, batches, memory)
    for need in NEEDS:
        forward.ask({need})
    for need in reversed(NEEDS):
        backward.ask({need})
    assert isinstance(batches[0].inputs, Tensor)
    architecture = trace(model, batches[0].inputs[:1])
    together = collect(
        model, None, batches, needs=ALL, max_memory=memory, loss=nn.functional.cross_entropy,
        seed=3, outgoing=consumers(architecture), places=layer_places(architecture),
    )  # fmt: skip
    assert list(forward.records) == list(together)
    for name, record in together.items():
        expected, found = tensors(record), tensors(forward.records[name])
        assert found.keys() == expected.keys()
        assert forward.records[name].coverage == record.coverage
        assert all(seen.whole for seen in record.coverage.values()) == (memory is None)
        for field, value in tensors(backward.records[name]).items():
            assert torch.equal(value, found[field]), field  # to the last bit
            torch.testing.assert_close(value, expected[field], rtol=1e-4, atol=1e-6, msg=field)


def test_only_what_is_asked_for_is_measured(measured: tuple[nn.Module, list[Batch]]) -> None:
    found = on_demand(*measured)
    assert found.coverage == {} and not found.ask({"outgoing", "noise"})
    assert found.ask({"labels"}) and not found.ask({"outputs", "labels"})
    record = found.records["0"]
    assert record.class_mean is not None and record.outgoing is not None
    assert record.weight_grad is None and record.map_rank is None and record.fisher is None
    assert found.ask({"fisher"})
    assert found.records["0"].outgoing_fisher is not None


def test_what_the_data_does_not_offer_is_not_measured(
    measured: tuple[nn.Module, list[Batch]],
) -> None:
    found = on_demand(*measured, needs=ALL - {"labels", "centroids", "kernels"})
    assert found.ask(ALL)
    assert found.records["0"].class_mean is None and found.records["0"].activation is not None
