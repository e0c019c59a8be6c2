"""Mean squared gradients of small batches, against an ordinary backward pass for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.statistics import Batch, collect
from gp_prune.statistics.batches import batch_size, split_batch
from gp_prune.statistics.layers import to_dense


def test_batches_are_averaged_squared(mixture: Any, parts: list[Batch]) -> None:
    needs = {"fisher", "gradients"}
    records = collect(mixture, None, parts, needs=needs, loss=functional.cross_entropy)
    grads = []
    for batch in parts:
        mixture.zero_grad()
        functional.cross_entropy(mixture(batch.inputs), batch.target).backward()  # type: ignore[no-untyped-call]
        grads.append({name: mixture.get_submodule(name).weight.grad.clone() for name in records})
    for name, record in records.items():
        layer = mixture.get_submodule(name)
        squares = torch.stack([to_dense(grad[name], layer).square() for grad in grads]).mean(0)
        assert bool(squares.any())
        torch.testing.assert_close(record.fisher, squares)
        mean = sum(
            to_dense(grad[name], layer) * batch_size(batch.inputs)
            for grad, batch in zip(grads, parts, strict=True)
        )
        torch.testing.assert_close(record.weight_grad, mean / 10)


def test_large_batches_are_cut_into_equal_parts_of_32() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(3, 2).double()
        x, y = torch.randn(70, 3).double(), torch.randn(70, 2).double()
    record = collect(
        layer, None, [Batch(x, y)], needs={"fisher"}, loss=functional.mse_loss
    )[""]  # fmt: skip
    expected = torch.zeros(2, 3).double()
    for rows in (slice(0, 24), slice(24, 47), slice(47, 70)):
        (grad,) = torch.autograd.grad(functional.mse_loss(layer(x[rows]), y[rows]), [layer.weight])
        expected += grad.square() / 3
    torch.testing.assert_close(record.require("fisher")[:, :, 0], expected)


def test_a_layer_that_runs_twice_adds_up_before_squaring() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(2, 2, bias=False).double()
        x = torch.randn(4, 2).double()
    model = nn.Sequential(layer, nn.Tanh(), layer)
    loss = lambda output, target: (output - target).square().mean()  # noqa: E731
    record = collect(model, None, [Batch(x, x)], needs={"fisher"}, loss=loss)["0"]
    (grad,) = torch.autograd.grad(loss(model(x), x), [layer.weight])  # type: ignore[no-untyped-call]
    torch.testing.assert_close(record.require("fisher")[:, :, 0], grad.square())


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dictionary"])
def test_cutting_keeps_every_sample(kind: str) -> None:
    values = torch.arange(9)
    kinds: dict[str, Any] = {
        "tensor": values,
        "tuple": (values, -values),
        "dictionary": {"a": values},
    }
    inputs = kinds[kind]
    whole = (Batch(inputs, values * 2, values), Batch(inputs))
    found = [part for batch in whole for part in split_batch(batch, 4)]
    assert [batch_size(batch.inputs) for batch in found] == [3, 3, 3] * 2
    first = [b.inputs if isinstance(b.inputs, Tensor) else next(iter(_values(b))) for b in found]
    assert torch.cat(first).tolist() == values.tolist() * 2
    labels: list[Any] = [batch.labels for batch in found[:3]]
    assert torch.cat(labels).tolist() == values.tolist()
    assert torch.cat([batch.target for batch in found[:3]]).tolist() == (values * 2).tolist()
    assert found[3].labels is None and found[3].target is None


def _values(batch: Batch) -> list[Tensor]:
    return list(batch.inputs.values() if isinstance(batch.inputs, dict) else batch.inputs)
