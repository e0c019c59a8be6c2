"""Compare metrics on networks: the errors that each leaves at equal budgets, in a run folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gp_prune.base.files import MOST_JSON, code_digest, read_file, write_text
from gp_prune.base.json_fields import parse_json, write_json
from gp_prune.errors import UserError
from gp_prune.judging.records import (
    Measurement,
    Planned,
    drop_impossible,
    plan_metric,
    read_measurement,
    score_allocations,
)
from gp_prune.judging.settings import BASELINES, CompareSettings, Entered, enter, metric_text
from gp_prune.judging.standings import Friedman, Standing, Table, find_standings
from gp_prune.language.primitive import primitive_set
from gp_prune.metric.metric import Metric
from gp_prune.runs.executors import Runner, in_process, make_runner
from gp_prune.runs.folder import (
    load_or_check_settings,
    open_run_folder,
    versions,
    write_run_header,
    writing,
)
from gp_prune.runs.held import written
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.result_file import reading_result
from gp_prune.runs.spent import record_spent
from gp_prune.runs.statistics import StatisticsFile
from gp_prune.search.evaluation import EVALUATION_VERSION
from gp_prune.search.evaluator import Evaluator, outcome_reader
from gp_prune.search.given_tasks import (
    check_resumed,
    check_tasks,
    check_unchanged,
    complete_source,
    digest_tasks,
    find_held,
    name_of,
)
from gp_prune.search.scorer import TaskScorer
from gp_prune.statistics.running import one_thread
from gp_prune.tasks import Task

RESULT = "result.json"
RECORDS = "records.csv"


@dataclass(frozen=True)
class CompareProgress:
    """How far a comparison is.

    Attributes:
        stage: ``"tasks"``, ``"score"``, ``"compare"`` or ``"done"``.
        done: steps of the stage that are done.
        of: steps of the stage.
    """

    stage: str
    done: int
    of: int


@dataclass(frozen=True, repr=False)
class MetricComparison:
    """What metrics leave of networks at equal budgets.

    Attributes:
        settings: of the comparison, with all defaults filled in.
        folder: the run folder.
        metrics: the metrics that were compared.
        measurements: one for each network.
        notes: sentences on what was left out.
        shares: metrics that gave the shares of layers of an allocation.
    """

    settings: CompareSettings
    folder: Path
    metrics: tuple[Metric, ...]
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()
    shares: tuple[Metric, ...] = ()

    def __repr__(self) -> str:
        """Return the number of metrics and the recommended one."""
        best = self.recommended
        return (
            f"<MetricComparison of {len(self.metrics)} metrics on "
            f"{', '.join(self.settings.tasks)}: {best.name!r}, mean rank {best.rank:.2f}>"
        )

    @property
    def allocations(self) -> list[str]:
        """Return the allocations, in order."""
        return list(dict.fromkeys(entry.allocation for entry in self.measurements))

    def part(self, allocation: str | None = None) -> list[Measurement]:
        """Return the measurements under an allocation; all for None."""
        return [e for e in self.measurements if allocation in (None, e.allocation)]

    def table(self, allocation: str | None = None) -> Table:
        """Return the errors of all metrics in the cells of an allocation, or in all cells."""
        return Table(self.part(allocation), [metric.name for metric in self.metrics])

    def standings(self, allocation: str | None = None) -> list[Standing]:
        """Return how the metrics stand under an allocation or under all, the best first."""
        return find_standings(self.part(allocation), self.metrics, self.settings.baseline)

    @cached_property
    def friedman(self) -> Friedman | None:
        """Return the test whether the metrics differ at all, over all cells."""
        return self.table().friedman()

    @cached_property
    def recommended(self) -> Standing:
        """Return the metric with the least mean rank; of equal ones the smaller area, then size."""
        drawn = BASELINES[self.settings.granularity][0]
        return next(standing for standing in self.standings() if standing.name != drawn)

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object, without the folder."""
        return {
            "kind": "comparison of metrics",
            "settings": self.settings.to_json(),
            "split": self.settings.split,
            "metrics": [
                {"name": m.name, "formula": str(m.expression), "size": m.size,
                 "conventions": m.conventions.to_json(), "digest": m.digest}
                for m in self.metrics
            ],
            "shares": [
                {"name": m.name, "formula": str(m.expression), "digest": m.digest}
                for m in self.shares
            ],
            "recommended": self.recommended.name,
            "baseline": self.settings.baseline,
            "friedman": None if self.friedman is None else self.friedman._asdict(),
            "standings": [standing.to_json() for standing in self.standings()],
            "by_allocation": {
                name: [standing.to_json() for standing in self.standings(name)]
                for name in self.allocations
            },
            "notes": list(self.notes),
            "records": [asdict(entry) for entry in self.measurements],
        }  # fmt: skip

    def to_csv(self) -> str:
        """Return one line for each network."""
        text = io.StringIO()
        names = [field.name for field in fields(Measurement)]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(entry) for entry in self.measurements)
        return text.getvalue()


