"""Floor 9: a whole run: prepare the tasks, search, compare, write the run folder."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from gp_prune.conventions import Conventions
from gp_prune.discovery import primitive_set
from gp_prune.errors import UserError
from gp_prune.files import write_text
from gp_prune.metric import Metric, bundled_metrics
from gp_prune.primitive import PrimitiveSet
from gp_prune.search.archive import Archive, Candidate
from gp_prune.search.comparison import (
    BASELINES,
    Comparison,
    Contender,
    Record,
    compare,
    contenders,
    recommended,
)
from gp_prune.search.config import SearchConfig
from gp_prune.search.engine import Generation, Search
from gp_prune.search.evaluation import TaskSource
from gp_prune.search.executors import Runner, make_runner
from gp_prune.search.journal import Journal
from gp_prune.search.scoring import Bench
from gp_prune.tasks import check_task_name

CONFIG = "config.toml"
FRONT = "front.csv"
COMPARISON = "comparison.csv"
METRICS = "metrics"


@dataclass(frozen=True)
class Result:
    """What a run found.

    Attributes:
        config: its settings.
        folder: its run folder.
        contenders: the front, best validation error at equal budgets first, then the baselines.
        recommended: the formula that the run recommends.
        metrics: the metric of every formula of the front, by name.
        comparison: the records of the final comparison.
        assessed: number of distinct formulas tried on all tasks.
        behaviours: number of distinct behaviours among them.
    """

    config: SearchConfig
    folder: Path
    contenders: list[Contender]
    recommended: Contender
    metrics: dict[str, Metric]
    comparison: Comparison
    assessed: int
    behaviours: int


@dataclass(frozen=True)
class Progress:
    """Where a run stands: ``stage`` is ``"tasks"``, ``"search"``, ``"compare"`` or ``"done"``.

    Attributes:
        stage: what is being done.
        done: steps of the stage that are done.
        of: steps of the stage.
        generation: the report of the last generation, in the stage ``"search"``.
    """

    stage: str
    done: int
    of: int
    generation: Generation | None = None


def evolve(
    config: SearchConfig | None = None,
    folder: str | Path = "runs/evolve",
    *,
    source: TaskSource | None = None,
    workers: int = 1,
    resume: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Result:
    """Evolve pruning metrics and compare the front with random pruning and L1.

    The result depends on ``config`` alone: not on the workers, and not on whether the run was
    killed and resumed on the way.

    Args:
        config: the settings; with ``resume`` they are read from the run folder.
        folder: the run folder; it must be new, unless ``resume``.
        source: where the tasks are.
        workers: number of processes; one torch thread each.
        resume: go on with the run in ``folder``.
        progress: hears where the run stands.

    Raises:
        UserError: a setting, task, folder or journal is not usable; the sentence says which.
    """
    folder = Path(folder)
    config = _agreed(config, folder, resume)
    source = source or TaskSource()
    for name in config.tasks:
        check_task_name(name)
    primitives = primitive_set(*config.primitives)
    runner = make_runner(source, workers)
    try:
        with _one_thread():
            benches = _prepared(config, source, runner, progress)
            # Written only now: input that cannot be used leaves no folder behind.
            if not resume:
                write_text(folder / CONFIG, config.to_toml())
            with Journal(folder) as journal:
                return _run(config, folder, primitives, benches, runner, journal, progress)
    finally:
        runner.close()


def _agreed(config: SearchConfig | None, folder: Path, resume: bool) -> SearchConfig:
    """The settings of the run, if the folder is fit for it."""
    if resume:
        if not (folder / CONFIG).is_file():
            raise UserError(f"{str(folder)!r} is not a run folder: it has no {CONFIG}")
        stored = SearchConfig.from_toml(folder / CONFIG)
        if config is not None and config != stored:
            changed = [
                field.name
                for field in fields(SearchConfig)
                if getattr(config, field.name) != getattr(stored, field.name)
            ]
            raise UserError(
                f"a resumed run keeps its settings, but {', '.join(changed)} would change; "
                "leave them out or start a new run"
            )
        return stored
    config = config or SearchConfig()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"run folder {str(folder)!r} exists and is not empty; "
            "give another --out, or go on with --resume"
        )
    return config


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread, as in the workers: sums depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepared(
    config: SearchConfig,
    source: TaskSource,
    runner: Runner,
    progress: Callable[[Progress], None],
) -> list[Bench]:
    progress(Progress("tasks", 0, len(config.tasks)))
    runner.prepare(config.tasks)
    benches = [Bench(source.load(name), config.calibration, config.seed) for name in config.tasks]
    progress(Progress("tasks", len(benches), len(benches)))
    return benches


def _run(
    config: SearchConfig,
    folder: Path,
    primitives: PrimitiveSet,
    benches: list[Bench],
    runner: Runner,
    journal: Journal,
    progress: Callable[[Progress], None],
) -> Result:
    seeds = [m for m in reference_metrics(primitives) if m.expression.axes is config.root]
    search = Search(config, primitives, benches, seeds, runner, journal)
    for generation in search.generations():
        progress(Progress("search", generation.number, generation.of, generation))
    front = search.archive.front(config.front_size)
    baselines = [Metric.load(name, primitives) for name in BASELINES[config.granularity]]
    entered = contenders(config, front, baselines)
    found = compare(
        config, benches, entered, runner, journal,
        lambda done, of: progress(Progress("compare", done, of)),
    )  # fmt: skip
    result = _result(config, folder, primitives, search.archive, entered, found)
    _write(result)
    progress(Progress("done", 1, 1))
    return result


def reference_metrics(primitives: PrimitiveSet) -> list[Metric]:
    """All bundled metrics, in order of name."""
    return [Metric.load(name, primitives) for name in bundled_metrics()]


def _result(
    config: SearchConfig,
    folder: Path,
    primitives: PrimitiveSet,
    archive: Archive,
    entered: Sequence[Contender],
    found: Comparison,
) -> Result:
    evolved = sorted(
        (c for c in entered if c.candidate is not None),
        key=lambda c: (found.mean(c.name, "validation"), c.expression.size, c.name),
    )
    metrics = {
        c.name: _metric(config, primitives, c, c.candidate, found)
        for c in evolved
        if c.candidate is not None
    }
    return Result(
        config=config,
        folder=folder,
        contenders=evolved + [c for c in entered if c.candidate is None],
        recommended=recommended(config, entered, found),
        metrics=metrics,
        comparison=found,
        assessed=archive.assessed,
        behaviours=archive.behaviours,
    )


def _metric(
    config: SearchConfig,
    primitives: PrimitiveSet,
    contender: Contender,
    candidate: Candidate,
    found: Comparison,
) -> Metric:
    objectives = {
        name: {
            "error": values[0],
            "macs": values[1],
            "params": values[2],
            "test_error": found.mean(contender.name, "test", kind="ladder", task=name),
        }
        for name, values in candidate.by_task.items()
    }
    return Metric(
        name=contender.name,
        expression=contender.expression,
        conventions=Conventions(config.scope, config.normaliser, config.join),
        primitives=primitives,
        description=f"evolved on {', '.join(config.tasks)}",
        source=f"gp-prune evolve, seed {config.seed}",
        objectives=objectives,
        provenance={"settings": _settings(config), "versions": _versions()},
    )


def _settings(config: SearchConfig) -> dict[str, object]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(config).items()
    }


def _versions() -> dict[str, str]:
    packages = ("gp-prune", "torch", "deap", "torch-pruning", "sympy", "numpy", "scikit-learn")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}


def _write(result: Result) -> None:
    """Write the metrics, the front and the comparison."""
    for name, metric in result.metrics.items():
        metric.save(result.folder / METRICS / f"{name}.json")
    write_text(result.folder / COMPARISON, _comparison_csv(result.comparison))
    write_text(result.folder / FRONT, _front_csv(result))


def _comparison_csv(found: Comparison) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Record)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(record) for record in found.records)
    return text.getvalue()


def _front_csv(result: Result) -> str:
    """One line for every formula of the front and every baseline."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    kinds = sorted({record.kind for record in result.comparison.records} - {"ladder"})
    columns = ["name", "recommended", "formula", "size", "error", "macs", "params", "test_error"]
    for kind in kinds:
        columns += [f"equal_{kind}_validation", f"equal_{kind}_test"]
    writer.writerow(columns)
    for contender in result.contenders:
        name = contender.name
        row: list[object] = [
            name, int(contender is result.recommended),
            str(contender.expression), contender.expression.size,
        ]  # fmt: skip
        row += ladder_objectives(result, contender)
        for kind in kinds:
            row += [result.comparison.mean(name, c, kind=kind) for c in ("validation", "test")]
        writer.writerow(row)
    return text.getvalue()


def ladder_objectives(result: Result, contender: Contender) -> list[float]:
    """Validation error, MACs kept, parameters kept and test error under the search's ladder.

    The errors of formulas of the front are those of the search; a baseline has those of the final
    comparison, which has the same ladder with the longer fine-tuning.
    """
    columns = ("validation", "macs", "params", "test")
    return [result.comparison.mean(contender.name, c, kind="ladder") for c in columns]
