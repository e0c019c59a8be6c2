"""Gradients by Z, against gradients by hand on the full batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.statistics import Batch, collect

NEEDS = {"output_gradients", "outputs"}


def plain_gradients(model: Any, batch: Batch) -> dict[str, Tensor]:
    """Layer -> (n, o, positions): gradient of the summed loss by Z, the model written out."""
    z: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> Tensor:
        z[name] = value
        return value

    x = keep("conv", model.norm(model.conv(batch.inputs))).relu()
    x = torch.tanh(keep("depthwise", model.depthwise(x)))
    x = functional.silu(keep("grouped", model.grouped(x)))
    x = keep("up", model.up(x))
    x = keep("line", model.line(x.flatten(2))).relu()
    x = functional.softplus(keep("tokens", model.tokens(x.transpose(1, 2))))
    x = keep("out", model.out(x.mean(1)))
    loss = functional.cross_entropy(x, batch.target, reduction="sum")
    grads = torch.autograd.grad(loss, list(z.values()))
    maps = {
        "tokens": lambda g: g.transpose(1, 2),
        "out": lambda g: g.unsqueeze(2),
    }
    return {
        name: maps.get(name, lambda g: g.flatten(2))(grad)
        for name, grad in zip(z, grads, strict=True)
    }


def test_every_kind_of_layer(mixture: nn.Module, whole: Batch, parts: list[Batch]) -> None:
    expected = plain_gradients(mixture, whole)
    records = collect(mixture, None, parts, needs=NEEDS, loss=functional.cross_entropy)
    assert records.keys() == expected.keys()
    for name, record in records.items():
        assert bool(expected[name].any())
        torch.testing.assert_close(record.output_grad, expected[name].transpose(0, 1))


def test_samples_and_positions_are_those_of_z(mixture: nn.Module, parts: list[Batch]) -> None:
    """For a loss that is half the sum of squares of its only layer's output, dZ is Z."""
    layer: Any = mixture.conv
    data = [Batch(batch.inputs, batch.inputs) for batch in parts]
    loss = lambda output, target: output.square().flatten(1).sum(1).mean() / 2  # noqa: E731
    for model in (layer, nn.Sequential(layer, nn.Identity())):
        (record,) = collect(model, None, data, needs=NEEDS, loss=loss).values()
        assert record.require("output_grad").shape == (4, 10, 36)
        torch.testing.assert_close(record.output_grad, record.pre_activation)
        (alone,) = collect(model, None, data, needs={"output_gradients"}, loss=loss).values()
        assert torch.equal(alone.require("output_grad"), record.require("output_grad"))
        assert alone.pre_activation is None and alone.weight_grad is None


def test_an_output_that_the_loss_ignores_has_gradient_zero() -> None:
    class Ignored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Any:
            self.unused(x)
            return self.used(x)

    x = torch.ones(4, 2)
    records = collect(Ignored(), None, [Batch(x, x)], needs=NEEDS, loss=functional.mse_loss)
    assert records["unused"].require("output_grad").shape == (3, 4, 1)
    assert not records["unused"].require("output_grad").any()
    assert records["used"].require("output_grad").any()


def test_changes_in_place_behind_z_do_not_matter() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2).double()

        def forward(self, x: Tensor) -> Any:
            y = self.fc(x)
            y *= 3
            return y.tanh_()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Shifted(), torch.randn(4, 2).double()
    record = collect(model, None, [Batch(x, x)], needs=NEEDS, loss=functional.mse_loss)["fc"]
    z = model.fc(x).detach().requires_grad_()
    loss = (torch.tanh(z * 3) - x).square().mean(1).sum()
    (grad,) = torch.autograd.grad(loss, [z])
    torch.testing.assert_close(record.require("output_grad")[:, :, 0], grad.T)
