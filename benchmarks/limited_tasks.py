"""Tasks on fewer images, so that a whole search by the naive loop ends while somebody waits."""

from __future__ import annotations

from dataclasses import dataclass

from gp_prune.runs.jobs import TaskSource
from gp_prune.tasks import Task


@dataclass(frozen=True)
class LimitedSource(TaskSource):
    """A source whose tasks have the first images of their training and validation splits.

    The splits stand in a random order. The networks are those of the whole task.

    Attributes:
        training: number of training images.
        judging: number of validation images.
    """

    training: int = 10_000
    judging: int = 5_000

    def load(self, name: str) -> Task:
        """Return the task of that name, limited."""
        task = super().load(name)
        train = task.train.select(slice(self.training))
        validation = task.validation.select(slice(self.judging))
        return Task(
            task.model, train, validation, task.test, name=task.name, kind=task.kind, keep=task.keep
        )
