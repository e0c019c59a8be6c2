"""What a search minimises: named objectives, and how the errors of many networks become one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gp_prune.errors import UserError, brief

Objectives = tuple[float, ...]
"""One value for each objective of a search, in its order; all are minimised."""

WORST_ERROR = 2.0
"""Relative errors end here (1 is the trivial guess), so that a network that fine-tuning blew up
is bad but finite."""

ERRORS = ("error", "tuned_error")
COSTS = ("macs", "params")
SIZE = "size"
LATENCY = "latency"

MEANINGS: dict[str, str] = {
    "error": "validation error right after pruning, with the batch-norm statistics measured again",
    "tuned_error": "validation error after fine_tune_steps mini-batches of fine-tuning",
    "macs": "share of the MACs that is kept, at budgets of another kind",
    "params": "share of the parameters that is kept, at budgets of another kind",
    "latency": "time of a forward pass as a share of that of the dense network, measured",
    "size": "number of nodes of the formula",
}
"""Every objective that a search can have, in the order in which their values stand; an error is
always the first."""

_MOST_WEIGHT = 1000.0


@dataclass(frozen=True)
class Objective:
    """One of the values that a search minimises.

    Attributes:
        name: one of :data:`MEANINGS`.
        weight: how much a distance along this objective counts, relative to the others, when
            candidates of one front are chosen for being far from each other.
    """

    name: str
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read ``NAME`` or ``NAME:WEIGHT``.

        Raises:
            UserError: there is no such objective, or the weight is no positive number.
        """
        name, colon, weight = (part.strip() for part in text.partition(":"))
        if name not in MEANINGS:
            close = difflib.get_close_matches(name, MEANINGS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UserError(
                f"objective {brief(name)} is unknown{hint}; choose among {', '.join(MEANINGS)}"
            )
        if not colon:
            return cls(name)
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        if not 0 < value <= _MOST_WEIGHT:
            raise UserError(
                f"the weight of objective {name!r} is {brief(weight)}; it must be a number greater "
                f"than 0 and at most {_MOST_WEIGHT:g}, for instance {name}:2"
            )
        return cls(name, value)

    def __str__(self) -> str:
        """Return the text that :meth:`parse` reads."""
        return self.name if self.weight == 1 else f"{self.name}:{self.weight!r}"


def parse_objectives(texts: Iterable[str]) -> tuple[Objective, ...]:
    """Read the objectives of a search in any order, and check that they can be searched together.

    Returns:
        The objectives in the order of :data:`MEANINGS`.

    Raises:
        UserError: one is unknown or given twice, or none is an error.
    """
    objectives = tuple(map(Objective.parse, texts))
    names = [objective.name for objective in objectives]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"objective {name!r} is given {names.count(name)} times; give it once")
    if not set(ERRORS).intersection(names):
        raise UserError(
            f"the objectives {', '.join(names)} hold no error, so that any formula would do; add "
            f"{' or '.join(ERRORS)}"
        )
    return tuple(sorted(objectives, key=lambda objective: [*MEANINGS].index(objective.name)))


def _mean(errors: Sequence[float]) -> float:
    return sum(errors) / len(errors)


NOISE = 0.01
"""Relative errors that differ by less are hardly distinguished by the logarithm: a few validation
samples."""


def _log(errors: Sequence[float]) -> float:
    logarithms = [math.log(max(error, 0.0) + NOISE) for error in errors]
    return math.exp(sum(logarithms) / len(logarithms)) - NOISE


AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {"log": _log, "mean": _mean}
"""How the relative errors of several networks become one number.

``log`` is the exponential of the mean logarithm (of the error plus :data:`NOISE`, which is taken
off again): halving the error on one task counts as much as halving it on another, however large
the two are. ``mean`` is the arithmetic mean, which the task with the largest errors decides.
Neither depends on other candidates, so a value stays what it was when more are met.
"""


def aggregate(name: str, errors: Sequence[float]) -> float:
    """Return one error of several relative errors, by an aggregate of :data:`AGGREGATES`."""
    return AGGREGATES[name](errors)


def compared(name: str, error: float) -> float:
    """Return an error on the scale on which the aggregate of that name takes a mean."""
    return math.log(max(error, 0.0) + NOISE) if name == "log" else error


def mean_cost(name: str, kept: Sequence[tuple[str, float]]) -> float:
    """Return the mean share of a cost that is kept, over the budgets that leave it free.

    At budgets of its own kind it is the same for all; these count where there are no others.

    Args:
        name: ``"macs"`` or ``"params"``.
        kept: for each cut the kind of its budget, and the share of the cost that it keeps.
    """
    free = [share for kind, share in kept if kind != name]
    return _mean(free or [share for _, share in kept])