def compare(
    metrics: Sequence[Metric | str | Path] | None = None,
    tasks: Sequence[Task | str] | None = None,
    folder: str | Path = "runs/compare",
    *,
    settings: CompareSettings | None = None,
    source: TaskSource | None = None,
    workers: int = 1,
    cluster: str | None = None,
    resume: bool = False,
    trust: Sequence[str | Path] = (),
    skip_lost: bool = False,
    progress: Callable[[CompareProgress], None] = lambda _: None,
    **options: Any,
) -> MetricComparison:
    """Compare metrics by the errors that they leave at equal budgets.

    Random pruning and L1 (magnitude for metrics of single weights) always take part. The result
    depends on the settings alone: not on the workers, and not on whether the run was killed and
    resumed on the way. The run folder has ``result.json`` and ``records.csv``. The result of a run
    that has ended is read from its folder.

    Args:
        metrics: metrics, names of bundled ones, paths of metric files, texts of formulas, or
            ``NAME=FORMULA``.
        tasks: names of tasks, as for :func:`gp_prune.evolve`, and tasks in memory.
        folder: the run folder; it must be new, unless ``resume``.
        settings: in place of ``metrics``, names in ``tasks`` and ``options``.
        source: where the tasks are, and the device.
        workers: number of processes; one torch thread each.
        cluster: address of a Dask scheduler whose workers evaluate in the place of ``workers``.
        resume: continue the run in ``folder``, whose settings are taken.
        trust: with ``resume``, the Python files that the stored settings may run.
        skip_lost: whether a job whose workers die again and again is set aside for good.
        progress: hears how far the run is.
        options: settings of :class:`~gp_prune.judging.settings.CompareSettings` by name, such as
            ``keep=(0.5, 0.3)``, ``allocation=("uniform",)``, ``fine_tune=60`` or ``split="test"``.

    Raises:
        UserError: a setting, metric, task, folder or journal is not usable.
    """
    folder = Path(folder)
    held = find_held(tasks)
    if settings is None and not resume:
        settings = CompareSettings(
            metrics=tuple(map(metric_text, metrics or ())),
            tasks=tuple(map(name_of, tasks or ())), **options,
        )  # fmt: skip
    elif metrics is not None or options:
        raise UserError(
            "metrics and options are part of the settings, which are given or read from the run "
            "folder; leave them out"
        )
    settings = load_or_check_settings(CompareSettings, settings, folder, resume=resume, trust=trust)
    if resume:
        check_resumed(settings.tasks, tasks)
    if resume and (folder / RESULT).exists():
        with open_run_folder(folder, outcome_reader(), settings) as journal:
            check_unchanged(journal.begun, digest_tasks(held.values()))
            finished = read_comparison(settings, folder)
        if finished is not None:
            progress(CompareProgress("done", 1, 1))
            return finished
    check_tasks(settings.tasks, held)
    if not resume:  # before there is a folder
        enter(settings, primitive_set(*settings.primitives))
    source = complete_source(source, settings.task_options, settings.python_files, held)
    alone = in_process(workers, None, cluster, skip_lost=skip_lost)
    with written({} if alone else held) as files:
        runner = make_runner(
            replace(source, files=files), workers, None, cluster, skip_lost=skip_lost
        )
        try:
            with one_thread():
                return _compare(settings, folder, source, runner, progress, resume=resume)
        finally:
            runner.close()


def read_comparison(settings: CompareSettings, folder: Path) -> MetricComparison | None:
    """Return the result of a comparison that has ended; None where it has other settings.

    Nothing is trained, scored or evaluated.

    Args:
        settings: of the run.
        folder: the run folder.

    Raises:
        UserError: the file of the result is damaged.
    """
    entered = enter(settings, primitive_set(*settings.primitives))
    names = {metric.name: metric.digest for metric in entered.metrics}
    with reading_result(folder / RESULT):
        data = parse_json(read_file(folder / RESULT, MOST_JSON))
        found = {entry["name"]: entry["digest"] for entry in data["metrics"]}
        shares = [entry["digest"] for entry in data.get("shares", ())]
        same = found == names and shares == [metric.digest for metric in entered.shares]
        if data["settings"] != entered.settings.to_json() or not same:
            return None
        measured = [read_measurement(entry) for entry in data["records"]]
        if not measured or not {entry.metric for entry in measured} <= names.keys():
            raise ValueError("its records are not of its metrics")
        notes = tuple(str(note) for note in data["notes"])
    return MetricComparison(
        entered.settings, folder, entered.metrics, tuple(measured), notes, entered.shares
    )


