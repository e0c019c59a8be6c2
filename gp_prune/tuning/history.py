"""What fine-tuning did, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


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
