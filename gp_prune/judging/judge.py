"""Judge one formula as a search does: cut, recalibrate, measure, and give the objectives.

This is what any optimiser calls that writes formulas of its own. The text of a formula is parsed;
nothing of it is ever executed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gp_prune.apply.scoring import as_metric
from gp_prune.base.names import HF
from gp_prune.errors import SHARE, UserError, check_value
from gp_prune.language.primitive import PrimitiveSet, primitive_set
from gp_prune.language.record import NEEDS
from gp_prune.metric.file import check_ranks
from gp_prune.metric.metric import Metric
from gp_prune.pruning.plan.weights import Pattern, Target
from gp_prune.runs.jobs import TaskSource, Workbench
from gp_prune.search.assessor import find_rounding, ladder_evaluations, plan_cuts
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import Outcome
from gp_prune.search.given_tasks import check_tasks, complete_source, find_held, name_of
from gp_prune.search.objectives import COSTS, SIZE, aggregate, mean_cost
from gp_prune.search.scorer import PlannedCut, TaskScorer
from gp_prune.statistics.running import one_thread
from gp_prune.tasks import Task


class DegenerateFormula(UserError):
    """Report a formula whose scores rank nothing on a task: it has no objectives."""


@dataclass(frozen=True)
class BudgetError:
    """What one cut network does.

    Attributes:
        task: name of the task.
        kind: what the budget counts: ``"macs"``, ``"params"`` or ``"channels"``; or the pattern.
        keep: the share of it that was to be kept.
        error: error on the validation split, 0 as the dense network and 1 as the best guess that
            looks at no input.
        raw_error: the same as the task measures it, for instance the share of wrong classes.
        macs: share of the MACs really kept.
        params: share of the parameters really kept.
    """

    task: str
    kind: str
    keep: float
    error: float
    raw_error: float
    macs: float
    params: float


@dataclass(frozen=True)
class FormulaResult:
    """What a formula is worth on some tasks.

    Attributes:
        formula: its text.
        granularity: ``"channel"`` or ``"weight"``.
        needs: what it measures, keys of :data:`gp_prune.language.record.NEEDS`, in their order.
        conventions: how its scores were used: scope, normaliser and join.
        objectives: name -> value, all to be minimised: ``"error"``, the errors of all tasks and
            budgets as one, the costs that the budgets leave free, and ``"size"``, the nodes.
        errors: one entry for each task and budget.
        shares: the text of the formula that divides the budget; empty where the conventions do.
    """

    formula: str
    granularity: str
    needs: tuple[str, ...]
    conventions: Mapping[str, str]
    objectives: Mapping[str, float]
    errors: tuple[BudgetError, ...]
    shares: str = ""

    @property
    def error(self) -> float:
        """Return the errors of all tasks and budgets as one."""
        return self.objectives["error"]

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return asdict(self)


class Judge:
    """Tasks, prepared once, on which any number of formulas are judged.

    ``Judge(["lenet-digits"])("sum[i,k](abs(W))").error`` is the error of a formula. What was cut
    before is not measured again.

    Args:
        tasks: names of tasks, as for :func:`gp_prune.evolve`, and tasks in memory.
        keep: shares to keep; by default those of a search of the formula's granularity.
        budget_kind: what they count; by default ``("macs",)``, of formulas that rank single weights
            ``("params",)``.
        pattern: patterns N:M of single weights; without ``keep`` they stand in the place of shares.
        scope: what is ranked together; empty for the conventions of each formula.
        sequential: whether each block of a network is scored on the outputs of the pruned blocks
            before it, for formulas of single weights.
        aggregate: how the errors become one, ``"log"`` or ``"mean"``.
        calibration: samples that the formulas are measured on.
        seed: seed of everything random.
        primitives: Python files with further operands and operators, which are executed.
        source: where the tasks are, and the device.
        settings: further settings of :class:`gp_prune.SearchConfig` by name: ``data``, ``kind``,
            ``model_weights``, ``input_shape`` and ``most`` of networks that bring no data, and
            ``max_memory``.

    Raises:
        UserError: a setting or a task is not usable; the sentence says which.
    """

    def __init__(
        self,
        tasks: Sequence[Task | str],
        *,
        keep: Sequence[float] = (),
        budget_kind: Sequence[str] = (),
        pattern: Sequence[str] = (),
        scope: str = "",
        sequential: bool = False,
        aggregate: str = SearchConfig.aggregate,
        calibration: int = SearchConfig.calibration,
        seed: int = 0,
        primitives: Sequence[str | Path] = (),
        source: TaskSource | None = None,
        **settings: Any,
    ) -> None:
        held = find_held(tasks)
        for share in keep:  # which the settings of a search call by another name
            check_value("keep (--keep)", share, SHARE)
        by_weight = sequential or scope == "row" or any(name_of(t).startswith(HF) for t in tasks)
        self._config = SearchConfig(
            tasks=tuple(map(name_of, tasks)), validate_on=(), ladder=tuple(keep),
            budget_kind=tuple(budget_kind), aggregate=aggregate, calibration=calibration, seed=seed,
            primitives=tuple(map(str, primitives)),
            # Those of the formula count, when there is one.
            granularity="weight" if by_weight else "channel",
            scope=scope or ("row" if sequential else SearchConfig.scope), sequential=sequential,
            **settings,
        )  # fmt: skip
        self._scope = scope
        for text in pattern:  # before a network is loaded
            Pattern.parse(text)
        self._given: dict[str, Any] = {
            "ladder": tuple(keep), "budgets": (), "budget_kind": tuple(budget_kind),
            "pattern": tuple(pattern),
        }  # fmt: skip
        check_tasks(self._config.tasks, held)
        self.primitives: PrimitiveSet = primitive_set(*self._config.primitives)
        options, code = self._config.task_options, self._config.python_files
        source = complete_source(source, options, code, held)
        self._workbench = Workbench(source)
        with one_thread():
            self._scorers = [
                TaskScorer(
                    source.load_once(name),
                    calibration,
                    seed,
                    self._config.memory,
                    sequential=self._config.sequential,
                )
                for name in self._config.tasks
            ]
        self._known: dict[str, Outcome] = {}

    def __repr__(self) -> str:
        """Return the tasks."""
        return f"<Judge on {', '.join(self._config.tasks)}>"

    def __call__(self, formula: Metric | str | Path) -> FormulaResult:
        """Judge a formula right after pruning, on the validation split of each task.

        Args:
            formula: the text of a formula, the name of a bundled metric, the path of a metric file
                or a metric. A text has the conventions of a search, a metric its own.

        Raises:
            ExpressionError: the text is no formula.
            MetricError: it is no metric, or the formula has another type than that of a metric.
            DegenerateFormula: its scores rank nothing on a task.
        """
        metric = formula
        if not isinstance(metric, Metric):
            metric = Metric.load(formula, self.primitives)  # type: ignore[arg-type]
        check_ranks(metric)
        config = replace(
            self._config, granularity=metric.granularity, objectives=(), **self._given,
            scope=self._scope or metric.conventions.scope, normaliser=metric.conventions.normaliser,
            join=metric.conventions.join,
        )  # fmt: skip
        with one_thread():
            cuts = plan_cuts(
                metric.expression, config.conventions, config.cells, self._scorers, metric.shares
            )
            reason = (
                cuts if isinstance(cuts, str) else find_rounding(metric.expression, self._scorers)
            )
            if isinstance(cuts, str) or reason:
                raise DegenerateFormula(
                    f"formula {str(metric.expression)!r} is degenerate, {reason}; change it"
                )
            outcomes = [self._outcome(config, cut) for cut in cuts]
        return _assemble(config, metric, cuts, outcomes)

    def _outcome(self, config: SearchConfig, cut: PlannedCut) -> Outcome:
        (evaluation,) = ladder_evaluations(config, cut).values()
        if evaluation.key not in self._known:
            self._known[evaluation.key] = evaluation.run(self._workbench)
        return self._known[evaluation.key]


def _assemble(
    config: SearchConfig, metric: Metric, cuts: Sequence[PlannedCut], outcomes: Sequence[Outcome]
) -> FormulaResult:
    """Return the objectives as a search computes them, and the errors that they are made of."""
    errors = [outcome.validation for outcome in outcomes]
    targets: list[Target] = [getattr(cut.plan, "pattern", None) or cut.plan.asked for cut in cuts]
    values = {"error": aggregate(config.aggregate, errors), SIZE: float(metric.size)}
    for name in COSTS:
        values[name] = mean_cost(name, [(c.plan.asked.kind, getattr(c, name)) for c in cuts])
    rows = (
        BudgetError(
            cut.task, target.kind, target.keep, outcome.validation, outcome.raw, cut.macs,
            cut.params,
        )
        for cut, target, outcome in zip(cuts, targets, outcomes, strict=True)
    )  # fmt: skip
    return FormulaResult(
        str(metric.expression), metric.granularity,
        tuple(need for need in NEEDS if any(need in part.needs for part in metric.parts)),
        config.conventions.to_json(), {name: values[name] for name in config.names}, tuple(rows),
        "" if metric.shares is None else str(metric.shares.expression),
    )  # fmt: skip


def evaluate(
    formula: Metric | str | Path, tasks: Judge | Sequence[Task | str], **settings: Any
) -> FormulaResult:
    """Judge one formula as a search does, right after pruning, on the validation splits.

    ``gp_prune.evaluate("sum[i,k](abs(W))", ["lenet-digits"]).error`` is its error. An optimiser
    prepares the tasks once: ``judge = gp_prune.Judge(["lenet-digits"])``, then
    ``gp_prune.evaluate(text, judge)``, which is ``judge(text)``.

    Args:
        formula: a text, the name of a bundled metric, the path of a metric file or a metric. A text
            is parsed and never executed.
        tasks: names of tasks and tasks in memory, or a :class:`Judge`.
        settings: of :class:`Judge`.

    Raises:
        ExpressionError: the text is no formula.
        MetricError: it is no metric, or the formula has another type than that of a metric.
        DegenerateFormula: its scores rank nothing on a task.
        UserError: a setting or a task is not usable.
    """
    if isinstance(tasks, Judge):
        if settings:
            raise UserError(
                f"{', '.join(settings)}: a Judge has its settings already; give them to Judge(...)"
            )
        return tasks(formula)
    # The text first: it is quickly refused.
    metric = as_metric(formula) if not settings.get("primitives") else formula
    return Judge(tasks, **settings)(metric)
