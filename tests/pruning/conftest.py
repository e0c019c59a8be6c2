"""Networks of every kind that pruning must handle, each traced once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gp_prune._compat import TorchvisionWarning, import_torchvision
from gp_prune.pruning import Architecture, Budget, ChannelPlan, trace
from gp_prune.pruning.plan.channels import Achieved

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def lenet(activation: str = "sigmoid") -> nn.Module:
    act = ACTIVATIONS[activation]
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), act(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), act(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 24), act(), nn.Linear(24, 18), act(), nn.Linear(18, 10),
    )  # fmt: skip


def cnn(activation: str = "relu") -> nn.Module:
    act = ACTIVATIONS[activation]
    layers: list[nn.Module] = []
    width = 3
    for out in (6, 8, 10):
        layers += [nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), act()]
        layers += [nn.AvgPool2d(2)]
        width = out
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(40, 12), nn.BatchNorm1d(12), act(), nn.Linear(12, 5)
    )


def mlp_autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 3), nn.Sigmoid(),
        nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 20), nn.Sigmoid(),
    )  # fmt: skip


class ConvAutoencoder(nn.Module):
    def __init__(self, static: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1), nn.Sigmoid(), nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6),
            nn.Tanh(), nn.Flatten(),
        )  # fmt: skip
        self.latent = nn.Linear(24, 3)
        self.grow = nn.Sequential(nn.Linear(3, 24), nn.BatchNorm1d(24), nn.Sigmoid())
        self.unflatten = nn.Unflatten(1, (6, 2, 2)) if static else None
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(6, 5, 4, 2, 1), nn.BatchNorm2d(5), nn.Sigmoid(),
            nn.ConvTranspose2d(5, 1, 4, 2, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        h = self.grow(self.latent(self.encoder(x)))
        h = self.unflatten(h) if self.unflatten else h.view(h.shape[0], -1, 2, 2)
        return torch.sigmoid(self.decoder(h))


class Joined(nn.Module):
    """A residual sum, a concatenation, a layer that is used twice, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.left = nn.Conv2d(6, 6, 3, padding=1)
        self.right = nn.Conv2d(6, 4, 1)
        self.norm = nn.BatchNorm2d(10)
        self.twice = nn.Conv2d(10, 10, 1)
        self.head = nn.Linear(10 * 4, 5)
        self.side = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        h = torch.sigmoid(self.stem(x))
        left, right = h + torch.tanh(self.left(h)), torch.sigmoid(self.right(h))
        h = torch.sigmoid(self.norm(torch.cat([left, right], 1)))
        h = torch.sigmoid(self.twice(torch.sigmoid(self.twice(h))))
        pooled = nn.functional.adaptive_avg_pool2d(h, 2).flatten(1)
        return self.head(pooled), {"side": self.side(right.mean((2, 3)))}


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.InstanceNorm2d(6, affine=True), nn.PReLU(6),
        nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6), nn.Sigmoid(),
        nn.Conv2d(6, 8, 1), nn.InstanceNorm2d(8, track_running_stats=True), nn.PReLU(),
        nn.ConvTranspose2d(8, 8, 3, groups=8), nn.Sigmoid(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 6, 3, padding=1), nn.BatchNorm1d(6), nn.Sigmoid(), nn.Conv1d(6, 5, 3),
        nn.Tanh(), nn.Flatten(), nn.Linear(5 * 8, 4),
    )  # fmt: skip


def conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.Sigmoid(), nn.MaxPool3d(2),
        nn.Flatten(), nn.Linear(4 * 8, 3),
    )  # fmt: skip


def partly_grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.Sigmoid(), nn.Conv2d(6, 6, 3, groups=2, padding=1),
        nn.Sigmoid(), nn.Conv2d(6, 5, 3), nn.Sigmoid(), nn.Conv2d(5, 4, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def grouped() -> nn.Module:
    """Grouped convolutions of every kind, some of which tie each other's channels."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(),
        nn.Conv2d(8, 12, 3, groups=4, padding=1), nn.BatchNorm2d(12), nn.Tanh(),
        nn.Conv2d(12, 8, 1), nn.Sigmoid(), nn.Conv2d(8, 12, 3, groups=2, bias=False), nn.Sigmoid(),
        nn.Conv2d(12, 6, 1), nn.Sigmoid(), nn.Conv2d(6, 12, 3, groups=6), nn.Sigmoid(),
        nn.Conv2d(12, 12, 1), nn.Sigmoid(), nn.ConvTranspose2d(12, 8, 3, groups=4), nn.Tanh(),
        nn.ConvTranspose2d(8, 6, 2, groups=2), nn.Sigmoid(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


class GroupedResidual(nn.Module):
    """Grouped convolutions inside a residual sum, in a concatenation and behind a reshaping."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 16)
        self.inner = nn.Conv1d(8, 8, 3, padding=1, groups=4)
        self.narrow = nn.Conv1d(8, 4, 1)
        self.joined = nn.Conv1d(12, 6, 1, groups=3)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.stem(x).view(x.shape[0], -1, 2))
        h = h + torch.sigmoid(self.inner(h))
        h = torch.cat([h, torch.sigmoid(self.narrow(h))], 1)
        return self.head(torch.tanh(self.joined(h)).mean(2))  # type: ignore[no-any-return]


