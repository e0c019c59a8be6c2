"""The trained networks of benchmarks/statistics_fidelity.py, their data, and scores of them.

Nothing here needs more of gp_prune than version 0.1.0 of before the streamed statistics has, so
that the same file scores with both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from resnets import load_published, normalised, resnet20
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.language.record import LayerRecord
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.pruning import consumers, trace
from gp_prune.statistics import Batch, collect_each
from gp_prune.tasks.data import DataSet, load_data
from gp_prune.tasks.models import cnn, lenet

Scores = dict[str, dict[str, NDArray[np.float64]]]
"""Metric -> layer -> scores (o,)."""

CALIBRATION, BATCH = 512, 64
_TRAINING = 20_000
_VALIDATION = {"resnet20": 500}  # images; 1000 of the others
EPOCHS = {"lenet_fashion": 8, "cnn_fashion": 4, "depthwise_fashion": 8, "resnet_fashion": 2}


@dataclass(frozen=True)
class Subject:
    """A trained network and its data.

    Attributes:
        name: name of the network.
        model: in evaluation mode.
        images, labels: those of the training split, as the network expects them.
        validation: images and labels on which the pruned network is measured.
    """

    name: str
    model: Any
    images: Tensor
    labels: Tensor
    validation: tuple[Tensor, Tensor]

    def batches(self, seed: int) -> list[Batch]:
        """Return calibration images, chosen by ``seed`` from the training split."""
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))
        parts = order[:CALIBRATION].split(BATCH)  # type: ignore[no-untyped-call]
        return [Batch(self.images[p], self.labels[p], self.labels[p]) for p in parts]

    @torch.inference_mode()
    def accuracy(self, model: nn.Module) -> float:
        """Percent of the validation images that ``model`` classifies right."""
        right, (images, labels) = 0, self.validation
        for x, y in zip(images.split(250), labels.split(250), strict=True):  # type: ignore[no-untyped-call]
            right += int(model(x).argmax(1).eq(y).sum())
        return 100 * right / len(labels)


class MnistNet(nn.Module):
    """The network of the package ``ccexam``, with the names of its published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Any:
        """(n, 1, 28, 28) to the logits (n, 10)."""
        return self.classifier(self.features(x).flatten(1))


def depthwise() -> nn.Module:
    """Three depthwise separable convolutions with batch norm, as in MobileNet, on 28 x 28."""

    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
            nn.BatchNorm2d(before), nn.ReLU(),
            nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
        ]  # fmt: skip

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        *block(16, 32, 2), *block(32, 32, 1), *block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def _resnet() -> nn.Module:
    from gp_prune.tasks.models import resnet  # which the code of before does not have

    return resnet((1, 28, 28), 10)


def _mnist(images: Tensor) -> Tensor:
    return (images - 0.1307) / 0.3081


class Networks:
    """Builds the networks from published weights, or trains them once."""

    def __init__(
        self, data: Path, pretrained: Path, work: Path, epochs: Mapping[str, int] = EPOCHS
    ) -> None:
        """Prepare.

        Args:
            data: folder of torchvision's data sets.
            pretrained: folder with the published weights, see :meth:`load`.
            work: folder for what is trained here.
            epochs: name -> passes over the training images, where that is trained.
        """
        self._data, self._pretrained, self._work = data, pretrained, work
        self._epochs = epochs
        self._kinds: dict[str, tuple[str, Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
            "mnist_cnn": ("mnist", MnistNet, _mnist),
            "lenet_fashion": ("fashionmnist", lambda: lenet((1, 28, 28), 10), _mnist),
            "cnn_fashion": ("fashionmnist", lambda: cnn((1, 28, 28), 10), _mnist),
            "depthwise_fashion": ("fashionmnist", depthwise, _mnist),
            "resnet20": ("cifar10", lambda: resnet20()[0], normalised),
            "resnet_fashion": ("fashionmnist", _resnet, _mnist),
        }

    def names(self) -> tuple[str, ...]:
        """Return the names of the networks of benchmarks/statistics_fidelity.py."""
        return tuple(self._kinds)[:5]

    def load(self, name: str) -> Subject:
        """Return a network of a name; ``mnist.pth`` and ``resnet20-12fca82f.th`` are published."""
        data_name, build, normalise = self._kinds[name]
        data = load_data(data_name, self._data)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = build()
        if name == "resnet20":
            load_published(model, self._pretrained / "akamaster" / "resnet20-12fca82f.th")
        elif name == "mnist_cnn":
            file = self._pretrained / "ccexam" / "mnist.pth"
            model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        else:
            self._train(name, model, data, normalise)
        count = _VALIDATION.get(name, 1000)
        held = data.validation
        return Subject(
            name,
            model.eval(),
            normalise(data.train.inputs[:_TRAINING]),
            data.train.labels[:_TRAINING],
            (normalise(held.inputs[:count]), held.labels[:count]),
        )

    def _train(
        self, name: str, model: nn.Module, data: DataSet, normalise: Callable[[Tensor], Tensor]
    ) -> None:
        """Train with Adam, or read what was trained before."""
        file = self._work / f"{name}.pt"
        if file.exists():
            model.load_state_dict(torch.load(file, weights_only=True))
            return
        images, labels = normalise(data.train.inputs[:_TRAINING]), data.train.labels[:_TRAINING]
        steps = self._epochs[name] * len(labels) // 64
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generator = torch.Generator().manual_seed(1)
        for _ in range(steps):
            chosen = torch.randint(0, len(labels), (64,), generator=generator)
            optimizer.zero_grad()
            functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        torch.save(model.state_dict(), file)


def score(subject: Subject, sample: int, seed: int) -> Scores:
    """Return the scores of every bundled channel metric.

    Args:
        subject: the network.
        sample: seed that chooses the calibration images.
        seed: the seed that the statistics are given.
    """
    metrics = [m for m in map(Metric.load, bundled_metrics()) if m.granularity == "channel"]
    request: dict[str, Any] = {"needs": {need for m in metrics for need in m.needs}}
    if "expressions" in inspect.signature(collect_each).parameters:  # statistics are streamed
        request = {"expressions": [m.expression for m in metrics]}
    records = collect_each(
        subject.model, None, subject.batches(sample), loss=functional.cross_entropy, seed=seed,
        outgoing=consumers(trace(subject.model, subject.images[:1])), **request,
    )  # fmt: skip
    found: Scores = {m.name: {} for m in metrics}
    for layer, record in records:
        for metric in metrics:
            found[metric.name][layer] = _scores(metric, record)
    return found


def _scores(metric: Metric, record: LayerRecord) -> NDArray[np.float64]:
    return metric.scores(record).numpy()
