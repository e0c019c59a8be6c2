"""Build the networks of the tasks: LeNets, perceptrons, and a small VGG, ResNet and MobileNet.

Each is an ``nn.Sequential`` of named steps, so that it can be read from top to bottom; the names
are those that plans, records and reports show.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

Kind = Literal["classification", "regression", "reconstruction", "language"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PREDICTED: dict[str, str] = {"regression": "numbers", "language": "tokens"}
"""What networks of a kind predict that images do not have."""
Shape = tuple[int, int, int]
"""Channels, height and width of one image."""
Steps = list[tuple[str, nn.Module]]

_SMALL_IMAGE = 16  # below this side, 5x5 kernels without padding leave nothing to pool


@dataclass(frozen=True)
class ModelKind:
    """One kind of network.

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
    """Build LeNet-5 (LeCun et al. 1998) in its usual modern form: 6-16-120-84, ReLU, max pooling.

    Images of less than 16 pixels a side get 3x3 kernels with padding in place of the 5x5 ones.

    Args:
        shape: channels, height, width of an image; (1, 8, 8), (1, 28, 28) and (3, 32, 32) are used.
        classes: number of classes, the width of the output.
    """
    # 28x28 images are padded to the 32x32 of the paper.
    steps, features = _convolutions(shape, (6, 16), 2 if shape[1] < 32 else 0)
    steps += [
        ("linear1", nn.Linear(features, 120)),
        ("relu3", nn.ReLU()),
        ("linear2", nn.Linear(120, 84)),
        ("relu4", nn.ReLU()),
        ("output", nn.Linear(84, classes)),
    ]
    return nn.Sequential(OrderedDict(steps))


def caffe_lenet(shape: Shape, classes: int) -> nn.Sequential:
    """Build the LeNet of Caffe's examples, 20-50-500, which pruning papers use.

    On 28x28 images it has 431,080 parameters. Caffe's own has no ReLU after the convolutions;
    this one has. Images of less than 16 pixels a side get 3x3 kernels with padding in place of the
    5x5 ones.

    Args:
        shape: channels, height, width of an image; (1, 8, 8), (1, 28, 28) and (3, 32, 32) are used.
        classes: number of classes, the width of the output.
    """
    steps, features = _convolutions(shape, (20, 50), 0)
    steps += [
        ("linear1", nn.Linear(features, 500)),
        ("relu3", nn.ReLU()),
        ("output", nn.Linear(500, classes)),
    ]
    return nn.Sequential(OrderedDict(steps))


def mlp(shape: Shape, classes: int) -> nn.Sequential:
    """Build LeNet-300-100 (LeCun et al. 1998), two hidden layers with ReLU, as pruning papers do.

    On 28x28 images it has 266,610 parameters. Images of less than 16 pixels a side get a fifth as
    many units, because with more the network forgives almost any cut.

    Args:
        shape: channels, height, width of an image.
        classes: number of classes, the width of the output.
    """
    pixels = shape[0] * shape[1] * shape[2]
    first, second = (60, 20) if min(shape[1:]) < _SMALL_IMAGE else (300, 100)
    steps: Steps = [
        ("flatten", nn.Flatten()),
        ("linear1", nn.Linear(pixels, first)),
        ("relu1", nn.ReLU()),
        ("linear2", nn.Linear(first, second)),
        ("relu2", nn.ReLU()),
        ("output", nn.Linear(second, classes)),
    ]
    return nn.Sequential(OrderedDict(steps))


