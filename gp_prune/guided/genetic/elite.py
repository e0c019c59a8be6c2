"""A retrained network of a run, from which populations start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from gp_prune.guided.genetic.layout import Masks, Shares
from gp_prune.guided.genetic.plan import Plan
from gp_prune.guided.genetic.ratings import Ratings
from gp_prune.metric import Metric


@dataclass(eq=False)
class Elite:
    """A network of a run that was retrained, or the dense one.

    Attributes:
        number: 0 for the dense network.
        round: in which it was retrained; 0 for the dense network.
        masks: the genome.
        plan: what it removes.
        shares: what it keeps.
        weights: digest of its weights.
        error: validation error, on all samples.
        epochs: of retraining that it and its ancestors have had.
        parent: from which it was pruned.
        rate: measures the scores of its sites, when they are first wanted.
    """

    number: int
    round: int
    masks: Masks
    plan: Plan
    shares: Shares
    weights: str
    error: float
    epochs: int = 0
    parent: Elite | None = None
    rate: Callable[[Elite], Ratings] = field(default=lambda _: _unrated(), repr=False)
    _ratings: Ratings | None = field(default=None, repr=False)

    @property
    def ratings(self) -> Ratings:
        """The scores of its sites by all metrics."""
        if self._ratings is None:
            self._ratings = self.rate(self)
        return self._ratings

    def forget(self) -> None:
        """Let the scores go; they are measured again when they are wanted."""
        self._ratings = None

    def scores(self, metric: Metric | None, site: int) -> Tensor | None:
        """The scores (size,) of a site; None where there is no metric."""
        return None if metric is None else self.ratings.of(metric, site)


def _unrated() -> Ratings:
    raise AssertionError("an elite that is mutated by a metric must know how to rate its sites")
