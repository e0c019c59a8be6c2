"""The result of a search, its files, and the evaluations of an earlier run to reuse."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gp_prune.apply.own_task import short_names
from gp_prune.base.files import MOST_TEXT, read_file
from gp_prune.base.html import shorten, table_html
from gp_prune.errors import UserError, pluralize
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.metric.metric import Metric
from gp_prune.pruning.plan.channels import BUDGET_KINDS
from gp_prune.runs.journal import NAME
from gp_prune.runs.journal_lines import entries
from gp_prune.search.archive import Archive, Candidate
from gp_prune.search.comparison import Comparison
from gp_prune.search.config import SearchConfig
from gp_prune.search.contenders import Contender
from gp_prune.search.evaluator import AnyOutcome, outcome_reader
from gp_prune.search.held_out import restrict
from gp_prune.search.objectives import ERRORS, LATENCY, SIZE, mean_cost
from gp_prune.search.recommendation import judge_of, judged_error, recommend
from gp_prune.search.start_formulas import load_select

if TYPE_CHECKING:
    from gp_prune.report.search_plots import SearchPlots

FRONT = "front.csv"
COMPARISON = "comparison.csv"
METRICS = "metrics"


@dataclass(frozen=True, repr=False)
class SearchResult:
    """The result of a search.

    Attributes:
        config: its settings.
        folder: its run folder.
        contenders: the front, the one that would be chosen by its error alone first, then the
            baselines.
        recommended: the formula that the run recommends.
        metrics: the metric of every formula of the front, by name.
        comparison: the records of the final comparison.
        held_out: those on tasks that are not in the search. In both, all are judged by the error
            of the search; in the first, the finalists, random scores and the baselines under the
            conventions of the front also by the other one; in the second, on the tasks that choose,
            the finalists and random scores.
        assessed: number of distinct formulas tried on all tasks.
        behaviours: number of distinct behaviours among them.
        kinds: ``"classification"`` or ``"reconstruction"`` for every task.
        failures: formula and task -> why the pair has the worst error: a limit that the user set,
            or the user's decision to set lost evaluations aside.
    """

    config: SearchConfig
    folder: Path
    contenders: list[Contender]
    recommended: Contender
    metrics: dict[str, Metric]
    comparison: Comparison
    held_out: Comparison
    assessed: int
    behaviours: int
    kinds: dict[str, str]
    failures: dict[str, str]

    def unseen_error(self, contender: Contender, split: str) -> float:
        """Return the mean error on the tasks that choose the winner; NaN where there are none.

        Args:
            contender: a formula of the front, or a baseline.
            split: ``"validation"`` or ``"test"``.
        """
        chooses = restrict(self.held_out, self.config.validation_tasks)
        return chooses.mean(contender.name, split) if chooses.records else math.nan

    @property
    def plot(self) -> SearchPlots:
        """Return the plots of the search: ``result.plot.front("front.pdf")``."""
        from gp_prune.report.search_plots import SearchPlots

        return SearchPlots(self)

    def __repr__(self) -> str:
        """Return the folder, the size of the front and the recommended formula."""
        front = pluralize(len(self.metrics), "formula")
        best = f"{self.recommended.name!r} = {shorten(str(self.recommended.expression))}"
        return f"<SearchResult in {str(self.folder)!r}: {front} on the front, recommended {best}>"

    def _repr_html_(self) -> str:
        """Return the front for a notebook, the recommended formula first; all text is escaped."""
        ranked = sorted(self.contenders, key=lambda c: c is not self.recommended)
        rows = [
            (
                c.name,
                c.expression.size,
                f"{ladder_objectives(self, c)[self.config.errors[0]]:.3f}",
                str(c.expression),
            )
            for c in ranked
        ]
        headings = ("metric", "size", "validation error", "formula")
        return table_html(repr(self)[1:-1], headings, rows)

    def _repr_latex_(self) -> str:
        """Return the recommended formula for a notebook."""
        return self.metrics[self.recommended.name].parts[-1]._repr_latex_()


def assemble(
    config: SearchConfig,
    folder: Path,
    primitives: PrimitiveSet,
    archive: Archive,
    entered: Sequence[Contender],
    comparison: Comparison,
    held_out: Comparison,
    kinds: Mapping[str, str],
    failures: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> SearchResult:
    """Return the result of a run from its parts."""
    judge = judge_of(config, comparison, held_out)
    evolved = sorted(
        (c for c in entered if c.candidate is not None),
        key=lambda c: (judged_error(c, judge), c.expression.size, c.name),
    )
    return SearchResult(
        config=config,
        folder=folder,
        contenders=evolved + [c for c in entered if c.candidate is None],
        recommended=recommend(config, entered, comparison, judge),
        metrics={
            c.name: candidate_metric(config, primitives, c, provenance, comparison) for c in evolved
        },
        comparison=comparison,
        held_out=held_out,
        assessed=archive.assessed,
        behaviours=archive.behaviours,
        kinds=dict(kinds),
        failures=dict(failures),
    )


def make_provenance(config: SearchConfig, begun: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings and package versions of a run as its metrics state them.

    Args:
        config: the settings now.
        begun: the header of the journal: files and packages may have changed since.
    """
    now = config.to_json()
    settings = {name: now[name] if name in config.ADJUSTABLE else begun[name] for name in now}
    # People exchange metrics, and where files are is nobody else's business.
    for name in ("tasks", "validate_on", "report_on"):
        settings[name] = list(short_names(settings[name]).values())
    for name in ("data", "model_weights"):
        settings[name] = Path(settings[name]).name
    return {"settings": settings, "versions": begun["versions"]}


