"""Networks that took no part in any search, nor in the choice of its settings or winners.

A VGG-like network, one with concatenation (as DenseNet), one of depthwise convolutions (as
MobileNet), a convolutional autoencoder, and the published ResNet-56. The published ResNet-20 is
here for searches. The networks of the first tables were trained from seed 0, those of the second
from seed 1, those of the third from seeds 2 and 3.
Train all but the published ones once, then name any of them wherever a task is named::

    python benchmarks/discovery/transfer_networks.py
    gp-prune compare l1 --on benchmarks/discovery/transfer_networks.py:vgg_1 --split test

Data sets are read from the cache folder of gp-prune; weights from the folder that the environment
variable GP_PRUNE_TRANSFER names, by default runs/transfer.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune import Task
from gp_prune.tasks.cifar_resnet import CifarResNet
from gp_prune.tasks.data import DataSet, load_data, user_folder

TRAINING, VALIDATION, TEST = 10_000, 300, 1_000
"""Images of each part that a task holds; the networks are trained on all training images."""
DEEP_TEST = 500
"""Test images of ResNet-56, whose forward pass takes 15 times as long as the others'."""
BATCH = 64
TRAINED = {
    "vgg": (0, 1, 2, 3), "dense": (0, 1, 2, 3), "conv_autoencoder": (0, 1, 2, 3),
    "depthwise": (1, 2, 3),
}  # fmt: skip
"""Name -> seeds of the networks."""
EPOCHS = {"vgg": 4, "dense": 4, "conv_autoencoder": 6, "depthwise": 4}
SETS = {
    "vgg": "cifar10", "dense": "fashionmnist", "conv_autoencoder": "fashionmnist",
    "depthwise": "fashionmnist",
}  # fmt: skip
PUBLISHED = Path("pretrained") / "akamaster"


def _convolution(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]


def build_vgg() -> nn.Module:
    """Return six convolutions with batch norm and two linear layers, as VGG, for 3 x 32 x 32."""
    return nn.Sequential(
        *_convolution(3, 16), *_convolution(16, 16), nn.MaxPool2d(2),
        *_convolution(16, 32), *_convolution(32, 32), nn.MaxPool2d(2),
        *_convolution(32, 64), *_convolution(64, 64), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


class _DenseLayer(nn.Module):
    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(before)
        self.convolution = nn.Conv2d(before, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.convolution(torch.relu(self.norm(x)))], 1)


def build_dense(growth: int = 8, layers: int = 3) -> nn.Module:
    """Return three blocks of layers that read all earlier ones, as DenseNet, for 1 x 28 x 28."""
    parts: list[nn.Module] = [nn.Conv2d(1, 16, 3, 2, 1, bias=False)]
    width = 16
    for block in range(3):
        for _ in range(layers):
            parts.append(_DenseLayer(width, growth))
            width += growth
        if block < 2:
            parts += [
                nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False),
                nn.AvgPool2d(2),
            ]  # fmt: skip
            width //= 2
    return nn.Sequential(
        *parts, nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, 10),
    )  # fmt: skip


def build_conv_autoencoder() -> nn.Module:
    """Return an autoencoder of convolutions and transposed convolutions for 1 x 28 x 28."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1),
    )  # fmt: skip


def build_depthwise() -> nn.Module:
    """Return five depthwise and five pointwise convolutions, as MobileNet, for 1 x 28 x 28."""
    parts: list[nn.Module] = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for before, after, stride in ((16, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1)):
        parts += [
            nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
            nn.BatchNorm2d(before), nn.ReLU(),
            nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
        ]  # fmt: skip
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "vgg": build_vgg, "dense": build_dense, "conv_autoencoder": build_conv_autoencoder,
    "depthwise": build_depthwise,
}  # fmt: skip


def vgg() -> Task:
    """Return the VGG-like network on CIFAR-10."""
    return _task("vgg", 0)


def dense() -> Task:
    """Return the network with concatenation on FashionMNIST."""
    return _task("dense", 0)


def conv_autoencoder() -> Task:
    """Return the convolutional autoencoder on FashionMNIST."""
    return _task("conv_autoencoder", 0)


def vgg_1() -> Task:
    """Return the VGG-like network on CIFAR-10, trained from seed 1."""
    return _task("vgg", 1)


def dense_1() -> Task:
    """Return the network with concatenation on FashionMNIST, trained from seed 1."""
    return _task("dense", 1)


def conv_autoencoder_1() -> Task:
    """Return the convolutional autoencoder on FashionMNIST, trained from seed 1."""
    return _task("conv_autoencoder", 1)


def depthwise_1() -> Task:
    """Return the network of depthwise convolutions on FashionMNIST, trained from seed 1."""
    return _task("depthwise", 1)


def vgg_2() -> Task:
    """Return the VGG-like network on CIFAR-10, trained from seed 2."""
    return _task("vgg", 2)


def dense_2() -> Task:
    """Return the network with concatenation on FashionMNIST, trained from seed 2."""
    return _task("dense", 2)


def conv_autoencoder_2() -> Task:
    """Return the convolutional autoencoder on FashionMNIST, trained from seed 2."""
    return _task("conv_autoencoder", 2)


def depthwise_2() -> Task:
    """Return the network of depthwise convolutions on FashionMNIST, trained from seed 2."""
    return _task("depthwise", 2)


def vgg_3() -> Task:
    """Return the VGG-like network on CIFAR-10, trained from seed 3."""
    return _task("vgg", 3)


def dense_3() -> Task:
    """Return the network with concatenation on FashionMNIST, trained from seed 3."""
    return _task("dense", 3)


def conv_autoencoder_3() -> Task:
    """Return the convolutional autoencoder on FashionMNIST, trained from seed 3."""
    return _task("conv_autoencoder", 3)


def depthwise_3() -> Task:
    """Return the network of depthwise convolutions on FashionMNIST, trained from seed 3."""
    return _task("depthwise", 3)


def resnet20() -> Task:
    """Return Idelbayev's ResNet-20 for CIFAR-10, on which winners may be chosen."""
    return _published("resnet20", 3, "resnet20-12fca82f.th")


