"""A whole run: prepare the tasks, search, compare, write the run folder."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from gp_prune.apply.own_task import NO_OPTIONS, UNUSED, may_need_data, short_names
from gp_prune.errors import UserError
from gp_prune.language.primitive import PrimitiveSet, primitive_set
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.runs.callbacks import AnyCallback, Callbacks, RunStart
from gp_prune.runs.executors import Runner, in_process, make_runner
from gp_prune.runs.folder import (
    load_or_check_settings,
    open_run_folder,
    versions,
    write_run_header,
    writing,
)
from gp_prune.runs.held import written
from gp_prune.runs.inside import Inside, InsideStep
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import Journal
from gp_prune.runs.spent import record_spent
from gp_prune.runs.statistics import StatisticsFile
from gp_prune.search.assessor import ladder_evaluations
from gp_prune.search.comparison import Comparison, compare, plan_setting
from gp_prune.search.config import SearchConfig
from gp_prune.search.contenders import BASELINES, Contender, baseline_metric, contenders
from gp_prune.search.evaluation import EVALUATION_VERSION
from gp_prune.search.evaluator import AnyOutcome, Evaluator, outcome_reader, stack_size
from gp_prune.search.following import end_of, step_of
from gp_prune.search.given_tasks import (
    check_resumed,
    check_tasks,
    check_unchanged,
    complete_source,
    digest_tasks,
    find_held,
    name_of,
)
from gp_prune.search.held_out import compare_held_out
from gp_prune.search.layer_shares import record_layer_shares
from gp_prune.search.noise_reduction import reduce_within_noise
from gp_prune.search.nsga2 import Generation, Search, make_grammar
from gp_prune.search.recommendation import finalists, judge_of, recommend
from gp_prune.search.reduction import Reducer
from gp_prune.search.results import (
    EarlierRun,
    SearchResult,
    assemble,
    make_provenance,
    settings_json,
)
from gp_prune.search.scorer import TaskScorer
from gp_prune.search.start_formulas import load_select, start_metrics, start_names
from gp_prune.search.stored import RESULT, FrontSoFar, check_length, read, write
from gp_prune.statistics.running import one_thread
from gp_prune.tasks import Task


@dataclass(frozen=True)
class SearchProgress:
    """How far a run is.

    Its stages are ``"tasks"``, ``"search"``, ``"reduce"`` (if asked for), ``"compare"``,
    ``"validate"`` and ``"done"``.

    Attributes:
        stage: what is being done.
        done: steps of the stage that are done.
        of: steps of the stage.
        generation: the report of the last generation, in the stage ``"search"``.
        inside: how far the step is that is being done, where that is known.
        remarks: sentences on what is odd with the tasks, at the end of the stage ``"tasks"``.
    """

    stage: str
    done: int
    of: int
    generation: Generation | None = None
    remarks: tuple[str, ...] = ()
    inside: Inside | None = None


def evolve(
    config: SearchConfig | None = None,
    folder: str | Path = "runs/evolve",
    *,
    source: TaskSource | None = None,
    workers: int = 1,
    cluster: str | None = None,
    resume: bool = False,
    trust: Sequence[str | Path] = (),
    skip_lost: bool = False,
    reuse: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    tasks: Sequence[Task | str] | None = None,
    progress: Callable[[SearchProgress], None] = lambda _: None,
    callbacks: Sequence[AnyCallback] = (),
) -> SearchResult:
    """Evolve pruning metrics and compare the front with random pruning and L1.

    The result depends on ``config`` alone: not on the workers, and not on whether the run was
    killed and resumed on the way. The result of a run that has ended is read from its folder.

    Args:
        config: the settings; with ``resume`` they are read from the run folder.
        folder: the run folder; it must be new, unless ``resume``.
        source: where the tasks are.
        workers: number of processes; one torch thread each.
        cluster: address of a Dask scheduler whose workers evaluate in the place of ``workers``.
        resume: continue the run in ``folder``.
        trust: with ``resume``, the Python files that the stored settings may run; see SECURITY.md.
        skip_lost: whether a job whose workers die again and again is set aside for good, with the
            worst result, in the place of ending the run.
        reuse: folder of another run on the same networks whose evaluations need not be done again;
            it changes the time, not the result.
        changes: with ``resume``, settings by name that replace the stored ones, for instance
            ``{"generations": 40}`` for a longer run; only
            :attr:`~gp_prune.search.config.SearchConfig.ADJUSTABLE` ones. The result is that of a
            run that was begun with them.
        tasks: in the place of ``config.tasks``: tasks in memory, each with a name of its own, and
            names. A run that is resumed needs the same ones.
        progress: hears how far the run is.
        callbacks: follow the run, see :class:`gp_prune.Callback`; a function is called with each
            :class:`~gp_prune.search.nsga2.Generation`. Those of a run that has ended are not
            called.

    Raises:
        UserError: a setting, task, folder or journal is not usable; the sentence says which.
    """
    folder = Path(folder)
    if config is not None and (config.start_formulas or config.select):
        config = config.with_texts(primitive_set(*config.primitives))
    held = find_held(tasks)
    if tasks is not None and (config is not None or not resume):
        config = replace(config or SearchConfig(), tasks=tuple(map(name_of, tasks)))
    config = load_or_check_settings(
        SearchConfig, config, folder, resume=resume, trust=trust, changes=changes
    )
    if config.leave_one_out:
        raise UserError(
            f"{str(folder)!r} is of one search for each task left out; go on with "
            "gp_prune.search.leave_one_out, or with the command line"
        )
    if resume:
        check_resumed(config.tasks, tasks)
        check_length(config, folder)
    if resume and (folder / RESULT).exists():
        with open_run_folder(folder, outcome_reader(), config) as journal:
            check_unchanged(journal.begun, digest_tasks(held.values()))
            finished = read(config, folder, primitive_set(*config.primitives))
        if finished is not None:
            progress(SearchProgress("done", 1, 1))
            return finished
    check_tasks((*config.tasks, *config.validation_tasks, *config.report_on), held)
    if not resume:  # before there is a folder; the files of a resumed run are checked first
        make_grammar(config, primitive_set(*config.primitives))
    source = complete_source(source, config.task_options, config.python_files, held)
    alone = in_process(workers, config.limits, cluster, skip_lost=skip_lost)
    try:
        with written({} if alone else held) as files:
            return _evolve(
                config, folder, replace(source, files=files), workers, cluster, resume, skip_lost,
                reuse, progress, callbacks,
            )  # fmt: skip
    finally:
        # Generators and callbacks of a search are reference cycles, which would hold all that it
        # has measured, perhaps gigabytes, until the garbage collector comes by.
        gc.collect()


def _evolve(
    config: SearchConfig,
    folder: Path,
    source: TaskSource,
    workers: int,
    cluster: str | None,
    resume: bool,
    skip_lost: bool,
    reuse: str | Path | None,
    progress: Callable[[SearchProgress], None],
    callbacks: Sequence[AnyCallback],
) -> SearchResult:
    """Run a search whose settings and tasks are checked."""
    earlier = None if reuse is None else EarlierRun(Path(reuse))
    told = Callbacks(callbacks, RunStart("search", folder, settings_json(config)))
    inside = InsideStep("networks trained or loaded")
    runner = make_runner(
        source, workers, config.limits, cluster, skip_lost=skip_lost, inside=inside
    )
    try:
        with (
            one_thread(),
            open_run_folder(folder, outcome_reader(), config) as journal,
            record_spent(folder, runner),
            told,
        ):
            _check_age(folder, journal)
            primitives = primitive_set(*config.primitives)
            scorers = _prepare(config, source, runner, inside, progress, primitives)
            identity = _identity(config, source, scorers)
            check_unchanged(journal.begun, identity)
            if earlier is not None:
                journal.lend(earlier.reusable(config, identity))
            write_run_header(folder, config, journal, identity, resume=resume)
            with writing(folder):
                (folder / RESULT).unlink(missing_ok=True)  # of other settings
            with Evaluator(runner, journal, stack_size(config.stack, source.device)) as evaluator:
                result = _run(
                    config, folder, primitives, scorers, evaluator, journal, progress, told
                )
            told.done(end_of(result))
            return result
    finally:
        runner.close()


def _check_age(folder: Path, journal: Journal[AnyOutcome]) -> None:
    """Raise UserError for a run whose objectives or evaluations are those of another version."""
    if journal.begun is None:
        return
    if "objectives" not in journal.begun:
        raise UserError(
            f"run {str(folder)!r} was begun when the objectives of a search could not be chosen, "
            "so it cannot be resumed; start a new run"
        )
    if (before := journal.begun.get("evaluation")) != EVALUATION_VERSION:
        raise UserError(
            f"run {str(folder)!r} was begun with the evaluation protocol {before or 1}, and this "
            f"version of gp-prune has {EVALUATION_VERSION}, so it cannot be resumed; start a new "
            "run, or use the version that began it"
        )


def _identity(
    config: SearchConfig, source: TaskSource, scorers: Sequence[TaskScorer]
) -> dict[str, Any]:
    """Return all that decides the outcomes of a run, as JSON; of all tasks, also held-out ones."""
    return {
        **settings_json(config),
        "versions": versions(),
        "evaluation": EVALUATION_VERSION,
        "device": source.device,
        **digest_tasks(scorer.task for scorer in scorers),
        "seeds": sorted([*bundled_metrics("reference"), *start_names(config.granularity)]),
    }


def _prepare(
    config: SearchConfig,
    source: TaskSource,
    runner: Runner,
    inside: InsideStep,
    progress: Callable[[SearchProgress], None],
    primitives: PrimitiveSet,
) -> list[TaskScorer]:
    """Train or load the networks of all tasks, and measure them."""
    # Also without a comparison: a resumed run may ask for one, and the header names all networks.
    names = (*config.tasks, *config.validation_tasks, *config.report_on)
    progress(SearchProgress("tasks", 0, len(names)))
    inside.hear = lambda now: progress(SearchProgress("tasks", 0, len(names), inside=now))
    runner.prepare(names)
    inside.active = False
    select = load_select(config.select, primitives) if config.select else None
    make_scorer = partial(
        TaskScorer, calibration=config.calibration, seed=config.seed, max_memory=config.memory,
        sequential=config.sequential, select=select,
    )  # fmt: skip
    scorers = []
    for number, name in enumerate(names):
        progress(SearchProgress("tasks", number, len(names)))
        scorers.append(make_scorer(source.load(name)))
    tasks = [scorer.task for scorer in scorers]
    options = config.task_options
    networks = [task for task in tasks if may_need_data(task.name)]
    if networks and options != NO_OPTIONS and all(UNUSED in task.remarks for task in networks):
        raise UserError(
            "--data, --kind and --most are for networks that bring no data, and "
            f"{', '.join(task.name for task in networks)} gives a task with its own; leave them out"
        )
    shorts = short_names(task.name for task in tasks)
    remarks = tuple(f"{shorts[task.name]}: {text}" for task in tasks for text in task.remarks)
    progress(SearchProgress("tasks", len(scorers), len(scorers), remarks=remarks))
    return scorers


def _run(
    config: SearchConfig,
    folder: Path,
    primitives: PrimitiveSet,
    scorers: list[TaskScorer],
    evaluator: Evaluator,
    journal: Journal[AnyOutcome],
    progress: Callable[[SearchProgress], None],
    told: Callbacks,
) -> SearchResult:
    searched, others = scorers[: len(config.tasks)], scorers[len(config.tasks) :]
    published = reference_metrics(primitives)
    seeds = [metric for metric in published if metric.expression.axes is config.root]
    if config.limits.limited:
        _check_limits(config, searched, published, evaluator)
    built_in = start_metrics(config.granularity, primitives, config.select)
    search = Search(config, primitives, searched, seeds, evaluator, journal, built_in=built_in)
    assert journal.begun is not None
    provenance = make_provenance(config, journal.begun)

    def hear(number: int, done: int, of: int) -> None:
        inside = Inside("evaluations", done, of)
        before = max(0, number - 1)
        progress(SearchProgress("search", before, config.generations, inside=inside))
        told.evaluated(number, done, of)

    search.assessor.course.hear = hear
    front = FrontSoFar(config, folder, primitives, published, provenance)
    statistics = StatisticsFile(folder, config)
    for generation in search.generations():
        if generation.number == 0:  # published metrics ask for most measurements
            statistics.write({scorer.task.name: scorer.coverage for scorer in searched})
        # While a resumed run repeats what it knows, its files stay as far as they had come.
        if not generation.known or generation.stopped or generation.number == generation.of:
            with writing(folder):
                front.write(generation.front)
        progress(SearchProgress("search", generation.number, generation.of, generation))
        told.step(step_of(generation))
    search.assessor.course.hear = lambda number, done, of: None  # what follows is no generation
    # What is only reported on decides nothing, and so not the form of a formula either.
    deciding = scorers[: len(scorers) - len(config.report_on)]
    reducer = Reducer(primitives, deciding, plan_setting(config))
    entered = contenders(config, search.archive, published, reducer)
    if config.reduce_within_noise:
        entered = reduce_within_noise(
            config, entered, published, searched, reducer, evaluator, search.assessor.measure,
            lambda done, of: progress(SearchProgress("reduce", done, of)),
        )  # fmt: skip
    comparison, held_out = _compare(config, searched, others, entered, evaluator, progress)
    kinds = {scorer.task.name: scorer.task.kind for scorer in scorers}
    result = assemble(
        config, folder, primitives, search.archive, entered, comparison, held_out, kinds,
        evaluator.failures,
        provenance,
    )  # fmt: skip
    if config.comparison:
        record_layer_shares(config, scorers, result.recommended, journal)
    statistics.write({scorer.task.name: scorer.coverage for scorer in scorers})
    with writing(folder):
        write(result, provenance["settings"])
    progress(SearchProgress("done", 1, 1))
    return result


def _compare(
    config: SearchConfig,
    searched: Sequence[TaskScorer],
    others: Sequence[TaskScorer],
    entered: Sequence[Contender],
    evaluator: Evaluator,
    progress: Callable[[SearchProgress], None],
) -> tuple[Comparison, Comparison]:
    """Return the comparison on the tasks of the search, and that on the other ones.

    All are judged by the error of the search. The finalists and random scores are judged by the
    other error, too; so are the baselines under the conventions of the front, on the tasks of the
    search.
    """

    def report(stage: str) -> Callable[[int, int], None]:
        return lambda done, of: progress(SearchProgress(stage, done, of))

    others = others if config.comparison else []
    comparison = compare(config, searched, entered, evaluator, report("compare"))
    held_out = compare_held_out(config, others, entered, evaluator, report("validate"))
    # The other error may take fine-tuning: only what decides, and what the table shows of it.
    judge = judge_of(config, comparison, held_out)
    if len(config.deciding_errors) > 1:
        random, *_ = BASELINES[config.granularity]
        last = [*finalists(config, entered, comparison, judge)]
        last += [c for c in entered if c.name == random]
        choosing = others[: len(config.validation_tasks)]
    else:
        last, choosing = [recommend(config, entered, comparison, judge)], []
    shown = [c for c in entered if c in last or _is_alike(config, c)]
    more = compare(config, searched, shown, evaluator, report("compare"), judged=False)
    chosen = compare_held_out(config, choosing, last, evaluator, report("validate"), judged=False)
    return (
        Comparison(comparison.records + more.records, config),
        Comparison(held_out.records + chosen.records, config),
    )


def _is_alike(config: SearchConfig, contender: Contender) -> bool:
    """Return whether a contender is a baseline under the conventions of the front."""
    return contender.candidate is None and contender.conventions == config.conventions


def _check_limits(
    config: SearchConfig,
    scorers: Sequence[TaskScorer],
    published: Sequence[Metric],
    evaluator: Evaluator,
) -> None:
    """Raise UserError where the limits are so narrow that not even a baseline can be evaluated.

    Otherwise every formula would be tried in vain.
    """
    *_, name = BASELINES[config.granularity]
    baseline = baseline_metric(config, name, published)
    budget = max(config.cells, key=lambda cell: cell.keep)
    evaluations = {}
    for scorer in scorers:
        cut = scorer.plan(baseline.expression, config.conventions, budget)
        *_, longest = ladder_evaluations(config, cut).values()
        evaluations[scorer.task.name] = longest
    outcomes = evaluator.outcomes([*evaluations.values()])
    for task, evaluation in evaluations.items():
        failure = outcomes[evaluation.key].failure
        if failure:
            raise UserError(
                f"no formula can be tried on {task}, because an evaluation of {name} {failure}; "
                "allow more with --candidate-memory and --candidate-timeout, where 0 is any amount"
            )


def reference_metrics(primitives: PrimitiveSet) -> list[Metric]:
    """Return the published metrics, in order of name.

    Evolved ones are left out: a run would otherwise change with every metric that is added.
    """
    return [Metric.load(name, primitives) for name in bundled_metrics("reference")]