def _compare(
    settings: CompareSettings,
    folder: Path,
    source: TaskSource,
    runner: Runner,
    progress: Callable[[CompareProgress], None],
    *,
    resume: bool,
) -> MetricComparison:
    """Run a comparison whose settings and tasks are checked."""
    with (
        open_run_folder(folder, outcome_reader(), settings) as journal,
        record_spent(folder, runner),
    ):
        entered = enter(settings, primitive_set(*settings.primitives))
        progress(CompareProgress("tasks", 0, len(settings.tasks)))
        runner.prepare(settings.tasks)
        scorers = [
            TaskScorer(
                source.load(name),
                settings.calibration,
                settings.seed,
                settings.memory,
                sequential=settings.sequential,
            )
            for name in settings.tasks
        ]
        progress(CompareProgress("tasks", len(scorers), len(scorers)))
        identity = _identity(settings, entered, source, scorers)
        check_unchanged(journal.begun, identity)
        write_run_header(folder, settings, journal, identity, resume=resume)
        statistics = StatisticsFile(folder, settings)
        planned = _plan(entered, scorers, progress)
        statistics.write({scorer.task.name: scorer.coverage for scorer in scorers})
        with Evaluator(runner, journal, 1) as evaluator:
            measured = _measure(settings, planned, evaluator, progress)
        kept, notes = drop_impossible(measured)
        # The settings as they were given are in config.toml; here they have all defaults.
        result = MetricComparison(
            entered.settings, folder, entered.metrics, tuple(kept), tuple(notes), entered.shares
        )
        with writing(folder):
            write_json(folder / RESULT, result.to_json())
            write_text(folder / RECORDS, result.to_csv())
    progress(CompareProgress("done", 1, 1))
    return result


def _identity(
    settings: CompareSettings, entered: Entered, source: TaskSource, scorers: Iterable[TaskScorer]
) -> dict[str, Any]:
    """Return all that decides the outcomes of a comparison, as JSON."""
    return {
        **settings.to_json(),
        "primitives": [f"{Path(file).name} {code_digest(file)}" for file in settings.primitives],
        "digests": {metric.name: metric.digest for metric in (*entered.metrics, *entered.shares)},
        "versions": versions(),
        "evaluation": EVALUATION_VERSION,
        "device": source.device,
        **digest_tasks(scorer.task for scorer in scorers),
    }


def _plan(
    entered: Entered, scorers: Sequence[TaskScorer], progress: Callable[[CompareProgress], None]
) -> list[Planned]:
    """Score every metric on every task, and plan its cuts."""
    settings, allocations = entered.settings, entered.allocations
    shares = [score_allocations(settings, scorer, allocations) for scorer in scorers]
    planned: list[Planned] = []
    of = len(entered.metrics) * len(scorers)
    for number, metric in enumerate(entered.metrics):
        for place, scorer in enumerate(scorers):
            progress(CompareProgress("score", number * len(scorers) + place, of))
            planned += plan_metric(settings, scorer, metric, allocations, shares[place])
    progress(CompareProgress("score", of, of))
    return planned


def _measure(
    settings: CompareSettings,
    planned: Sequence[Planned],
    evaluator: Evaluator,
    progress: Callable[[CompareProgress], None],
) -> list[Measurement]:
    """Evaluate what is planned; networks that several metrics lead to are evaluated once."""
    wanted = [evaluation for _, evaluation in planned if evaluation is not None]
    outcomes = evaluator.outcomes(
        wanted, lambda done, of: progress(CompareProgress("compare", done, of))
    )
    measured = []
    for entry, evaluation in planned:
        if evaluation is None:
            measured.append(entry)
            continue
        outcome = outcomes[evaluation.key]
        if outcome.failure:
            measured.append(replace(entry, failure=outcome.failure))
            continue
        error = outcome.test if settings.split == "test" else outcome.validation
        assert error is not None
        measured.append(replace(entry, error=error, raw_error=outcome.raw))
    return measured