def resnet20_search() -> Task:
    """Return the same with 250 images of each part, so that a candidate costs less."""
    return _published("resnet20", 3, "resnet20-12fca82f.th", training=250, validation=250)


def resnet56() -> Task:
    """Return Idelbayev's ResNet-56 for CIFAR-10."""
    return _published("resnet56", 9, "resnet56-4bfd9763.th", training=256)


def _published(
    name: str, blocks: int, file: str, *, training: int = TRAINING, validation: int = VALIDATION
) -> Task:
    model = CifarResNet(blocks, normalise=True)
    path = user_folder(None, "data") / PUBLISHED / file
    entries = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict({n.removeprefix("module."): value for n, value in entries.items()})
    return _with_data(model.eval(), name, load_data("cifar10"), DEEP_TEST, training, validation)


def _task(name: str, seed: int) -> Task:
    model = BUILDERS[name]()
    path = weights_file(name, seed)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return _with_data(model.eval(), name, load_data(SETS[name]), TEST)


def _with_data(
    model: nn.Module,
    name: str,
    data: DataSet,
    test: int,
    training: int = TRAINING,
    validation: int = VALIDATION,
) -> Task:
    """Return a task on a part of the images; the test images are read when they are asked for."""
    repeats = name == "conv_autoencoder"

    def pairs(split: Any, count: int) -> tuple[Tensor, Tensor]:
        images = split.inputs[:count]
        return images, images if repeats else split.labels[:count]

    return Task(
        model,
        pairs(data.train, training),
        pairs(data.validation, validation),
        lambda: pairs(data.read_test(), test),
        name=name,
        kind="reconstruction" if repeats else "classification",
    )


def weights_file(name: str, seed: int) -> Path:
    """Return the file with the weights of a network."""
    return Path(os.environ.get("GP_PRUNE_TRANSFER", "runs/transfer")) / f"{name}_{seed}.pt"


def train(name: str, seed: int) -> None:
    """Train a network once and keep its weights; print its validation error."""
    file = weights_file(name, seed)
    if file.exists():
        return
    data = load_data(SETS[name])
    images, labels = data.train.inputs, data.train.labels
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BUILDERS[name]()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    repeats = name == "conv_autoencoder"
    steps = EPOCHS[name] * len(labels) // BATCH
    optimiser = torch.optim.Adam(model.parameters(), weight_decay=0.0 if repeats else 1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, steps)
    for _ in range(steps):
        chosen = torch.randint(0, len(labels), (BATCH,), generator=generator)
        x = images[chosen].contiguous(memory_format=torch.channels_last)
        if name == "vgg" and torch.rand((), generator=generator) < 0.5:
            x = x.flip(3)
        output = model(x)
        loss = (
            functional.mse_loss(output, x)
            if repeats
            else functional.cross_entropy(output, labels[chosen])
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    file.parent.mkdir(parents=True, exist_ok=True)
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    torch.save({key: value.contiguous() for key, value in model.state_dict().items()}, file)
    error = _task(name, seed).dense_error
    print(f"{name}, seed {seed}: validation error {error:.4f}", flush=True)


def main() -> None:
    """Train the networks that are not there, of all seeds or of those that are given."""
    parser = argparse.ArgumentParser(description="Train the networks that are not there.")
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2, 3))
    wanted = set(parser.parse_args().seeds)
    torch.set_num_threads(1)
    for name, seeds in TRAINED.items():
        for seed in sorted(wanted.intersection(seeds)):
            train(name, seed)


if __name__ == "__main__":
    main()
