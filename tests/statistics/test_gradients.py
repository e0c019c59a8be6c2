"""Gradients of the mean loss over all samples, against an ordinary backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from gp_prune.errors import UserError
from gp_prune.statistics import Batch, collect
from gp_prune.statistics.layers import to_dense

GRADIENTS = {"gradients"}


def network() -> nn.Sequential:
    """Batch norm, none, grouped, transposed, without bias; in-place activations."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True),
            nn.Conv2d(4, 4, 1, groups=2, bias=False), nn.ReLU(True),
            nn.ConvTranspose2d(4, 2, 2), nn.BatchNorm2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(18, 3),
        ).double()  # fmt: skip
        model(torch.randn(9, 1, 4, 4).double() + 1)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
    return model.eval()


def data(samples: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(samples, 1, 4, 4, generator=generator).double()
    return images, torch.randint(0, 3, (samples,), generator=generator)


def batches(*cuts: int) -> list[Batch]:
    images, labels = data()
    parts = zip(images.tensor_split(cuts), labels.tensor_split(cuts), strict=True)
    return [Batch(part, classes) for part, classes in parts]


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 10), max_size=3).map(sorted))
def test_batches_of_any_size_give_the_gradient_of_the_full_batch(cuts: list[int]) -> None:
    model = network()
    records = collect(model, None, batches(*cuts), needs=GRADIENTS, loss=functional.cross_entropy)
    images, labels = data()
    functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    for name, norm in (("0", "1"), ("3", None), ("5", "6"), ("9", None)):
        record = records[name]
        layer: Any = model.get_submodule(name)
        dense = to_dense(layer.weight.grad, layer)
        torch.testing.assert_close(record.weight_grad, dense)
        if norm is not None:
            torch.testing.assert_close(record.gamma_grad, model.get_submodule(norm).weight.grad)
            torch.testing.assert_close(record.beta_grad, model.get_submodule(norm).bias.grad)
            continue
        torch.testing.assert_close(record.gamma_grad, (record.weight * dense).sum((1, 2)))
        bias = layer.bias.grad if layer.bias is not None else torch.zeros(4).double()
        torch.testing.assert_close(record.beta_grad, bias)


def test_a_batch_norm_without_scale_has_the_gradient_of_a_scale_of_one() -> None:
    bare: Any = network()
    learned: Any = network()
    for model in (bare, learned):
        model[1].weight.data.fill_(1)
        model[1].bias.data.fill_(0)
    bare[1].weight = bare[1].bias = None
    found, expected = (
        collect(m, ["0"], batches(3), needs=GRADIENTS | {"outputs"}, loss=functional.cross_entropy)
        for m in (bare, learned)
    )
    torch.testing.assert_close(found["0"].gamma_grad, expected["0"].gamma_grad)
    torch.testing.assert_close(found["0"].beta_grad, expected["0"].beta_grad)
    torch.testing.assert_close(found["0"].activation, expected["0"].activation)


def test_masked_and_reparametrised_weights_give_the_gradient_of_the_weight_in_use() -> None:
    expected: Any = network()
    masked, normed = network(), network()
    mask = torch.ones_like(masked[0].get_parameter("weight"))
    prune.custom_from_mask(masked[0], "weight", mask)  # type: ignore[no-untyped-call]
    parametrizations.weight_norm(normed[0])
    images, labels = data()
    functional.cross_entropy(expected(images), labels).backward()  # type: ignore[no-untyped-call]
    for model in (masked, normed):
        record = collect(
            model, ["0"], batches(4, 4), needs=GRADIENTS, loss=functional.cross_entropy
        )["0"]
        torch.testing.assert_close(
            record.weight_grad, to_dense(expected[0].weight.grad, expected[0])
        )


def test_a_shared_layer_sums_its_uses() -> None:
    layer = nn.Linear(2, 2).double()
    model, inputs = nn.Sequential(layer, nn.Tanh(), layer), torch.ones(3, 2).double()
    target = torch.zeros(3, 2).double()
    record = collect(
        model, None, [Batch(inputs, target)], needs=GRADIENTS, loss=functional.mse_loss
    )
    functional.mse_loss(model(inputs), target).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(record["0"].require("weight_grad")[..., 0], layer.weight.grad)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_frozen_and_where_gradients_are_off(mode: Any) -> None:
    expected = collect(network(), None, batches(), needs=GRADIENTS, loss=functional.cross_entropy)
    model = network().requires_grad_(False)
    with mode():
        images, labels = data()
        records = collect(
            model,
            None,
            [Batch(images, labels)],
            needs=GRADIENTS | {"inputs", "outputs"},
            loss=functional.cross_entropy,
        )
        assert not torch.is_grad_enabled()
    for name, record in records.items():
        torch.testing.assert_close(record.weight_grad, expected[name].weight_grad)
        assert not record.require("weight_grad").requires_grad
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_parameters_keep_their_own_gradients() -> None:
    model: Any = network()
    kept = torch.full_like(model[0].weight, 7)
    model[0].weight.grad = kept
    collect(model, None, batches(), needs=GRADIENTS, loss=functional.cross_entropy)
    assert model[0].weight.grad is kept and bool((kept == 7).all())
    assert model[3].weight.grad is None


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            return self.layer(x)


def test_losses_that_cannot_be_used_are_refused() -> None:
    ones = torch.ones(2, 1)
    for model, loss, message in (
        (Detached(), functional.mse_loss, "does not depend"),
        (nn.Linear(1, 1), lambda a, b: (a - b).square(), "single number"),
        (nn.Linear(1, 1), lambda a, b: (a - b).sum() / 0, "the loss is"),
    ):
        root = nn.Sequential(model)
        with pytest.raises(UserError, match=message):
            collect(root, None, [Batch(ones, ones)], needs=GRADIENTS, loss=loss)


def test_layers_the_loss_does_not_reach_have_a_gradient_of_zero() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(1, 1), nn.Linear(1, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.used(x), self.idle(x)

    ones = torch.ones(2, 1)
    records = collect(
        Fork(),
        None,
        [Batch(ones, ones)],
        needs=GRADIENTS,
        loss=lambda output, target: functional.mse_loss(output[0], target + 9),
    )
    assert records["used"].require("weight_grad").all()
    assert (
        not records["idle"].require("weight_grad").any()
        and not records["idle"].require("beta_grad").any()
    )