def torchvision_model(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TorchvisionWarning)
            model: nn.Module = getattr(import_torchvision().models, name)(num_classes=10)
        return model

    return make


BUILDERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet": (lenet, (2, 1, 28, 28)),
    "cnn-relu": (lambda: cnn("relu"), (2, 3, 16, 16)),
    "cnn-sigmoid": (lambda: cnn("sigmoid"), (2, 3, 16, 16)),
    "cnn-tanh": (lambda: cnn("tanh"), (2, 3, 16, 16)),
    "mlp-autoencoder": (mlp_autoencoder, (3, 20)),
    "conv-autoencoder": (lambda: ConvAutoencoder(static=False), (2, 1, 8, 8)),
    "conv-autoencoder-unflatten": (lambda: ConvAutoencoder(static=True), (2, 1, 8, 8)),
    "joined": (Joined, (2, 3, 8, 8)),
    "depthwise": (depthwise, (2, 3, 8, 8)),
    "conv1d": (conv1d, (2, 2, 10)),
    "conv3d": (conv3d, (2, 1, 4, 4, 4)),
    "partly-grouped": (partly_grouped, (2, 3, 8, 8)),
    "grouped": (grouped, (2, 3, 8, 8)),
    "grouped-residual": (GroupedResidual, (2, 6)),
    "resnet18": (torchvision_model("resnet18"), (2, 3, 32, 32)),
    "mobilenet_v2": (torchvision_model("mobilenet_v2"), (2, 3, 32, 32)),
    "shufflenet_v2_x0_5": (torchvision_model("shufflenet_v2_x0_5"), (2, 3, 32, 32)),
    "vgg16_bn": (torchvision_model("vgg16_bn"), (1, 3, 32, 32)),
}


class Network(NamedTuple):
    model: nn.Module  # float64, evaluation mode, batch statistics away from their defaults
    inputs: Tensor
    architecture: Architecture


@cache
def build(name: str) -> Network:
    builder, shape = BUILDERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = builder()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                values = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
                for value in values:
                    if value.is_floating_point():
                        value.data.uniform_(0.5, 1.5)
        model = model.double().eval()
        inputs = torch.randn(shape, dtype=torch.float64)
    return Network(model, inputs, trace(model, inputs))


@pytest.fixture(scope="session")
def network() -> Callable[[str], Network]:
    """Name -> network, input and architecture; shared, so tests must copy before they change."""
    return build


@pytest.fixture(scope="session")
def fresh() -> Callable[..., nn.Module]:
    """(name, seed) -> an untraced float32 network."""

    def make(name: str, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return BUILDERS[name][0]()

    return make


@pytest.fixture(scope="session")
def random_plan() -> Callable[[Architecture, int], ChannelPlan]:
    """(architecture, seed) -> a plan that cuts a random part of every group that may be cut."""

    def make(architecture: Architecture, seed: int) -> ChannelPlan:
        rng = np.random.default_rng(seed)
        removed = {}
        for group in architecture.free:
            gone = rng.permutation(group.size)[: rng.integers(0, group.size)]
            if gone.size:
                removed[group.name] = tuple(np.sort(gone).tolist())
        return ChannelPlan(removed, Budget("channels", 0.5), Achieved(0.5, 0.5, 0.5))

    return make


@pytest.fixture(scope="session")
def weight_scores() -> Callable[[nn.Module, Architecture], dict[str, Tensor]]:
    """(model, architecture) -> random scores per weight (o, i, k) of every prunable layer."""

    def make(model: nn.Module, architecture: Architecture) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(3)
        scores = {}
        for name in architecture.prunable_layers:
            layer: Any = model.get_submodule(name)
            if isinstance(layer, nn.Linear):
                shape = (layer.out_features, layer.in_features, 1)
            else:
                shape = (layer.out_channels, layer.in_channels, int(np.prod(layer.kernel_size)))
            scores[name] = torch.randn(shape, generator=generator, dtype=torch.float64)
        return scores

    return make


@pytest.fixture(scope="session")
def channel_scores() -> Callable[[Architecture, int], dict[str, Tensor]]:
    """(architecture, seed) -> random scores (o,) of every layer that needs them."""

    def make(architecture: Architecture, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        widths = {m.layer: m.width for group in architecture.free for m in group.members}
        return {
            name: torch.randn(width, generator=generator, dtype=torch.float64)
            for name, width in widths.items()
        }

    return make
