from __future__ import annotations

import pytest
import torch
from torch import nn

from gp_prune.pruning import cost, trace
from gp_prune.statistics import prunable_layers
from gp_prune.tasks.models import (
    MODELS,
    autoencoder,
    caffe_lenet,
    cnn,
    lenet,
    mlp,
    mobilenet,
    resnet,
)

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MODELS)
def test_the_output_has_the_shape_that_the_task_needs(
    name: str, shape: tuple[int, int, int]
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS[name].build(shape, 10).eval()
        inputs = torch.rand(3, *shape)
    output = model(inputs)
    expected = (3, 10) if MODELS[name].kind == "classification" else inputs.shape
    assert output.shape == torch.Size(expected)
    assert set(MODELS[name].interface) <= set(prunable_layers(model))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(
            name,
            shape,
            marks=[pytest.mark.slow] if (name, shape) == ("autoencoder", (3, 32, 32)) else [],
        )
        for name in MODELS
        for shape in SHAPES
    ],
)
def test_all_hidden_channels_can_be_cut(name: str, shape: tuple[int, int, int]) -> None:
    kind = MODELS[name]
    model = kind.build(shape, 10).eval()
    architecture = trace(model, torch.zeros(1, *shape), interface=kind.interface)
    *hidden, _ = prunable_layers(model)
    cut = {member.layer for group in architecture.free for member in group.members}
    assert cut == set(hidden) - set(kind.interface)


def test_lenet_has_the_size_that_the_literature_gives() -> None:
    assert parameters(lenet((1, 28, 28), 10)) == 61_706
    assert parameters(lenet((3, 32, 32), 10)) == 62_006  # the network of PyTorch's own tutorial


def test_the_lenet_of_caffe_has_the_size_that_the_literature_gives() -> None:
    model = caffe_lenet((1, 28, 28), 10)
    assert parameters(model) == 431_080
    first, second = (model.get_parameter(f"conv{i}.weight").numel() for i in (1, 2))
    # Caffe's convolutions have no padding: 24x24 and 8x8 positions.
    assert cost.measure(model, torch.zeros(1, 1, 28, 28)).macs == (
        first * 24**2 + second * 8**2 + 800 * 500 + 500 * 10
    )


def test_the_perceptron_has_the_size_that_the_literature_gives() -> None:
    model = mlp((1, 28, 28), 10)
    assert parameters(model) == 266_610  # LeNet-300-100
    macs = cost.measure(model, torch.zeros(1, 1, 28, 28)).macs
    assert macs == 784 * 300 + 300 * 100 + 100 * 10


def test_the_widths_are_those_of_the_documentation() -> None:
    def widths(model: nn.Module) -> list[int]:
        return [len(model.get_parameter(f"{name}.weight")) for name in prunable_layers(model)]

    assert widths(lenet((1, 8, 8), 10)) == [6, 16, 120, 84, 10]
    assert widths(caffe_lenet((1, 8, 8), 10)) == [20, 50, 500, 10]
    assert widths(mlp((1, 8, 8), 10)) == [60, 20, 10]
    assert widths(cnn((1, 8, 8), 10)) == [8, 16, 16, 32, 10]
    assert widths(cnn((3, 32, 32), 10)) == [16, 32, 32, 64, 10]
    assert widths(resnet((1, 8, 8), 10)) == [8, 8, 8, 16, 16, 16, 32, 32, 32, 10]
    assert widths(mobilenet((3, 32, 32), 10)) == [16, 16, 32, 32, 32, 32, 64, 10]
    assert widths(autoencoder((1, 8, 8), 10)) == [48, 24, 12, 24, 48, 64]
    assert widths(autoencoder((1, 28, 28), 10)) == [128, 64, 32, 64, 128, 784]


def test_a_reconstruction_is_an_image_in_the_range_of_the_pixels() -> None:
    output = autoencoder((1, 8, 8), 10)(100 * torch.ones(1, 1, 8, 8))
    assert output.min() >= 0
    assert output.max() <= 1


def test_every_activation_is_a_module_of_its_own() -> None:
    for kind in MODELS.values():
        model = kind.build((1, 8, 8), 10)
        activations = [module for module in model.modules() if isinstance(module, nn.ReLU)]
        assert len(activations) == len({id(module) for module in activations}) >= 2