def _convolutions(shape: Shape, widths: tuple[int, int], padding: int) -> tuple[Steps, int]:
    """Return the convolutions and poolings of a LeNet, and the number of features after them."""
    channels, *sides = shape
    kernel, *paddings = (3, 1, 1) if min(sides) < _SMALL_IMAGE else (5, padding, 0)
    steps: Steps = []
    for number, (width, around) in enumerate(zip(widths, paddings, strict=True), 1):
        steps += [
            (f"conv{number}", nn.Conv2d(channels, width, kernel, padding=around)),
            (f"relu{number}", nn.ReLU()),
            (f"pool{number}", nn.MaxPool2d(2)),
        ]
        channels, sides = width, [(side + 2 * around - kernel + 1) // 2 for side in sides]
    return [*steps, ("flatten", nn.Flatten())], channels * sides[0] * sides[1]


def cnn(shape: Shape, classes: int) -> nn.Sequential:
    """Build a small VGG (Simonyan and Zisserman 2015) with batch norm: 16-32-32-64.

    Images of less than 16 pixels a side get half as many channels, because with more the network
    forgives almost any cut.

    Args:
        shape: channels, height, width of an image; each side at least 4.
        classes: number of classes, the width of the output.
    """
    channels, height, width = shape
    base = 8 if min(height, width) < _SMALL_IMAGE else 16
    steps: Steps = []
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
    return nn.Sequential(OrderedDict([*steps, *_head(channels, classes)]))


def autoencoder(shape: Shape, classes: int) -> nn.Sequential:
    """Build a multilayer perceptron that maps an image to a narrow latent code and back.

    Widths for 8x8 digits: 64-48-24-12-24-48-64; for larger images: 128-64-32-64-128 between the
    pixels. The output goes through a sigmoid and has the shape of the input.

    Args:
        shape: channels, height, width of an image.
        classes: not used; it is here so that all kinds of network are built alike.
    """
    del classes
    pixels = shape[0] * shape[1] * shape[2]
    outer, inner, latent = (48, 24, 12) if pixels <= _SMALL_IMAGE**2 else (128, 64, 32)
    steps: Steps = [
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


class Residual(nn.Module):
    """A residual block of He et al. (2016): ``relu(body(x) + shortcut(x))``.

    The body is two 3x3 convolutions with batch norm. The shortcut is the identity, or a 1x1
    convolution with batch norm where the number of channels changes ("option B").
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        """Build a block.

        Args:
            before: channels of the input.
            after: channels of the output.
            stride: of the first convolution and of the shortcut.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        steps: Steps = []
        if (before, stride) != (after, 1):
            steps = [
                ("conv", nn.Conv2d(before, after, 1, stride, bias=False)),
                ("norm", nn.BatchNorm2d(after)),
            ]
        self.shortcut = nn.Sequential(OrderedDict(steps))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) to (n, after, h / stride, w / stride), rounded up."""
        inner = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        output: Tensor = self.relu2(inner + self.shortcut(x))
        return output


def resnet(shape: Shape, classes: int) -> nn.Sequential:
    """Build a small ResNet (He et al. 2016): one residual block each with 16, 32 and 64 channels.

    Images of less than 16 pixels a side get half as many channels.

    Args:
        shape: channels, height, width of an image; each side at least 4.
        classes: number of classes, the width of the output.
    """
    base, steps = _stem(shape)
    steps += [
        ("block1", Residual(base, base, 1)),
        ("block2", Residual(base, 2 * base, 2)),
        ("block3", Residual(2 * base, 4 * base, 2)),
    ]
    return nn.Sequential(OrderedDict([*steps, *_head(4 * base, classes)]))


def mobilenet(shape: Shape, classes: int) -> nn.Sequential:
    """Build a small MobileNet (Howard et al. 2017): 16 channels, then 32-32-64 depthwise separable.

    Each separable block is a depthwise 3x3 convolution and a 1x1 convolution, both with batch norm
    and ReLU. Images of less than 16 pixels a side get half as many channels.

    Args:
        shape: channels, height, width of an image; each side at least 4.
        classes: number of classes, the width of the output.
    """
    base, steps = _stem(shape)
    before = base
    for index, (after, stride) in enumerate(((2 * base, 2), (2 * base, 1), (4 * base, 2)), 1):
        depthwise = nn.Conv2d(before, before, 3, stride, padding=1, groups=before, bias=False)
        steps += [
            (f"depthwise{index}", depthwise),
            (f"depthwise_norm{index}", nn.BatchNorm2d(before)),
            (f"depthwise_relu{index}", nn.ReLU()),
            (f"pointwise{index}", nn.Conv2d(before, after, 1, bias=False)),
            (f"pointwise_norm{index}", nn.BatchNorm2d(after)),
            (f"pointwise_relu{index}", nn.ReLU()),
        ]
        before = after
    return nn.Sequential(OrderedDict([*steps, *_head(before, classes)]))


def _stem(shape: Shape) -> tuple[int, Steps]:
    """Return the channels of the first convolution, and the first steps: it, batch norm, ReLU."""
    channels, height, width = shape
    base = 8 if min(height, width) < _SMALL_IMAGE else 16
    return base, [
        ("conv", nn.Conv2d(channels, base, 3, padding=1, bias=False)),
        ("norm", nn.BatchNorm2d(base)),
        ("relu", nn.ReLU()),
    ]


def _head(channels: int, classes: int) -> Steps:
    """Return the last steps of a convolutional classifier: channel means and a linear layer."""
    return [
        ("average", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("output", nn.Linear(channels, classes)),
    ]


MODELS: dict[str, ModelKind] = {
    "lenet": ModelKind(lenet, "classification"),
    "cnn": ModelKind(cnn, "classification"),
    "autoencoder": ModelKind(autoencoder, "reconstruction", interface=("latent",)),
    "caffe_lenet": ModelKind(caffe_lenet, "classification"),
    "resnet": ModelKind(resnet, "classification"),
    "mobilenet": ModelKind(mobilenet, "classification"),
    "mlp": ModelKind(mlp, "classification"),
}
"""Every kind of network that a task name can start with."""
