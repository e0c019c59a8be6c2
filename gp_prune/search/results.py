"""The result of a search, its files, and the evaluations of an earlier run to reuse."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from gp_prune._io import MOST_TEXT, read_file, write_text
from gp_prune.errors import UserError, pluralize
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.metric.metric import Metric
from gp_prune.runs.journal import NAME, entries
from gp_prune.search.archive import Archive, Candidate
from gp_prune.search.comparison import KINDS, Comparison, Contender, Record, recommend
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import AnyOutcome, outcome_reader

FRONT = "front.csv"
COMPARISON = "comparison.csv"
METRICS = "metrics"


@dataclass(frozen=True, repr=False)
class SearchResult:
    """The result of a search.

    Attributes:
        config: its settings.
        folder: its run folder.
        contenders: the front, best validation error at equal budgets first, then the baselines.
        recommended: the formula that the run recommends.
        metrics: the metric of every formula of the front, by name.
        comparison: the records of the final comparison.
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
    assessed: int
    behaviours: int
    kinds: dict[str, str]
    failures: dict[str, str]

    def __repr__(self) -> str:
        """Return the folder, the size of the front and the recommended formula."""
        front = pluralize(len(self.metrics), "formula")
        best = f"{self.recommended.name!r} = {self.recommended.expression}"
        return f"<SearchResult in {str(self.folder)!r}: {front} on the front, recommended {best}>"


def assemble(
    config: SearchConfig,
    folder: Path,
    primitives: PrimitiveSet,
    archive: Archive,
    entered: Sequence[Contender],
    comparison: Comparison,
    kinds: Mapping[str, str],
    failures: Mapping[str, str],
    begun: Mapping[str, Any],
) -> SearchResult:
    """Return the result of a run from its parts; ``begun`` is the header of its journal."""
    # What the run was begun with: files and packages may have changed since.
    settings = {name: begun[name] for name in config.to_json()}
    provenance = {"settings": settings, "versions": begun["versions"]}
    evolved = sorted(
        (c for c in entered if c.candidate is not None),
        key=lambda c: (comparison.mean(c.name, "validation"), c.expression.size, c.name),
    )
    return SearchResult(
        config=config,
        folder=folder,
        contenders=evolved + [c for c in entered if c.candidate is None],
        recommended=recommend(config, entered, comparison),
        metrics={c.name: _metric(config, primitives, c, comparison, provenance) for c in evolved},
        comparison=comparison,
        assessed=archive.assessed,
        behaviours=archive.behaviours,
        kinds=dict(kinds),
        failures=dict(failures),
    )


def _metric(
    config: SearchConfig,
    primitives: PrimitiveSet,
    contender: Contender,
    comparison: Comparison,
    provenance: dict[str, Any],
) -> Metric:
    def error(column: str, task: str) -> float:
        return comparison.mean(contender.name, column, kind="ladder", task=task)

    assert contender.candidate is not None
    return Metric(
        name=contender.name,
        expression=contender.expression,
        conventions=config.conventions,
        primitives=primitives,
        description=f"{'tried' if contender.published else 'evolved'} on {', '.join(config.tasks)}",
        source=contender.published or f"gp-prune evolve, seed {config.seed}",
        objectives={
            task: {
                "macs": macs,
                "params": params,
                "validation_error": error("validation", task),
                "test_error": error("test", task),
            }
            for task, (_, macs, params) in contender.candidate.by_task.items()
        },
        provenance=provenance,
    )


def settings_json(config: SearchConfig) -> dict[str, Any]:
    """Return the settings as JSON; of files of primitives the names and digests, not the paths."""
    settings = config.to_json()
    settings["primitives"] = [
        f"{Path(file).name} sha256:{hashlib.sha256(read_file(file, MOST_TEXT)).hexdigest()}"
        for file in config.primitives
    ]
    return settings


def write(result: SearchResult) -> None:
    """Write the metrics, the front and the comparison."""
    for metric in result.metrics.values():
        metric.save(result.folder / METRICS / f"{metric.name}.json")
    comparison = result.comparison
    columns = [field.name for field in fields(Record)]
    _write_csv(result.folder / COMPARISON, columns, map(astuple, comparison.records))
    kinds = sorted({record.kind for record in comparison.records} - {"ladder"})
    rows = [
        [
            contender.name, int(contender is result.recommended),
            str(contender.expression), contender.expression.size,
            *ladder_objectives(result, contender),
            *(
                comparison.mean(contender.name, column, kind=kind)
                for kind in kinds
                for column in ("validation", "test")
            ),
        ]
        for contender in result.contenders
    ]  # fmt: skip
    _write_csv(result.folder / FRONT, _front_columns(kinds), rows)


def write_front_so_far(folder: Path, front: Sequence[Candidate]) -> None:
    """Write the front of a run that has not ended; the columns of the comparison stay empty.

    Args:
        folder: the run folder.
        front: candidates, least error first.
    """
    columns = _front_columns(KINDS)
    rows = [["", "", str(c.expression), c.expression.size, *c.objectives] for c in front]
    empty = [""] * len(columns)
    _write_csv(folder / FRONT, columns, [row + empty[len(row) :] for row in rows])


def _front_columns(kinds: Iterable[str]) -> list[str]:
    columns = ["name", "recommended", "formula", "size", "error", "macs", "params", "test_error"]
    return columns + [f"equal_{kind}_{split}" for kind in kinds for split in ("validation", "test")]


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def ladder_objectives(result: SearchResult, contender: Contender) -> list[float]:
    """Return validation error, MACs kept, parameters kept and test error under the ladder.

    The same protocol as in the search, so the first three are the objectives of the front.
    """
    columns = ("validation", "macs", "params", "test")
    return [result.comparison.mean(contender.name, c, kind="ladder") for c in columns]


_SAME = {"versions": "packages", "device": "device"}
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
    if other.get("seed") != config.seed and all(map(config.steps, range(config.top_rung + 1))):
        return f"its seed was {other.get('seed')}, so all fine-tuning was different"
    return ""