def candidate_metric(
    config: SearchConfig,
    primitives: PrimitiveSet,
    contender: Contender,
    provenance: Mapping[str, Any],
    comparison: Comparison | None = None,
) -> Metric:
    """Return the metric of a formula of the front; with shares of layers, a pair.

    Args:
        config: the settings.
        primitives: the vocabulary.
        contender: the formula with its results in the search.
        provenance: see :func:`make_provenance`.
        comparison: the final comparison, which has its test error; None before.
    """
    candidate = contender.candidate
    assert candidate is not None
    first = config.errors[0]

    def errors(task: str, error: float) -> dict[str, float]:
        if comparison is None or not comparison.records:
            return {"validation_error": error}
        return {
            f"{split}_error": comparison.mean(
                contender.name, split, kind="ladder", task=task, error=first
            )
            for split in ("validation", "test")
        }

    shorts = short_names(config.tasks)
    names = ", ".join(shorts.values())
    metric = Metric(
        name=contender.name,
        expression=contender.expression,
        conventions=config.conventions,
        primitives=primitives,
        description=f"{'tried' if contender.published else 'evolved'} on {names}",
        source=contender.published or f"gp-prune evolve, seed {config.seed}",
        objectives={
            shorts[task]: {"macs": part["macs"], "params": part["params"]}
            | errors(task, part[first])
            for task, part in candidate.by_task.items()
        },
        provenance={**provenance, **_reduced_from(contender)},
    )
    return _paired(config, metric) if config.select else metric


def _paired(config: SearchConfig, shares: Metric) -> Metric:
    """Return the metric that chooses channels with the formula of the shares that was found."""
    chooses = load_select(config.select, shares.primitives)
    plain = Metric(
        f"{shares.name}_shares", shares.expression, shares.conventions, shares.primitives,
        description=shares.description, source=shares.source,
    )  # fmt: skip
    return replace(
        chooses, name=shares.name, shares=plain,
        source=f"{chooses.source or chooses.name}; the shares: {shares.source}",
        description=f"{chooses.name}, with shares of the layers {shares.description}",
        objectives=shares.objectives, provenance=shares.provenance,
    )  # fmt: skip


def _reduced_from(contender: Contender) -> dict[str, Any]:
    """Return the formula that the search found, and what was dropped of it, where it was longer."""
    reduction = contender.reduction
    if reduction is None or reduction.original == contender.expression:
        return {}
    return {"found_as": str(reduction.original), "dropped": list(reduction.steps)}


def settings_json(config: SearchConfig) -> dict[str, Any]:
    """Return the settings as JSON; of files of primitives the names and digests, not the paths."""
    settings = config.to_json()
    settings["primitives"] = [
        f"{Path(file).name} sha256:{hashlib.sha256(read_file(file, MOST_TEXT)).hexdigest()}"
        for file in config.primitives
    ]
    return settings


def shown_objectives(config: SearchConfig, candidate: Candidate) -> dict[str, float]:
    """Return the objectives of a candidate but for the size, which has a column in each table."""
    named = zip(config.names, candidate.objectives, strict=True)
    return {name: value for name, value in named if name != SIZE}


