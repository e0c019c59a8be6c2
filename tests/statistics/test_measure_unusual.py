"""Unusual models, and input that cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.errors import UserError
from gp_prune.statistics import Batch, collect


def network() -> nn.Sequential:
    """Two convolutions named "conv" and "up", and what makes three classes of them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential()
        model.add_module("conv", nn.Conv2d(2, 3, 3))
        model.add_module("relu", nn.ReLU(inplace=True))
        model.add_module("up", nn.ConvTranspose2d(3, 3, 2))
        model.add_module("pool", nn.AdaptiveAvgPool2d(1))
        model.add_module("flat", nn.Flatten())
    return model


def data(samples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(samples, 2, 5, 5, generator=generator)
    return images, torch.randint(0, 3, (samples,), generator=generator)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, left: Tensor, right: Tensor) -> Any:
        return self.layer(left - right)


def test_several_inputs_by_position_and_by_name() -> None:
    model, (left, right) = TwoInputs(), torch.randn(2, 5, 2).unbind(0)
    expected = (left - right).double().T[..., None]
    for inputs in ((left, right), {"right": right, "left": left}):
        record = collect(model, None, [Batch(inputs)], needs={"inputs"})["layer"]
        torch.testing.assert_close(record.inputs, expected)


class Frames(nn.Module):
    """Folds three frames of a sample into the sample axis, and uses its layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)
        self.unused = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Any:
        return self.layer(self.layer(x.flatten(0, 1))).relu()


def test_folded_samples_and_layers_used_twice() -> None:
    model, images = Frames(), torch.randn(4, 3, 1, 2, 2)
    labels = torch.tensor([0, 1, 0, 1])
    records = collect(
        model,
        None,
        [Batch(images, None, labels)],
        needs={"inputs", "outputs", "labels"},
    )
    assert list(records) == ["layer"]  # the unused one is left out
    record = records["layer"]
    torch.testing.assert_close(record.inputs, images.double().reshape(1, 4, 12))
    with torch.no_grad():
        first = model.layer(images.flatten(0, 1))
        second = model.layer(first)
    both = torch.cat([first, second]).double()
    torch.testing.assert_close(record.require("mu")[0], both.mean())
    torch.testing.assert_close(record.activation, first.double().reshape(1, 4, 12))
    uses = torch.stack([first, second.relu()], 1).double().reshape(4, -1)
    torch.testing.assert_close(record.require("class_mean")[0, 1], uses[labels == 1].mean())
    assert record.require("class_count").tolist() == [2, 2]


def bad(model: nn.Module, batches: Any, needs: set[str], **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        collect(model, options.pop("layers", None), batches, needs=needs, **options)
    return str(caught.value)


def test_errors_name_thing_and_remedy() -> None:
    model, (images, labels) = network(), data(3)
    assert "no samples" in bad(model, [], {"inputs"})
    assert "no samples" in bad(model, [Batch(images[:0])], {"inputs"})
    assert "no class labels" in bad(model, [Batch(images)], {"labels"})
    assert "pass loss" in bad(model, [Batch(images)], {"gradients"})
    assert "no targets" in bad(model, [Batch(images)], {"gradients"}, loss=functional.cross_entropy)
    assert "one integer per sample" in bad(model, [Batch(images, None, labels[:2])], {"labels"})
    assert "one integer per sample" in bad(model, [Batch(images, None, labels - 5)], {"labels"})
    assert "Batch is expected" in bad(model, [(images, labels)], {"inputs"})
    assert "'missing'" in bad(model, (), set(), layers=["missing"])
    assert "'unused'" in bad(
        Frames(), [Batch(torch.ones(1, 3, 1, 2, 2))], {"inputs"}, layers=["unused"]
    )
    with pytest.raises(ValueError, match="unknown need 'luck'"):
        collect(model, None, (), needs={"luck"})
    with pytest.raises(ValueError, match="at least 1"):
        collect(model, None, (), max_memory=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_name_the_layer(value: float) -> None:
    images, labels = data(3)
    images[2, 0, 0, 0] = value
    for need in ("inputs", "outputs", "labels"):
        assert "'conv'" in bad(network(), [Batch(images, labels, labels)], {need})
    model: Any = network()
    with torch.no_grad():
        model.up.weight[0, 0] = value
    images, labels = data(3)
    assert "'up'" in bad(model, [Batch(images, labels, labels)], {"outputs"})
    assert "'up'" in bad(model, (), set())
    loss = functional.cross_entropy
    assert "the loss is" in bad(model, [Batch(images, labels)], {"gradients"}, loss=loss)


class Moody(nn.Module):
    """Takes another path when the data is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(1, 1)
        self.two = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Any:
        if x.sum() < 0:
            return self.two(self.one(self.one(x).relu()))
        return self.one(x).relu()


def test_another_path_on_a_later_batch_is_an_error() -> None:
    ones = torch.ones(2, 1)
    there = [Batch(ones), Batch(-ones)]
    assert "'one' ran more often on a later batch" in bad(Moody(), there, {"outputs"})


class Wavering(nn.Module):
    """Activates its layer's output on positive data alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        return y.relu() if x.sum() > 0 else y


def test_an_activation_that_does_not_come_is_an_error() -> None:
    ones = torch.ones(2, 1)
    assert "no activation followed layer 'layer'" in bad(
        Wavering(), [Batch(ones), Batch(-ones)], {"outputs"}
    )


def test_rows_that_are_no_samples_are_refused() -> None:
    model = nn.Sequential(nn.Unflatten(0, (3, 2)), nn.Flatten(1), nn.Linear(4, 1))
    assert "'2' runs on 3 rows where the batch has 6" in bad(
        model, [Batch(torch.ones(6, 2))], {"inputs"}
    )


def test_a_layer_that_returns_no_tensor_is_refused() -> None:
    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), self.bias

    assert "'0' returns tuple" in bad(
        nn.Sequential(Pair(1, 1)), [Batch(torch.ones(2, 1))], {"inputs"}
    )


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv1d(1, 2, 1)])
def test_a_sample_without_its_axis(layer: nn.Module) -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Any:
            return self.layer(x[0]).relu()

    inputs = torch.ones(1, 3) if isinstance(layer, nn.Linear) else torch.ones(1, 1, 3)
    record = collect(Single(), None, [Batch(inputs)], needs={"inputs", "outputs"})["layer"]
    expected = layer(inputs).detach().double().reshape(2, 1, -1)
    torch.testing.assert_close(record.pre_activation, expected)


def test_the_layer_may_be_called_by_keyword() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Any:
            return self.layer(input=x)

    inputs = torch.ones(3, 2)
    record = collect(Named(), None, [Batch(inputs)], needs={"inputs"})["layer"]
    assert torch.equal(record.require("inputs"), inputs.double().T.unsqueeze(-1))
