"""Shorten the formulas of the front as long as the validation error stays within the noise.

Here plans may change, unlike in :mod:`gp_prune.search.reduction`, so every step takes evaluations.
The noise is the standard deviation of the validation error over the fine-tuning runs of the final
comparison, of the formula that is shortened. A shorter form is taken if its error exceeds that of
this formula, not of the last step, by at most one such deviation: right after pruning, then with
the first fine-tuning run, then with all. A form that fails early costs few evaluations. All are on
the validation splits of the tasks of the search; the test splits, and the tasks that choose the
winner, are not read. The order of the forms follows from the formula, and the evaluations are in
the journal, so a resumed run takes the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from gp_prune.errors import UserError
from gp_prune.language.expression import Expression
from gp_prune.language.record import MissingMeasurement
from gp_prune.metric.metric import Metric
from gp_prune.search.archive import Candidate
from gp_prune.search.comparison import Comparison, Record, plan_records
from gp_prune.search.config import SearchConfig
from gp_prune.search.contenders import Contender, find_published, shown_as
from gp_prune.search.evaluation import Evaluation
from gp_prune.search.evaluator import Evaluator
from gp_prune.search.objectives import ERRORS
from gp_prune.search.reduction import Reducer, Reduction, Shorter
from gp_prune.search.scorer import TaskScorer

_NAME = "formula"
_PRUNED, _TUNED = ERRORS


class _Stage(NamedTuple):
    """The records of a formula on one of the stages that it must pass.

    Attributes:
        error: the mean validation error.
        records: what it is the mean of.
    """

    error: float
    records: list[Record]


def reduce_within_noise(
    config: SearchConfig,
    entered: Sequence[Contender],
    published: Sequence[Metric],
    scorers: Sequence[TaskScorer],
    reducer: Reducer,
    evaluator: Evaluator,
    measure: Callable[[Expression], Candidate],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Contender]:
    """Return the contenders with shorter formulas of the front; those that become alike are one.

    Published formulas stay as they are. A shorter form that is a published metric is shown as it.

    Args:
        config: the settings.
        entered: the contenders.
        published: the reference metrics.
        scorers: the prepared tasks of the search.
        reducer: knows the shorter forms.
        evaluator: evaluates pruned networks.
        measure: evaluates a formula as the search does.
        progress: hears how many of how many formulas are done.
    """
    known = find_published(config, published)
    search = _WithinNoise(config, scorers, reducer, evaluator)
    shown: list[Contender] = []
    for done, contender in enumerate(entered):
        progress(done, len(entered))
        if contender.candidate is not None and not contender.published:
            contender = _shortened(config, contender, search, known, reducer, measure)
        shown.append(contender)
    progress(len(entered), len(entered))
    return _distinct(shown)


def _distinct(shown: Sequence[Contender]) -> list[Contender]:
    """Return the smallest formula of each behaviour of the front, then the baselines."""
    front = [c for c in shown if c.candidate is not None]
    behaviours: dict[str, Contender] = {}
    for contender in sorted(front, key=lambda c: (c.expression.size, str(c.expression))):
        assert contender.candidate is not None
        behaviours.setdefault(contender.candidate.behaviour, contender)
    unique: dict[str, Contender] = {}
    for contender in (*behaviours.values(), *(c for c in shown if c.candidate is None)):
        unique.setdefault(contender.name, contender)
    return [*unique.values()]


def _shortened(
    config: SearchConfig,
    contender: Contender,
    search: _WithinNoise,
    known: Mapping[Expression, Metric],
    reducer: Reducer,
    measure: Callable[[Expression], Candidate],
) -> Contender:
    """Return a contender with a shorter formula and its results; itself if there is none."""
    expression, steps = search.shorten(contender.expression)
    if not steps:
        return contender
    candidate = measure(expression)
    if candidate.reason:  # a limit of the user's, or too many ties
        return contender
    before = contender.reduction or Reduction(contender.expression, contender.expression)
    told = tuple(f"{step} (within noise)" for step in steps)
    reduction = Reduction(expression, before.original, before.steps + told)
    return shown_as(config, candidate, reduction, known, reducer)


class _WithinNoise:
    """Tries shorter forms of formulas."""

    def __init__(
        self,
        config: SearchConfig,
        scorers: Sequence[TaskScorer],
        reducer: Reducer,
        evaluator: Evaluator,
    ) -> None:
        self._config = config
        self._scorers = scorers
        self._reducer = reducer
        self._evaluator = evaluator

    def shorten(self, expression: Expression) -> tuple[Expression, list[str]]:
        """Return the shortest form that single steps lead to, and the steps."""
        wanted = [*self._stages(expression)]
        whole = Comparison(wanted[-1].records, self._config)
        spread = whole.spread(_NAME, "validation", error=_TUNED)
        limits = [stage.error + spread for stage in wanted]
        best, steps = expression, []
        refused: set[Expression] = set()
        while (found := self._next(best, limits, refused)) is not None:
            best = found.expression
            steps.append(found.step)
        return best, steps

    def _next(
        self, tree: Expression, limits: Sequence[float], refused: set[Expression]
    ) -> Shorter | None:
        """Return the shortest form of one step within the limits; None if there is none."""
        for found in self._reducer.candidates(tree):
            if found.expression in refused:
                continue
            if self._is_within(found.expression, limits):
                return found
            refused.add(found.expression)
        return None

    def _is_within(self, expression: Expression, limits: Sequence[float]) -> bool:
        if not self._reducer.is_rankable(expression):
            return False
        try:
            stages = self._stages(expression)
            return all(stage.error <= limit for stage, limit in zip(stages, limits, strict=True))
        except (UserError, MissingMeasurement):  # nothing is ranked somewhere
            return False

    def _stages(self, expression: Expression) -> Iterator[_Stage]:
        """Yield the stages, each evaluated when it is asked for."""
        contender = Contender(_NAME, expression, self._config.conventions)
        planned = [
            (record, replace(evaluation, test=False))
            for scorer in self._scorers
            for judged in (True, False)  # both errors
            for record, evaluation in plan_records(self._config, scorer, contender, judged=judged)
            if record.kind != "ladder"
        ]
        tuned = [entry for entry in planned if entry[0].error == _TUNED]
        yield self._evaluated([entry for entry in planned if entry[0].error == _PRUNED])
        yield self._evaluated([entry for entry in tuned if entry[0].repeat == 0])
        yield self._evaluated(tuned)

    def _evaluated(self, planned: Sequence[tuple[Record, Evaluation]]) -> _Stage:
        outcomes = self._evaluator.outcomes([evaluation for _, evaluation in planned])
        records = [
            replace(record, validation=outcomes[evaluation.key].validation)
            for record, evaluation in planned
        ]
        whole = Comparison(records, self._config)
        return _Stage(whole.mean(_NAME, "validation", error=records[0].error), records)
