"""A search in the manner of scikit-learn: settings, ``fit``, and results that end with ``_``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from gp_prune.base.files import MOST_JSON, read_file
from gp_prune.errors import UserError
from gp_prune.language.primitive import PrimitiveSet, primitive_set
from gp_prune.metric.metric import Metric, is_metric_name
from gp_prune.runs.callbacks import AnyCallback, StopRun
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.settings import check_trust
from gp_prune.search.config import AUTO, DEFAULT_TASKS, SearchConfig
from gp_prune.search.given_tasks import find_held, name_of
from gp_prune.search.nsga2 import Generation
from gp_prune.search.results import FRONT, METRICS, SearchResult
from gp_prune.search.run import SearchProgress, evolve
from gp_prune.search.stored import read

if TYPE_CHECKING:
    import pandas as pd

_DIRECT = ("tasks", "validate_on", "granularity", "population", "generations", "random_state")
"""Settings that have a parameter of their own."""


class NotFitted(UserError, NotFittedError):  # type: ignore[misc,unused-ignore]
    """There is no result yet."""


class MetricSearch(BaseEstimator):  # type: ignore[misc,unused-ignore]
    """Evolve pruning metrics on networks.

    ``MetricSearch(tasks=[task, "lenet-digits"]).fit().best_.prune(model, x, keep_macs=0.5)`` finds
    a metric and prunes a network with it. The parameters are those of ``gp-prune evolve``; a run
    is left in a run folder, which the command line reads, too.

    Args:
        tasks: what every formula is tried on: names, such as ``"lenet-digits"``, or tasks of your
            own (:class:`gp_prune.Task`), each with a name.
        population: formulas that survive a generation.
        generations: generations after the first population.
        random_state: the seed of all random numbers, a whole number.
        granularity: ``"channel"``, ``"weight"``, or ``"layer"`` for shares of layers.
        validate_on: names of tasks, none of them among ``tasks``, that choose the best formula; an
            empty list means none. By default they are two built-in networks.
        settings: further settings by name, see :class:`gp_prune.SearchConfig`.
        folder: the run folder; by default the first of ``runs/001``, ... that is free.
        workers: number of processes.
        source: where tasks are, and the device.
        verbose: whether to show the progress.
        callbacks: follow the search, see :class:`gp_prune.Callback`; a function is called with
            each :class:`~gp_prune.search.nsga2.Generation`. One may call :meth:`stop`.

    Attributes:
        front_: the front as a pandas DataFrame: name, formula, size, objectives, and what was
            measured on each task.
        best_: the metric that is recommended.
        metrics_: name -> metric of every formula of the front.
        result_: the whole :class:`~gp_prune.search.results.SearchResult`; None where the search
            was stopped before its end.
        folder_: the run folder.
    """

    front_: pd.DataFrame
    best_: Metric
    metrics_: dict[str, Metric]
    result_: SearchResult | None
    folder_: Path

    def __init__(
        self,
        tasks: Sequence[Any] = DEFAULT_TASKS,
        *,
        population: int = SearchConfig.population,
        generations: int = SearchConfig.generations,
        random_state: int = SearchConfig.seed,
        granularity: str = SearchConfig.granularity,
        validate_on: Sequence[str] = (AUTO,),
        settings: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
        workers: int = 1,
        source: TaskSource | None = None,
        verbose: bool = True,
        callbacks: Sequence[AnyCallback] = (),
    ) -> None:
        # As scikit-learn asks, nothing is checked or copied here: clone() compares by identity.
        self.tasks = tasks
        self.population = population
        self.generations = generations
        self.random_state = random_state
        self.granularity = granularity
        self.validate_on = validate_on
        self.settings = settings
        self.folder = folder
        self.workers = workers
        self.source = source
        self.verbose = verbose
        self.callbacks = callbacks

    def fit(self, X: object = None, y: object = None, *, resume: bool = False) -> Self:
        """Search; the result is in the attributes that end with ``_``, and in the run folder.

        Args:
            X: ignored; the tasks hold the data.
            y: ignored.
            resume: continue the run in ``folder``, which had the same settings but perhaps fewer
                generations.

        Raises:
            UserError: a setting, task or folder is not usable; the sentence says which.
            KeyboardInterrupt: it was interrupted; the front so far is in the attributes.
        """
        config = self._config()
        if resume and self.folder is None:
            raise UserError("fit(resume=True) goes on with the run in folder; give that folder")
        folder = Path(self.folder) if self.folder is not None else _free_folder()
        options: dict[str, Any] = {}
        if any(not isinstance(task, str) for task in self.tasks):
            options["tasks"] = list(self.tasks)
        self._stopped = False
        primitives = primitive_set(*config.primitives)
        with self._display() as show:
            result = None
            try:
                result = evolve(
                    config, folder, source=self.source, workers=self.workers, resume=resume,
                    trust=config.python_files if resume else (), progress=show,
                    callbacks=(*self.callbacks, self._stop_if_asked), **options,
                )  # fmt: skip
            except StopRun:
                pass
            except KeyboardInterrupt:
                if (folder / FRONT).is_file():
                    self._keep(folder, primitives, None)
                raise
        self._keep(folder, primitives, result)
        return self

    def stop(self) -> None:
        """End the search after the present generation, with the front so far.

        There is no final comparison then; ``fit(resume=True)`` goes on. Call it from a callback or
        from another thread.
        """
        self._stopped = True

    def _stop_if_asked(self, generation: Generation) -> None:
        if self._stopped:
            raise StopRun

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        trust: Sequence[str | Path] = (),
        source: TaskSource | None = None,
    ) -> MetricSearch:
        """Return the search of a run folder with its result, or with its front so far.

        Nothing is trained or evaluated.

        Args:
            folder: the run folder.
            trust: Python files of primitives that the run names and that may be executed.
            source: where tasks are, and the device; for a later ``fit(resume=True)``.

        Raises:
            UserError: it is no run folder, a file in it is damaged, or it names a Python file that
                is not trusted.
        """
        folder = Path(folder)
        if not (folder / CONFIG).is_file():
            raise UserError(f"{str(folder)!r} is not a run folder: it has no {CONFIG}")
        config = SearchConfig.from_toml(folder / CONFIG)
        check_trust(config.python_files, trust, f"run {str(folder)!r}")
        default = SearchConfig(tasks=config.tasks, granularity=config.granularity)
        changed = {name: getattr(config, name) for name in config.changed(default)}
        further = {n: v for n, v in changed.items() if n not in (*_DIRECT, "seed")}
        search = cls(
            config.tasks, population=config.population, generations=config.generations,
            random_state=config.seed, granularity=config.granularity,
            validate_on=config.validate_on, settings=further or None, folder=folder, source=source,
        )  # fmt: skip
        primitives = primitive_set(*config.primitives)
        search._keep(folder, primitives, read(config, folder, primitives))
        return search

    def _config(self) -> SearchConfig:
        """Return the settings of the run."""
        further = dict(self.settings or {})
        for name in further:
            if name in (*_DIRECT, "seed"):
                word = "random_state" if name == "seed" else name
                raise UserError(f"settings hold {name!r}; give it as {word}= of MetricSearch")
            if name not in SearchConfig.__dataclass_fields__:
                known = ", ".join(SearchConfig.__dataclass_fields__)
                raise UserError(f"unknown setting {name!r}; there are {known}")
        if isinstance(self.tasks, str):
            raise UserError(f"tasks is the text {self.tasks!r}; give a list of tasks")
        find_held(self.tasks)  # refuses what is no task
        names = tuple(map(name_of, self.tasks))
        return SearchConfig(
            tasks=names, population=self.population, generations=self.generations,
            seed=self.random_state, granularity=self.granularity,
            validate_on=tuple(self.validate_on), **further,
        )  # fmt: skip

    def _display(self) -> AbstractContextManager[Callable[[SearchProgress], None]]:
        """Return what shows the progress."""
        if not self.verbose:
            return nullcontext(lambda now: None)
        # A screen is imported when one is wanted.
        from gp_prune.report.search_progress import progress_display

        return progress_display(quiet=False)

    def _keep(self, folder: Path, primitives: PrimitiveSet, result: SearchResult | None) -> None:
        """Set the attributes that hold the result, from the files of the run."""
        import pandas as pd  # where it is used alone: it takes a third of a second

        path = folder / FRONT
        if not path.is_file():
            raise NotFitted(
                f"run {str(folder)!r} has no front yet: its first generation was not done"
            )
        rows = list(csv.DictReader(io.StringIO(read_file(path, MOST_JSON).decode())))
        # A run that is killed while it writes may lack a file of the front for a moment.
        rows = [row for row in rows if is_metric_name(row["name"])]
        rows = [row for row in rows if (folder / METRICS / f"{row['name']}.json").is_file()]
        self.metrics_ = {
            row["name"]: Metric.load(folder / METRICS / f"{row['name']}.json", primitives)
            for row in rows
        }
        front = pd.DataFrame(rows)
        for column in front.columns.difference(["name", "formula"]):
            front[column] = pd.to_numeric(front[column], errors="coerce")
        for task, what in _measured(self.metrics_.values()):
            front[f"{task} {what}"] = [
                metric.objectives[task].get(what) for metric in self.metrics_.values()
            ]
        self.front_ = front.dropna(axis="columns", how="all")
        self.best_ = self.metrics_[_best(rows, result, self._recommended_size())]
        self.result_ = result
        self.folder_ = folder

    def _recommended_size(self) -> int:
        size = (self.settings or {}).get("recommended_size", SearchConfig.recommended_size)
        return int(size)

    def __getattr__(self, name: str) -> Any:
        """Say that there is no result yet."""
        if name in ("front_", "best_", "metrics_", "result_", "folder_"):
            # An AttributeError, as hasattr() and scikit-learn expect.
            raise NotFitted(f"this MetricSearch has no {name} yet; call fit() first")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __sklearn_is_fitted__(self) -> bool:
        return "front_" in vars(self)

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        """Return the tasks, the size of the search and, after it, the best formula."""
        names = [str(name_of(task)) for task in self.tasks]
        found = f", best {self.best_.name!r} of {len(self.front_)}" if "best_" in vars(self) else ""
        return (
            f"<MetricSearch on {', '.join(names)}: population {self.population}, "
            f"generations {self.generations}, random_state {self.random_state}{found}>"
        )


def _free_folder() -> Path:
    numbered = (Path("runs") / f"{number:03d}" for number in range(1, 10**6))
    return next(folder for folder in numbered if not folder.exists())


def _measured(metrics: Iterable[Metric]) -> list[tuple[str, str]]:
    """Return what was measured of metrics: pairs of a task and a name."""
    pairs = [(task, what) for m in metrics for task, row in m.objectives.items() for what in row]
    return list(dict.fromkeys(pairs))


def _best(rows: Sequence[Mapping[str, str]], result: SearchResult | None, readable: int) -> str:
    """Return the name of the recommended formula, or of the best so far that can be read.

    ``rows`` are those of the front so far, least error first.
    """
    if result is not None:
        return result.recommended.name
    small = [row for row in rows if int(row["size"]) <= readable] or rows
    return small[0]["name"]
