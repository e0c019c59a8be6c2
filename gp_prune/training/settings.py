"""What fine-tuning did, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from gp_prune.errors import UserError

LEARNING_RATES: dict[str, float] = {"sgd": 0.01, "adamw": 1e-3}
"""The highest learning rate of each optimiser where none is given."""

_Rule = tuple[Callable[[Any], bool], str]
_WHOLE, _NUMBER, _SHARE = (
    "must be a whole number, at least", "must be a number, at least 0", "must lie between 0 and 1",
)  # fmt: skip


def _whole(least: int) -> _Rule:
    return (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
        f"{_WHOLE} {least}",
    )


def _number(value: Any) -> bool:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and math.isfinite(value) and value >= 0


_RULES: dict[str, _Rule] = {
    "epochs": _whole(0),
    "batch_size": _whole(1),
    "patience": _whole(0),
    "seed": _whole(0),
    "weight_decay": (_number, _NUMBER),
    "momentum": (lambda value: _number(value) and value < 1, "must be at least 0 and less than 1"),
    "warm_up": (lambda value: _number(value) and value < 1, "must be at least 0 and less than 1"),
    "distill": (lambda value: _number(value) and value <= 1, _SHARE),
    "temperature": (lambda value: _number(value) and value > 0, "must be a number greater than 0"),
}


@dataclass(frozen=True)
class FineTuning:
    """Settings of :func:`gp_prune.training.fine_tune`.

    The learning rate rises linearly during the warm-up and falls to 0 as a cosine over the epochs.

    Attributes:
        epochs: passes over the training samples; 0 changes nothing.
        optimiser: ``"sgd"`` (with momentum) or ``"adamw"`` (Loshchilov and Hutter 2019).
        learning_rate: the highest learning rate; None stands for 0.01 (sgd) or 0.001 (adamw).
        momentum: of sgd.
        nesterov: whether the momentum of sgd is Nesterov's.
        weight_decay: of either optimiser; adamw's is decoupled.
        batch_size: samples per mini-batch; where batches are given they keep their size.
        warm_up: share of the training during which the learning rate rises.
        distill: share, from 0 to 1, of the loss that compares the outputs with those of the dense
            network instead of the target (Hinton et al. 2015).
        temperature: what the logits are divided by where they are compared.
        patience: epochs without a better validation error after which training ends; 0 = never.
        seed: decides the order of the samples (and the dropout, if the network has any).

    Raises:
        UserError: a value is out of range.
    """

    epochs: int = 10
    optimiser: str = "sgd"
    learning_rate: float | None = None
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    batch_size: int = 64
    warm_up: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        for name, (fits, rule) in _RULES.items():
            if not fits(getattr(self, name)):
                raise UserError(f"{name} of fine-tuning is {getattr(self, name)!r}; it {rule}")
        if self.optimiser not in LEARNING_RATES:
            known = " or ".join(map(repr, LEARNING_RATES))
            raise UserError(f"optimiser of fine-tuning is {self.optimiser!r}; it must be {known}")
        rate = self.learning_rate
        if rate is not None and not (_number(rate) and rate > 0):
            raise UserError(
                f"learning_rate of fine-tuning is {rate!r}; it must be a number greater than 0"
            )
        if self.nesterov and (self.optimiser != "sgd" or not self.momentum):
            raise UserError("nesterov needs the optimiser 'sgd' with a momentum; leave it out")

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        known = LEARNING_RATES[self.optimiser]
        return known if self.learning_rate is None else self.learning_rate

    def to_json(self) -> dict[str, Any]:
        """The settings as a JSON object, with the learning rate that is used."""
        return {**asdict(self), "learning_rate": self.rate}


def schedule(progress: float, warm_up: float) -> float:
    """Return the share of the highest learning rate at ``progress`` (0 to 1) of the training.

    It rises linearly from 0.1 to 1 during the warm-up, and falls to 0 as a cosine.
    """
    if progress < warm_up:
        return (0.1 * (warm_up - progress) + progress) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


class Epoch(NamedTuple):
    """One pass over the training samples.

    Attributes:
        number: counted from 1.
        learning_rate: of its first step.
        loss: mean training loss over its samples, while the network changed.
        error: on the validation samples after it; None where there are none.
    """

    number: int
    learning_rate: float
    loss: float
    error: float | None


@dataclass(frozen=True)
class History:
    """The course of a fine-tuning.

    Attributes:
        start_error: validation error before the first epoch; None without validation samples.
        epochs: what was done.
        best: number of the epoch whose state the network has, 0 for the state before the first;
            without validation samples the last.
        stopped_early: whether patience ended the training.
    """

    start_error: float | None = None
    epochs: tuple[Epoch, ...] = ()
    best: int = 0
    stopped_early: bool = False

    @property
    def best_error(self) -> float | None:
        """Validation error of the state that the network has."""
        return self.epochs[self.best - 1].error if self.best else self.start_error

    def to_json(self) -> dict[str, Any]:
        """The course as a JSON object."""
        return {
            "start_error": self.start_error,
            "epochs": [epoch._asdict() for epoch in self.epochs],
            "best": self.best,
            "stopped_early": self.stopped_early,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> History:
        """Read what :meth:`to_json` wrote.

        Raises:
            LookupError, TypeError: it is something else.
        """
        epochs = tuple(Epoch(**epoch) for epoch in data["epochs"])
        return cls(data["start_error"], epochs, data["best"], data["stopped_early"])
