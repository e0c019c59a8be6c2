"""Floor 9: what a run found, and its files: the front, the comparison, the metrics."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gp_prune.evolution.folder import versions
from gp_prune.files import write_text
from gp_prune.metric import Metric
from gp_prune.primitive import PrimitiveSet
from gp_prune.search.archive import Archive, Candidate
from gp_prune.search.comparison import KINDS, Comparison, Contender, Record, recommended
from gp_prune.search.config import SearchConfig

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
        kinds: ``"classification"`` or ``"reconstruction"`` for every task.
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


def assemble(
    config: SearchConfig,
    folder: Path,
    primitives: PrimitiveSet,
    archive: Archive,
    entered: Sequence[Contender],
    found: Comparison,
    kinds: Mapping[str, str],
) -> Result:
    """The result of a run from its parts; ``kinds`` says what each task is."""
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
        kinds=dict(kinds),
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
            "macs": values[1],
            "params": values[2],
            **{
                f"{column}_error": found.mean(contender.name, column, kind="ladder", task=name)
                for column in ("validation", "test")
            },
        }
        for name, values in candidate.by_task.items()
    }
    return Metric(
        name=contender.name,
        expression=contender.expression,
        conventions=config.conventions,
        primitives=primitives,
        description=f"{'tried' if contender.published else 'evolved'} on {', '.join(config.tasks)}",
        source=contender.published or f"gp-prune evolve, seed {config.seed}",
        objectives=objectives,
        provenance={"settings": settings_json(config), "versions": versions()},
    )


def settings_json(config: SearchConfig) -> dict[str, Any]:
    """The settings as JSON; of files of primitives the names and contents, not the places."""
    settings = config.to_json()
    settings["primitives"] = [
        f"{Path(file).name} sha256:{hashlib.sha256(Path(file).read_bytes()).hexdigest()}"
        for file in config.primitives
    ]
    return settings


def write(result: Result) -> None:
    """Write the metrics, the front and the comparison."""
    for metric in result.metrics.values():
        metric.save(result.folder / METRICS / f"{metric.name}.json")
    write_text(result.folder / COMPARISON, _comparison_csv(result.comparison))
    write_text(result.folder / FRONT, _front_csv(result))


def _comparison_csv(found: Comparison) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Record)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(record) for record in found.records)
    return text.getvalue()


def write_front_so_far(folder: Path, front: Sequence[Candidate]) -> None:
    """Write the front of a run that goes on; what the comparison will tell stays empty.

    Args:
        folder: the run folder.
        front: candidates, least error first.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = _columns(KINDS)
    writer.writerow(columns)
    for candidate in front:
        formula = [str(candidate.expression), candidate.expression.size]
        row: list[object] = ["", "", *formula, *candidate.objectives]
        writer.writerow(row + [""] * (len(columns) - len(row)))
    write_text(folder / FRONT, text.getvalue())


def _columns(kinds: Iterable[str]) -> list[str]:
    columns = ["name", "recommended", "formula", "size", "error", "macs", "params", "test_error"]
    for kind in kinds:
        columns += [f"equal_{kind}_validation", f"equal_{kind}_test"]
    return columns


def _front_csv(result: Result) -> str:
    """One line for every formula of the front and every baseline."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    kinds = sorted({record.kind for record in result.comparison.records} - {"ladder"})
    writer.writerow(_columns(kinds))
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

    The same protocol as in the search, so the first three are the objectives of the front.
    """
    columns = ("validation", "macs", "params", "test")
    return [result.comparison.mean(contender.name, c, kind="ladder") for c in columns]
