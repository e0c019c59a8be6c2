"""The networks of the built-in tasks: two LeNets, a small VGG with batch norm, an autoencoder.

Each is an ``nn.Sequential`` of named steps, so that it can be read from top to bottom and has no
code of its own; the names are those that plans, records and reports show.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

Kind = Literal["classification", "reconstruction"]
Shape = tuple[int, int, int]
"""Channels, height and width of one image."""

_SMALL_IMAGE = 16  # below this side, 5x5 kernels without padding leave nothing to pool


@dataclass(frozen=True)
class ModelKind:
    """One kind of network that tasks are made of.

    Attributes:
        build: makes the untrained network from an image shape and a number of classes.
        kind: what the network is trained for.
        interface: names of layers whose output channels other programs read and which are
            therefore never pruned (the network's output is kept in any case).
    """

    build: Callable[[Shape, int], nn.Module]
    kind: Kind
    interface: tuple[str, ...] = ()


def lenet(shape: Shape, classes: int) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) in its usual modern form: 6-16-120-84, ReLU, max pooling.

    Images of less than 16 pixels a side get 3x3 kernels with padding in place of the 5x5 ones.

    Args:
        shape: channels, height, width of an image; (1, 8, 8), (1, 28, 28) and (3, 32, 32) are used.
        classes: number of classes, the width of the output.
    """
    channels, height, width = shape
    if min(height, width) < _SMALL_IMAGE:
        kernel, first_padding, second_padding = 3, 1, 1
        positions = (height // 4) * (width // 4)
    else:
        # 28x28 images are padded to the 32x32 that LeNet was made for.
        kernel, first_padding, second_padding = 5, 2 if height < 32 else 0, 0
        positions = _after_two_stages(height, first_padding) * _after_two_stages(
            width, first_padding
        )
    steps: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(channels, 6, kernel, padding=first_padding)),
        ("relu1", nn.ReLU()),
        ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(6, 16, kernel, padding=second_padding)),
        ("relu2", nn.ReLU()),
        ("pool2", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
        ("linear1", nn.Linear(16 * positions, 120)),
        ("relu3", nn.ReLU()),
        ("linear2", nn.Linear(120, 84)),
        ("relu4", nn.ReLU()),
        ("output", nn.Linear(84, classes)),
    ]
    return nn.Sequential(OrderedDict(steps))


def caffe_lenet(shape: Shape, classes: int) -> nn.Sequential:
    """The LeNet of Caffe's examples, 20-50-500, which pruning papers use; ReLU, max pooling.

    On 28x28 images it has 431,080 parameters. Caffe's own has no ReLU after the convolutions.
    Images of less than 16 pixels a side get 3x3 kernels with padding in place of the 5x5 ones.

    Args:
        shape: channels, height, width of an image; (1, 8, 8), (1, 28, 28) and (3, 32, 32) are used.
        classes: number of classes, the width of the output.
    """
    channels, height, width = shape
    if min(height, width) < _SMALL_IMAGE:
        kernel, padding = 3, 1
        positions = (height // 4) * (width // 4)
    else:
        kernel, padding = 5, 0
        positions = _after_two_stages(height, 0) * _after_two_stages(width, 0)
    steps: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(channels, 20, kernel, padding=padding)),
        ("relu1", nn.ReLU()),
        ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(20, 50, kernel, padding=padding)),
        ("relu2", nn.ReLU()),
        ("pool2", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()),
        ("linear1", nn.Linear(50 * positions, 500)),
        ("relu3", nn.ReLU()),
        ("output", nn.Linear(500, classes)),
    ]
    return nn.Sequential(OrderedDict(steps))


def _after_two_stages(side: int, padding: int) -> int:
    """Side of LeNet's map after both 5x5 convolutions (the first one padded) and poolings."""
    return ((side + 2 * padding - 4) // 2 - 4) // 2


def cnn(shape: Shape, classes: int) -> nn.Sequential:
    """A small VGG (Simonyan and Zisserman 2015) with batch norm: 16-32-32-64, global average.

    Images of less than 16 pixels a side get half as many channels, because with more the network
    forgives almost any cut.

    Args:
        shape: channels, height, width of an image; each side at least 4.
        classes: number of classes, the width of the output.
    """
    channels, height, width = shape
    base = 8 if min(height, width) < _SMALL_IMAGE else 16
    steps: list[tuple[str, nn.Module]] = []
    for index, (share, pooled) in enumerate(((1, True), (2, False), (2, True), (4, False)), 1):
        width = share * base
        # Batch norm subtracts the mean, so a bias before it would do nothing.
        steps += [
            (f"conv{index}", nn.Conv2d(channels, width, 3, padding=1, bias=False)),
            (f"norm{index}", nn.BatchNorm2d(width)),
            (f"relu{index}", nn.ReLU()),
        ]
        if pooled:
            steps.append((f"pool{index}", nn.MaxPool2d(2)))
        channels = width
    steps += [
        ("average", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("output", nn.Linear(channels, classes)),
    ]
    return nn.Sequential(OrderedDict(steps))


def autoencoder(shape: Shape, classes: int) -> nn.Sequential:
    """A multilayer perceptron that squeezes an image through a narrow latent code and back.

    Widths for 8x8 digits: 64-48-24-12-24-48-64; for larger images: 128-64-32-64-128 between the
    pixels. The output goes through a sigmoid and has the shape of the input.

    Args:
        shape: channels, height, width of an image.
        classes: not used; it is here so that all kinds of network are built alike.
    """
    del classes
    pixels = shape[0] * shape[1] * shape[2]
    outer, inner, latent = (48, 24, 12) if pixels <= _SMALL_IMAGE**2 else (128, 64, 32)
    steps: list[tuple[str, nn.Module]] = [
        ("flatten", nn.Flatten()),
        ("encoder1", nn.Linear(pixels, outer)),
        ("relu1", nn.ReLU()),
        ("encoder2", nn.Linear(outer, inner)),
        ("relu2", nn.ReLU()),
        ("latent", nn.Linear(inner, latent)),
        ("decoder1", nn.Linear(latent, inner)),
        ("relu3", nn.ReLU()),
        ("decoder2", nn.Linear(inner, outer)),
        ("relu4", nn.ReLU()),
        ("output", nn.Linear(outer, pixels)),
        ("sigmoid", nn.Sigmoid()),
        ("image", nn.Unflatten(1, shape)),
    ]
    return nn.Sequential(OrderedDict(steps))


MODELS: dict[str, ModelKind] = {
    "lenet": ModelKind(lenet, "classification"),
    "cnn": ModelKind(cnn, "classification"),
    "autoencoder": ModelKind(autoencoder, "reconstruction", interface=("latent",)),
    "caffe_lenet": ModelKind(caffe_lenet, "classification"),
}
"""Every kind of network that a task name can start with."""