def ladder_objectives(result: SearchResult, contender: Contender) -> dict[str, float]:
    """Return the objectives of the search by name, without the size, and the test errors.

    They are measured under the same protocol as in the search, so those of a formula of the front
    are its objectives. A latency is measured in the search alone: others have NaN. Without a
    comparison there are no test errors.

    Returns:
        Name of the objective -> its value; then ``"test_NAME"`` -> test error of each error.
    """
    config, comparison = result.config, result.comparison
    if not comparison.records:
        assert contender.candidate is not None
        return shown_objectives(config, contender.candidate)

    def value(name: str) -> float:
        if name in ERRORS:
            return comparison.mean(contender.name, "validation", kind="ladder", error=name)
        if name == LATENCY:
            searched = contender.candidate
            return shown_objectives(config, searched)[name] if searched else math.nan
        rows = comparison.part(contender.name, kind="ladder")
        # A pattern keeps the same share of the parameters whatever the formula.
        kinds = [row.budget if row.budget in BUDGET_KINDS else "params" for row in rows]
        return mean_cost(name, [(k, getattr(r, name)) for k, r in zip(kinds, rows, strict=True)])

    values = {name: value(name) for name in config.names if name != SIZE}
    tested = {
        f"test_{name}": comparison.mean(contender.name, "test", kind="ladder", error=name)
        for name in config.errors
    }
    return values | tested


_SAME = {"evaluation": "evaluation protocol", "versions": "packages", "device": "device"}
"""What must be equal for an evaluation to have the same result, besides the networks."""


class EarlierRun:
    """The evaluations of another run; all are read at once, so that a wrong folder is named early.

    Args:
        folder: the other run folder.

    Raises:
        UserError: the folder has no journal, or the run had not begun.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        try:
            lines = list(entries(path, outcome_reader()))
        except OSError:
            raise UserError(f"run {str(folder)!r} cannot be reused: it has no {NAME}") from None
        begun: dict[str, Any] | None = None
        self._outcomes: dict[str, AnyOutcome] = {}
        for entry in lines:
            if isinstance(entry, tuple):
                key, outcome = entry
                if not outcome.failure:
                    self._outcomes[key] = outcome
            elif entry["event"] == "begin":
                begun = entry["run"]
        if begun is None:
            raise UserError(f"run {str(folder)!r} cannot be reused: it had not begun")
        self._folder = folder
        self._begun = begun

    def reusable(self, config: SearchConfig, identity: Mapping[str, Any]) -> dict[str, AnyOutcome]:
        """Return the outcomes that a new run may take over, by the key of the evaluation.

        An evaluation's key names its plan, fine-tuning and seed, so runs may differ in all
        settings of the search: a longer run, another population or strategy. With another seed,
        only what was evaluated without fine-tuning is the same. A stack's key names its members,
        so of networks that were fine-tuned in stacks a longer run can use the outcomes, another
        population hardly any. Failures are not taken over: they may be due to the machine.

        Args:
            config: the settings of the new run.
            identity: what the new run writes at the beginning of its journal.

        Raises:
            UserError: the protocol of the other run is another one.
        """
        difference = _difference(self._begun, config, identity)
        if difference:
            raise UserError(
                f"run {str(self._folder)!r} cannot be reused: {difference}; leave out --reuse"
            )
        return self._outcomes


def _difference(other: Mapping[str, Any], config: SearchConfig, identity: Mapping[str, Any]) -> str:
    """Return why outcomes of the other run would not be those of this one; empty if they would."""
    for name, title in _SAME.items():
        if other.get(name) != identity[name]:
            return f"its {title}: {other.get(name)!r}, not {identity[name]!r}"
    theirs, ours = other.get("networks", {}), identity["networks"]
    shared = [name for name in ours if name in theirs]
    if not shared:
        return f"it has none of the tasks {', '.join(ours)}"
    changed = [name for name in shared if theirs[name] != ours[name]]
    if changed:
        return f"its networks of {', '.join(changed)} were others"
    for name, digest in identity.get("samples", {}).items():
        if name in shared and other.get("samples", {}).get(name) != digest:
            return f"its data of {name} were others"
    if other.get("seed") != config.seed and all(map(config.steps, range(config.top_rung + 1))):
        return f"its seed was {other.get('seed')}, so all fine-tuning was different"
    return ""
