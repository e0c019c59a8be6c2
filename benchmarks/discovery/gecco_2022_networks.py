"""Three steps of pruning and retraining Caffe's LeNet on MNIST, as in the GECCO 2022 paper.

Liu, Kung and Wentzlaff, Evolving Transferable Neural Pruning Functions: the layers of each step are
scored and cut one after the other, each in the network that the cuts before it left.
"""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune import Metric, prune
from gp_prune.base.json_fields import canonical_digest
from gp_prune.language.primitive import builtin_primitives
from gp_prune.metric.file import Conventions
from gp_prune.pruning import measure
from gp_prune.search.start_formulas import load_formula
from gp_prune.statistics.running import derive_seed, random_state
from gp_prune.tasks.data import Split
from gp_prune.tasks.models import caffe_lenet
from gp_prune.tasks.training import random_batches
from gp_prune.training.checkpoint import copy_tensors, put_tensors

SETTINGS = Path(__file__).with_name("gecco_2022.toml")
WHOLE = {"conv1": 20, "conv2": 50, "linear1": 500}
LAYER = Conventions("layer", "none", "mean")
_SHAPE = (1, 28, 28)
_BATCH = 500


class Costs(NamedTuple):
    """What a network costs.

    Attributes:
        macs: multiply-accumulates per image.
        params: parameters.
        weights: parameters without the biases.
    """

    macs: int
    params: int
    weights: int


