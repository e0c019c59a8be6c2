"""Draw units to prune or to restore by the rank of their score: a metric as a mutation operator.

A cut by rank alone gives a population no diversity, and a uniform draw uses no information. The
temperature of a mutation interpolates between the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gp_prune.errors import DegenerateScores, UserError
from gp_prune.metric.file import check_ranks
from gp_prune.metric.metric import Metric

RANDOM = "random"
"""The name of the mutation that draws uniformly."""

DEFAULT_TEMPERATURE = 0.1
DEFAULT_AMOUNT = 0.1


@dataclass(frozen=True)
class MetricMutation:
    """Prune units that a metric scores low and restore units that it scores high.

    Among ``m`` candidates the one of rank ``r`` (0 for the lowest score when pruning, for the
    highest when restoring) has the weight ``exp(-r / (temperature * m))``; units are drawn without
    replacement in proportion to their weights. Equal scores are ordered at random in every draw.

    Attributes:
        metric: scores the units; None draws them uniformly.
        temperature: 0 always takes the first ranks, ``math.inf`` draws uniformly.
        amount: share of the units alive that one mutation removes, in (0, 1].

    Raises:
        UserError: temperature or amount is out of range.
    """

    metric: Metric | None
    temperature: float = DEFAULT_TEMPERATURE
    amount: float = DEFAULT_AMOUNT

    def __post_init__(self) -> None:
        if self.metric is not None:
            check_ranks(self.metric)
        if not self.temperature >= 0:
            raise UserError(
                f"the temperature of mutation {self.name!r} is {self.temperature}; "
                "it must be at least 0 (inf draws uniformly)"
            )
        if not 0 < self.amount <= 1:
            raise UserError(
                f"the amount of mutation {self.name!r} is {self.amount}; "
                "it is a share in (0, 1], for example 0.1"
            )

    @property
    def name(self) -> str:
        """Return the name of the metric, or ``"random"``."""
        return RANDOM if self.metric is None else self.metric.name

    @property
    def needs(self) -> frozenset[str]:
        """Return what the metric measures, keys of :data:`gp_prune.language.record.NEEDS`."""
        return frozenset() if self.metric is None else self.metric.needs

    @property
    def granularity(self) -> str | None:
        """Return ``"channel"`` or ``"weight"``; None where any units can be drawn."""
        return None if self.metric is None else self.metric.granularity

    def to_prune(
        self, scores: Tensor | None, alive: Tensor, count: int, generator: torch.Generator
    ) -> Tensor:
        """Draw units that are alive; low scores are more likely.

        Args:
            scores: (u,) a score per unit, higher = keep; None where there is no metric.
            alive: (u,) bool.
            count: how many to draw, at most as many as are alive.
            generator: a generator on the CPU.

        Returns:
            (count,) int64 indices of distinct units, on the device of ``alive``.

        Raises:
            DegenerateScores: the score of a unit that is alive is not finite, or the shapes differ.
            ValueError: fewer than ``count`` units are alive, or ``count`` is negative.
        """
        return self._draw(scores, alive, count, generator, 1.0)

    def to_restore(
        self, scores: Tensor | None, alive: Tensor, count: int, generator: torch.Generator
    ) -> Tensor:
        """Draw units that are not alive; high scores are more likely. See :meth:`to_prune`.

        Raises:
            DegenerateScores: the score of a unit that is not alive is not finite, or the shapes
                differ.
            ValueError: fewer than ``count`` units are not alive, or ``count`` is negative.
        """
        return self._draw(scores, ~alive, count, generator, -1.0)

    def _draw(
        self,
        scores: Tensor | None,
        candidates: Tensor,
        count: int,
        generator: torch.Generator,
        sign: float,
    ) -> Tensor:
        pool = candidates.cpu().nonzero().flatten()
        if not 0 <= count <= len(pool):
            raise ValueError(f"{count} units were asked for; there are {len(pool)} to draw from")
        # Equal scores must not be ordered by position, or every draw would take the same ones.
        ranked = pool[torch.randperm(len(pool), generator=generator)]
        if self.metric is not None and not math.isinf(self.temperature):
            values = sign * self._check_scores(scores, candidates)[ranked]
            ranked = ranked[values.argsort(stable=True)]
        return ranked[self._ranks(len(pool), generator)[:count]].to(candidates.device)

    def _ranks(self, size: int, generator: torch.Generator) -> Tensor:
        """Draw all ranks (size,) without replacement."""
        ranks = torch.arange(size)
        if self.metric is None or self.temperature in (0, math.inf):
            return ranks  # the pool is in random order already, or the lowest ranks are wanted
        # The unit whose exponential waiting time with rate weight ends first is drawn first
        # (the Gumbel top-k trick); in logarithms, because the weights underflow.
        waiting = torch.empty(size, dtype=torch.float64).exponential_(generator=generator).log()
        return (waiting + ranks / (self.temperature * size)).argsort(stable=True)

    def _check_scores(self, scores: Tensor | None, candidates: Tensor) -> Tensor:
        """Return the scores (u,) on the CPU in float64."""
        if scores is None or scores.shape != candidates.shape:
            shape = None if scores is None else tuple(scores.shape)
            detail = f"shape {shape} where {tuple(candidates.shape)} is needed"
            raise DegenerateScores("wrong-shape", self.name, detail)
        values = scores.detach().to("cpu", torch.float64)
        bad = int((~values[candidates.cpu()].isfinite()).sum())
        if bad:
            detail = f"{bad} of {int(candidates.sum())} values are NaN or infinite"
            raise DegenerateScores("non-finite", self.name, detail)
        return values


def random_mutation(amount: float = DEFAULT_AMOUNT) -> MetricMutation:
    """Return the mutation that draws uniformly, the baseline of every metric."""
    return MetricMutation(None, math.inf, amount)
