"""Settings of fine-tuning, and its course epoch by epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from gp_prune.base.json_fields import check_type, read_object
from gp_prune.errors import SEED, UserError, check_fields, number, one_of, whole

LEARNING_RATES: dict[str, float] = {"sgd": 0.01, "adamw": 1e-3}
"""The highest learning rate of each optimiser where none is given."""

_RULES = {
    "epochs": whole(0),
    "batch_size": whole(1),
    "patience": whole(0),
    "seed": SEED,
    "weight_decay": number(least=0),
    "momentum": number(least=0, below=1),
    "warm_up": number(least=0, below=1),
    "averaging": number(least=0, below=1),
    "distill": number(least=0, most=1),
    "temperature": number(above=0),
    "optimiser": one_of(*LEARNING_RATES),
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
        decay: whether the learning rate falls after that; without, it stays at its highest.
        averaging: share of the moving average of the weights that stays in a step, such as 0.99;
            the average, which begins with the state after the first epoch, is what is judged and
            kept. 0 averages nothing.
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
    decay: bool = True
    averaging: float = 0.0
    distill: float = 0.0
    temperature: float = 4.0
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        rate = {} if self.learning_rate is None else {"learning_rate": number(above=0)}
        check_fields(self, _RULES | rate, " of fine-tuning")
        if self.nesterov and (self.optimiser != "sgd" or not self.momentum):
            raise UserError("nesterov needs the optimiser 'sgd' with a momentum; leave it out")

    @property
    def rate(self) -> float:
        """Return the highest learning rate."""
        known = LEARNING_RATES[self.optimiser]
        return known if self.learning_rate is None else self.learning_rate

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object, with the learning rate that is used."""
        return {**asdict(self), "learning_rate": self.rate}


def schedule(progress: float, warm_up: float, decay: bool = True) -> float:
    """Return the share of the highest learning rate at ``progress`` (0 to 1) of the training.

    It rises linearly from 0.1 to 1 during the warm-up, and falls to 0 as a cosine if it decays.
    """
    if progress < warm_up:
        return (0.1 * (warm_up - progress) + progress) / warm_up
    if not decay:
        return 1.0
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
        start_loss: training loss of the first mini-batch, before any step; None where nothing was
            trained.
    """

    start_error: float | None = None
    epochs: tuple[Epoch, ...] = ()
    best: int = 0
    stopped_early: bool = False
    start_loss: float | None = None

    @property
    def diverged(self) -> bool:
        """Return whether training made the network worse: at the end its loss is twice the first.

        With validation samples also none of the epochs was better than the state before.
        """
        if self.start_loss is None or not self.epochs:
            return False
        judged = self.epochs[-1].error is not None
        rose = self.epochs[-1].loss > 2 * self.start_loss
        return rose and (self.best == 0 or not judged)

    @property
    def best_error(self) -> float | None:
        """Return the validation error of the state that the network has."""
        return self.epochs[self.best - 1].error if self.best else self.start_error

    def to_json(self) -> dict[str, Any]:
        """Return the course as a JSON object."""
        return {
            "start_error": self.start_error,
            "epochs": [epoch._asdict() for epoch in self.epochs],
            "best": self.best,
            "stopped_early": self.stopped_early,
            "start_loss": self.start_loss,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> History:
        """Read what :meth:`to_json` wrote.

        Raises:
            UserError: a field is missing, unknown, of the wrong type or out of range.
        """
        if isinstance(data, dict):  # files from before the first loss was kept
            data = {"start_loss": None, **data}
        fields = read_object(data, "the history", {
            "start_error": object, "epochs": list, "best": int, "stopped_early": bool,
            "start_loss": object,
        })  # fmt: skip
        _check_error(fields["start_error"], "the first error")
        _check_error(fields["start_loss"], "the first loss")
        epochs = []
        for index, item in enumerate(fields["epochs"], start=1):
            epoch = read_object(item, f"epoch {index} of the history", {
                "number": int, "learning_rate": float, "loss": float, "error": object,
            })  # fmt: skip
            _check_error(epoch["error"], f"the error of epoch {index}")
            if epoch["number"] != index:
                raise UserError(f"epoch {index} of the history has number {epoch['number']}")
            epochs.append(Epoch(**epoch))
        if not 0 <= fields["best"] <= len(epochs):
            raise UserError(f"the best epoch of the history is {fields['best']}, which it has not")
        return cls(**{**fields, "epochs": tuple(epochs)})


def _check_error(error: Any, what: str) -> None:
    """Raise UserError unless an error in a file is None or a finite number."""
    if error is not None:
        check_type(error, float, what)
        if not math.isfinite(error):
            raise UserError(f"{what} is {error}; it must be finite")