@dataclass(frozen=True)
class Protocol:
    """The settings of ``gecco_2022.toml``.

    Attributes:
        content: tables of the file.
    """

    content: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path = SETTINGS) -> Protocol:
        """Read the file."""
        return cls(tomllib.loads(path.read_text(encoding="utf-8")))

    @property
    def seeds(self) -> list[int]:
        """Return the seeds of the networks."""
        return list(self.content["network"]["seeds"])

    @property
    def steps(self) -> list[dict[str, int]]:
        """Return the width of each layer after each step."""
        widths = self.content["widths"]
        return [dict(zip(widths, step, strict=True)) for step in zip(*widths.values(), strict=True)]

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Return all metrics by name.

        Raises:
            UserError: a name or a formula is no metric.
        """
        formulas = self.content.get("formulas", {})
        names = [name for group in self.content["metrics"].values() for name in group]
        return {name: load_metric(name, formulas.get(name, name)) for name in names}

    def draws(self, metric: str) -> int:
        """Return with how many seeds a metric prunes and retrains each network."""
        return int(self.content["draws"].get(metric, 1))

    def cells(self) -> list[tuple[int, str, int]]:
        """List seed, metric and draw of all networks."""
        return [
            (seed, metric, draw)
            for seed in self.seeds
            for metric in self.metrics
            for draw in range(self.draws(metric))
        ]

    @property
    def digest(self) -> str:
        """Return a digest of all that decides the lines of a metric."""
        names = ("network", "widths", "scoring", "retraining")
        content = {name: self.content[name] for name in names}
        content["network"] = self.content["network"]["task"]
        return canonical_digest(json.loads(json.dumps(content)))[:12]


def load_metric(name: str, text: str) -> Metric:
    """Return a metric by a name, a path or a formula, under a name.

    Raises:
        UserError: it is no metric of channels.
    """
    primitives = builtin_primitives()
    if name != text and not text.endswith(".json"):
        return Metric.parse(text, name=name, primitives=primitives)
    return load_formula(text, primitives)


def build(widths: Mapping[str, int]) -> nn.Sequential:
    """Return an untrained network whose layers have these widths."""
    model = caffe_lenet(_SHAPE, 10)
    first, second, third = (widths[name] for name in WHOLE)
    model.conv1 = nn.Conv2d(1, first, 5)
    model.conv2 = nn.Conv2d(first, second, 5)
    model.linear1 = nn.Linear(16 * second, third)
    model.output = nn.Linear(third, 10)
    return model


def costs(widths: Mapping[str, int]) -> Costs:
    """Return what a network of these widths costs, by the counting of the package."""
    with random_state(0):
        model = build(widths)
    cost = measure(model, torch.zeros(1, *_SHAPE))
    biases = sum(p.numel() for name, p in model.named_parameters() if name.endswith("bias"))
    return Costs(cost.macs, cost.params, cost.params - biases)


def widths_of(model: nn.Module) -> dict[str, int]:
    """Return the widths of the layers that are cut."""
    return {name: len(model.get_parameter(f"{name}.weight")) for name in WHOLE}


def cut(
    model: nn.Module, metric: Metric, widths: Mapping[str, int], images: Split, seed: int
) -> nn.Module:
    """Return the network after one step, its layers scored and cut one after the other.

    Args:
        model: the network before the step; it stays as it is.
        metric: what scores; the lowest scores of a layer go.
        widths: layer -> channels that it keeps, in the order of the cuts.
        images: what is measured on.
        seed: of a metric's own noise.
    """
    parts = range(0, len(images), _BATCH)
    data = [(images.inputs[i : i + _BATCH], images.target[i : i + _BATCH]) for i in parts]
    for layer, width in widths.items():
        size = widths_of(model)[layer]
        if width == size:
            continue
        model = prune(
            model, metric, images.inputs[:1], data=data, loss=functional.cross_entropy,
            keep_channels=width / size, ignore=[other for other in widths if other != layer],
            min_share=0, conventions=LAYER, seed=seed, allow_ties=True,
        ).model  # fmt: skip
        if widths_of(model)[layer] != width:
            raise SystemExit(
                f"{layer} has {widths_of(model)[layer]} channels and is to have {width}: "
                f"{metric.name} does not rank it"
            )
    return model


def error(model: nn.Module, images: Split) -> float:
    """Return the percentage of images that are classified wrong."""
    wrong = 0
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            part = slice(start, start + _BATCH)
            output = model.eval()(_laid_out(images.inputs[part]))
            wrong += int(output.argmax(1).ne(images.target[part]).sum())
    return round(100 * wrong / len(images), 4)


def retrain(
    model: nn.Module, train: Split, validation: Split, settings: Mapping[str, Any], seed: int
) -> tuple[int, float]:
    """Train a network in place, with Adam at one learning rate and L2 in the gradient.

    The network is left as it was at the check with the least validation error.

    Args:
        model: what is trained.
        train: what it is trained on.
        validation: what it is judged on.
        settings: the table ``retraining``.
        seed: decides the order of the images.

    Returns:
        Number of the best check, from 1 on, and its validation error in percent.
    """
    optimiser = torch.optim.Adam(
        model.parameters(), lr=settings["learning_rate"], weight_decay=settings["weight_decay"]
    )
    batches = random_batches(len(train), settings["batch_size"], seed)
    between = settings["batches"] // settings["checks"]
    best, least, kept = 0, float("inf"), copy_tensors(model)
    for check in range(1, settings["checks"] + 1):
        model.train()
        for _ in range(between):
            chosen = next(batches)
            optimiser.zero_grad()
            output = model(_laid_out(train.inputs[chosen]))
            functional.cross_entropy(output, train.target[chosen]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        found = error(model, validation)
        if found < least:
            best, least, kept = check, found, copy_tensors(model)
    put_tensors(model, kept)
    return best, least


def for_training(model: nn.Module) -> nn.Module:
    """Return a copy with its weights laid out so that a processor trains it faster."""
    copied = copy.deepcopy(model)
    copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied


def seed_of(seed: int, draw: int, step: int) -> int:
    """Return the seed of one step; the same for all metrics."""
    return derive_seed(f"gecco 2022 {seed} {draw} {step}", bits=32)


def _laid_out(images: Tensor) -> Tensor:
    return images.to(memory_format=torch.channels_last)
