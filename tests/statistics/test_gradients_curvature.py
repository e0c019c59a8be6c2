"""Hessian times gradient, against a Hessian that is really computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils import prune

from gp_prune.errors import UserError
from gp_prune.statistics import Batch, collect, prunable_layers
from gp_prune.statistics.layers import to_dense

HESSIAN = {"hessian"}


def plain_products(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """H g by the weights of all layers, from the full matrix H."""
    names = [f"{name}.weight" for name in prunable_layers(model)]
    weights = [model.get_parameter(name).detach() for name in names]
    sizes = [weight.numel() for weight in weights]

    def objective(flat: Tensor) -> Tensor:
        parts = flat.split(sizes)  # type: ignore[no-untyped-call]
        named = {n: p.view_as(w) for n, p, w in zip(names, parts, weights, strict=True)}
        return functional.cross_entropy(functional_call(model, named, batch.inputs), batch.target)

    flat = torch.cat([weight.flatten() for weight in weights])
    matrix = torch.autograd.functional.hessian(objective, flat)  # type: ignore[no-untyped-call]
    product = matrix @ torch.autograd.functional.jacobian(objective, flat)  # type: ignore[no-untyped-call]
    return {
        name.removesuffix(".weight"): part.view_as(weight)
        for name, part, weight in zip(names, product.split(sizes), weights, strict=True)
    }


def test_batches_give_the_product_of_the_full_batch(
    mixture: nn.Module, whole: Batch, parts: list[Batch]
) -> None:
    expected = plain_products(mixture, whole)
    loss = functional.cross_entropy
    records = collect(mixture, None, parts, needs=HESSIAN, loss=loss)
    assert records.keys() == expected.keys()
    for name, record in records.items():
        dense = to_dense(expected[name], mixture.get_submodule(name))
        assert bool(dense.any())
        torch.testing.assert_close(record.hessian_grad, dense)
    alone = collect(mixture, ["grouped"], parts, needs=HESSIAN, loss=loss)["grouped"]
    torch.testing.assert_close(alone.hessian_grad, records["grouped"].hessian_grad)


def test_batches_that_come_once_are_kept(mixture: nn.Module, parts: list[Batch]) -> None:
    def once() -> Iterator[Batch]:
        yield from parts

    loss = functional.cross_entropy
    found = collect(mixture, ["out"], once(), needs=HESSIAN, loss=loss)["out"].require(
        "hessian_grad"
    )
    again = collect(mixture, ["out"], parts, needs=HESSIAN, loss=loss)["out"].require(
        "hessian_grad"
    )
    assert torch.equal(found, again)


def test_a_masked_weight_is_differentiated_as_it_is_used() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        batch = Batch(torch.randn(5, 3).double(), torch.tensor([0, 1, 1, 0, 1]))
    mask = torch.tensor([[0.0, 1, 1]]).expand(4, 3)
    with torch.no_grad():
        model[0].get_parameter("weight").mul_(mask)
    expected = plain_products(model, batch)["0"]
    prune.custom_from_mask(model[0], "weight", mask)  # type: ignore[no-untyped-call]
    record = collect(model, None, [batch], needs=HESSIAN, loss=functional.cross_entropy)["0"]
    torch.testing.assert_close(record.require("hessian_grad")[:, :, 0], expected)


def test_weights_shared_by_two_layers_count_once() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
        x = torch.randn(5, 3).double()
    model[2].weight = model[0].weight
    bias = model[2].bias.detach()

    def objective(weight: Tensor) -> Tensor:
        hidden = torch.tanh(functional.linear(x, weight, model[0].bias.detach()))
        return functional.mse_loss(functional.linear(hidden, weight, bias), x)

    weight = model[0].weight.detach()
    gradient = torch.autograd.functional.jacobian(objective, weight)  # type: ignore[no-untyped-call]
    _, expected = torch.autograd.functional.hvp(objective, weight, gradient)  # type: ignore[no-untyped-call]
    records = collect(model, None, [Batch(x, x)], needs=HESSIAN, loss=functional.mse_loss)
    for record in records.values():
        torch.testing.assert_close(record.require("hessian_grad")[:, :, 0], expected)


def test_a_loss_without_curvature_gives_zero() -> None:
    layer = nn.Linear(2, 2)
    loss = lambda output, target: output.mean()  # noqa: E731
    x = torch.ones(3, 2)
    record = collect(layer, None, [Batch(x, x)], needs=HESSIAN, loss=loss)[""]
    assert record.require("hessian_grad").tolist() == [[[0.0], [0.0]], [[0.0], [0.0]]]


class Attention(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fc, self.fused = nn.Linear(2, 2), fused

    def forward(self, x: Tensor) -> Any:
        values = self.fc(x)
        if self.fused:
            return functional.scaled_dot_product_attention(values, values, values)
        return (values @ values.transpose(-2, -1) * 2**-0.5).softmax(-1) @ values


def test_fused_attention_has_a_second_derivative() -> None:
    x = torch.randn(3, 1, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    found = []
    with torch.random.fork_rng(devices=[]):
        for fused in (True, False):
            torch.manual_seed(1)
            model = Attention(fused).double()
            batches = [Batch(x, x)]
            records = collect(model, None, batches, needs=HESSIAN, loss=functional.mse_loss)
            found.append(records["fc"].require("hessian_grad"))
    assert found[0].abs().max() > 0
    torch.testing.assert_close(*found)


def test_an_operation_without_second_derivative_is_named() -> None:
    class Aligned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.fc(x).transpose(0, 1).log_softmax(-1)
            lengths = torch.full((x.shape[0],), x.shape[1])
            target = torch.ones(x.shape[0], 1, dtype=torch.long)
            return functional.ctc_loss(scores, target, lengths, torch.ones_like(lengths))

    x = torch.ones(3, 4, 2)
    loss = lambda output, target: output  # noqa: E731
    with pytest.raises(UserError, match="cannot be differentiated twice"):
        collect(Aligned(), None, [Batch(x, x)], needs=HESSIAN, loss=loss)
