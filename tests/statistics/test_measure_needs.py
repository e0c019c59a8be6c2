"""Every need runs the passes over the data that it takes, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from gp_prune.errors import UserError
from gp_prune.language.primitive import builtin_primitives
from gp_prune.language.record import LOSS_NEEDS, NEEDS, synthetic_layer
from gp_prune.metric.metric import Metric
from gp_prune.statistics import Batch, collect

FORWARD = {"inputs", "outputs", "labels", "second_moments", "centroids", "kernels", "map_ranks"}
PASSES = {
    **dict.fromkeys({*FORWARD, "map_spectra", "map_norms"}, (3, 0)),
    **dict.fromkeys({"gradients", "output_gradients", "sample_fisher"}, (3, 3)),
    "fisher": (4, 4),  # the first mini-batch of 32 ends within the second of three batches
    "hessian": (6, 9),  # one run backward in the first pass, two in the second
    "synflow": (1, 1),
    "noise": (0, 0),
    "outgoing": (0, 0),
    "network": (0, 0),
}
"""Need -> passes forward and backward over three batches."""


def tiny() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


def tiny_batches() -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(0)
    for size in (2, 40, 3):
        labels = torch.randint(0, 3, (size,), generator=generator)
        yield Batch(torch.randn(size, 1, 3, 3, generator=generator), labels, labels)


@pytest.mark.parametrize("need", sorted(NEEDS))
def test_passes_of_each_need(need: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, backward = tiny(), torch.autograd.grad
    counted = {"forward": 0, "backward": 0}

    def forward_hook(*_: Any) -> None:
        counted["forward"] += 1

    def counting(*args: Any, **options: Any) -> Any:
        counted["backward"] += 1
        return backward(*args, **options)

    model[3].register_forward_hook(forward_hook)
    monkeypatch.setattr(torch.autograd, "grad", counting)
    collect(
        model, None, list(tiny_batches()), needs={need}, loss=functional.cross_entropy,
        example_inputs=torch.randn(1, 1, 3, 3), outgoing={}, places={},
    )  # fmt: skip
    forward, backwards = PASSES[need]
    # One run on the example inputs is not over data: it sees which batch norm belongs to a layer.
    assert counted == {"forward": forward + 1, "backward": backwards}


def test_every_need_is_counted() -> None:
    assert PASSES.keys() == NEEDS.keys()
    assert {need for need, (_, backward) in PASSES.items() if backward} - {"synflow"} == LOSS_NEEDS


def test_l1_runs_nothing() -> None:
    metric = Metric.parse("sum[i,k](abs(W))")
    assert metric.needs == frozenset()

    def trap(*_: Any) -> None:
        raise AssertionError("the model was run")

    model = tiny()
    model.register_forward_pre_hook(trap)
    collect(model, None, (), needs=metric.needs)


@pytest.mark.parametrize("need", sorted(LOSS_NEEDS))
def test_a_loss_is_needed(need: str) -> None:
    with pytest.raises(UserError, match="gradients need a loss"):
        collect(tiny(), None, tiny_batches(), needs={need})


@pytest.mark.parametrize("need", ["labels", "centroids", "kernels"])
def test_labels_are_needed(need: str) -> None:
    with pytest.raises(UserError, match="the data has no class labels"):
        collect(tiny(), None, [Batch(torch.randn(2, 1, 3, 3))], needs={need})


def test_readers_are_needed() -> None:
    with pytest.raises(UserError, match=r"outgoing=consumers\(trace"):
        collect(tiny(), None, (), needs={"outgoing"})


def test_places_are_needed() -> None:
    with pytest.raises(UserError, match=r"places=layer_places\(trace"):
        collect(tiny(), None, (), needs={"network"})


def test_synaptic_flow_needs_only_a_shape() -> None:
    model = tiny()
    taken = collect(model, None, tiny_batches(), needs={"synflow"})["0"].require("synflow_grad")
    given = collect(model, None, (), needs={"synflow"}, example_inputs=torch.zeros(5, 1, 3, 3))
    assert torch.equal(taken, given["0"].require("synflow_grad"))
    with pytest.raises(UserError, match="the calibration data has no samples"):
        collect(model, None, (), needs={"synflow"})


def test_every_measurement_is_an_operand_of_its_need() -> None:
    """Each operand reads a field that its needs fill, and there is one for each need."""
    operands = builtin_primitives().operands.values()
    assert {need for operand in operands for need in operand.needs} == NEEDS.keys()
    record = synthetic_layer()
    assert all(getattr(record, field.name) is not None for field in fields(record))
    for operand in operands:
        assert operand.read(record).shape == tuple(
            {"o": 4, "i": 3, "k": 4, "n": 5, "s": 3, "c": 3, "j": 2}[axis] for axis in operand.axes
        )
