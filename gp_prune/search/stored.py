"""The files of a result that a person reads and exchanges, and the result read from them.

``front.csv`` and ``metrics/`` hold the front so far while a run goes on. ``result.json`` is written
last: where it is, the run has ended.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from gp_prune.base.files import MOST_JSON, read_file, write_text
from gp_prune.base.json_fields import parse_json, read_object, write_json
from gp_prune.errors import UserError
from gp_prune.language.expression import ExpressionError
from gp_prune.language.parser import parse
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric, bundled_metrics, is_metric_name
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.journal import NAME
from gp_prune.runs.journal_lines import entries
from gp_prune.search.archive import Candidate
from gp_prune.search.comparison import Comparison, Record, equal_kinds
from gp_prune.search.config import SearchConfig
from gp_prune.search.contenders import Contender, find_published, name_candidate
from gp_prune.search.evaluator import outcome_reader
from gp_prune.search.objectives import SIZE
from gp_prune.search.results import (
    COMPARISON,
    FRONT,
    METRICS,
    SearchResult,
    candidate_metric,
    ladder_objectives,
    settings_json,
    shown_objectives,
)

RESULT = "result.json"
HELD_OUT = "held_out.csv"

_KIND = "gp-prune search result"
_SCHEMA = 1
_OWN_NAME = re.compile(r"(channel|weight|layer)_[0-9a-f]{8}\.json")


def check_length(config: SearchConfig, folder: Path) -> None:
    """Raise UserError where a run that is resumed would end before what it has done already."""
    if not (folder / CONFIG).is_file() or not (folder / NAME).is_file():
        return
    if config.generations >= SearchConfig.from_toml(folder / CONFIG).generations:
        return
    done = 0
    for entry in entries(folder / NAME, outcome_reader()):
        if isinstance(entry, dict) and entry["event"] == "generation":
            done = max(done, int(entry["number"]))
    if config.generations < done:
        raise UserError(
            f"run {str(folder)!r} has done generation {done} already, so it cannot end after "
            f"generation {config.generations}; give {done} or more --generations, or start a new "
            "run"
        )


def write(result: SearchResult, settings: Mapping[str, Any]) -> None:
    """Write the metrics, the front, the comparison and, last, what marks the run as finished.

    Args:
        result: of the run.
        settings: of the run, as :func:`~gp_prune.search.results.settings_json` returns them.
    """
    _write_metrics(result.folder, result.metrics.values())
    comparison = result.comparison
    columns = [field.name for field in fields(Record)]
    _write_csv(result.folder / COMPARISON, columns, map(astuple, comparison.records))
    if result.held_out.records:
        _write_csv(result.folder / HELD_OUT, columns, map(astuple, result.held_out.records))
    else:
        (result.folder / HELD_OUT).unlink(missing_ok=True)
    rows = []
    for contender in result.contenders:
        figures = [*ladder_objectives(result, contender).values()]
        if comparison.records:
            figures += [
                comparison.mean(contender.name, column, kind=kind)
                for kind in equal_kinds(result.config)
                for column in ("validation", "test")
            ]
            figures += [result.unseen_error(contender, split) for split in ("validation", "test")]
        expression = contender.expression
        mark = int(contender is result.recommended)
        rows.append([contender.name, mark, str(expression), expression.size, *figures])
    _write_front(result.config, result.folder, rows)
    write_json(result.folder / RESULT, _to_json(result, settings))


class FrontSoFar:
    """Writes the front of a run that goes on: its table and a file for each metric.

    The files of formulas that left the front are removed.

    Args:
        config: the settings.
        folder: the run folder.
        primitives: the vocabulary.
        published: the reference metrics, whose formulas keep their names.
        provenance: of the metrics.
    """

    def __init__(
        self,
        config: SearchConfig,
        folder: Path,
        primitives: PrimitiveSet,
        published: Sequence[Metric],
        provenance: Mapping[str, Any],
    ) -> None:
        self._config = config
        self._folder = folder
        self._primitives = primitives
        self._known = find_published(config, published)
        self._provenance = provenance
        self._written: dict[str, Metric] = {}

    def write(self, front: Sequence[Candidate]) -> None:
        """Write the front, least error first; the columns of the comparison stay empty.

        The files of new metrics come first, so that the table names no file that is missing.
        """
        entered = [name_candidate(self._config, self._known, candidate) for candidate in front]
        metrics = {
            contender.name: candidate_metric(
                self._config, self._primitives, contender, self._provenance
            )
            for contender in entered
        }
        new = [m for name, m in metrics.items() if self._written.get(name) != m]
        for metric in new:
            metric.save(self._folder / METRICS / f"{metric.name}.json")
        rows: list[list[object]] = [
            [
                c.name,
                "",
                str(c.expression),
                c.expression.size,
                *shown_objectives(self._config, c.candidate).values(),
            ]
            for c in entered
            if c.candidate is not None
        ]
        _write_front(self._config, self._folder, rows)
        _remove_others(self._folder, metrics)
        self._written = metrics


def _write_metrics(folder: Path, metrics: Iterable[Metric]) -> None:
    """Write the files of the metrics, and remove those of formulas that left the front."""
    kept = {metric.name: metric for metric in metrics}
    for metric in kept.values():
        metric.save(folder / METRICS / f"{metric.name}.json")
    _remove_others(folder, kept)


def _remove_others(folder: Path, kept: Iterable[str]) -> None:
    """Remove the metric files of a run that are not to be kept; other files are not touched."""
    names = {f"{name}.json" for name in kept}
    published = bundled_metrics("reference")
    for path in (folder / METRICS).glob("*.json"):
        own = _OWN_NAME.fullmatch(path.name) or path.stem.rpartition("_")[0] in published
        if own and path.name not in names:
            path.unlink()


def _write_front(config: SearchConfig, folder: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write the table of the front; what is not known, at the end of a row or NaN, stays empty."""
    measured = [name for name in config.names if name != SIZE]
    columns = ["name", "recommended", "formula", "size", *measured]
    columns += [f"test_{name}" for name in config.errors]
    columns += [
        f"equal_{kind}_{split}" for kind in equal_kinds(config) for split in ("validation", "test")
    ]
    columns += ["unseen_validation", "unseen_test"]
    filled = [
        ["" if value != value else value for value in row] + [""] * (len(columns) - len(row))
        for row in rows
    ]
    _write_csv(folder / FRONT, columns, filled)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _to_json(result: SearchResult, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the other files do not hold of a result, as JSON."""
    return {
        "kind": _KIND,
        "schema": _SCHEMA,
        "settings": dict(settings),
        "assessed": result.assessed,
        "behaviours": result.behaviours,
        "recommended": result.recommended.name,
        "kinds": result.kinds,
        "failures": result.failures,
        "contenders": [_contender_json(contender) for contender in result.contenders],
    }


def _contender_json(contender: Contender) -> dict[str, Any]:
    candidate = contender.candidate
    return {
        "name": contender.name,
        "formula": str(contender.expression),
        "conventions": contender.conventions.to_json(),
        "published": contender.published,
        "candidate": None if candidate is None else {
            "objectives": list(candidate.objectives),
            "behaviour": candidate.behaviour,
            "by_task": {name: dict(values) for name, values in candidate.by_task.items()},
            "rung": candidate.rung,
            "earlier": [list(values) for values in candidate.earlier],
        },
    }  # fmt: skip


def read(config: SearchConfig, folder: Path, primitives: PrimitiveSet) -> SearchResult | None:
    """Read the result of a run with these settings; return None where it has not ended.

    Nothing is trained or evaluated.

    Raises:
        UserError: a file of the result is damaged or missing.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        content = parse_json(read_file(path, MOST_JSON))
        data = read_object(content, "result", _FIELDS)
        if data["kind"] != _KIND or data["schema"] != _SCHEMA:
            raise ValueError(f"its kind is {data['kind']!r}, schema {data['schema']!r}")
        if data["settings"] != settings_json(config):
            return None
        contenders = [_read_contender(entry, primitives) for entry in data["contenders"]]
        kinds = sorted({*data["kinds"], *config.tasks})
        (recommended,) = (c for c in contenders if c.name == data["recommended"] and c.candidate)
        metrics = {
            contender.name: Metric.load(folder / METRICS / f"{contender.name}.json", primitives)
            for contender in contenders
            if contender.candidate is not None
        }
        comparison = Comparison(_read_records(folder / COMPARISON), config)
        held_out = Comparison(
            _read_records(folder / HELD_OUT) if (folder / HELD_OUT).exists() else [],
            config,
        )
        if config.comparison:
            others = (*config.validation_tasks, *config.report_on)
            _check_complete(contenders, comparison, ("ladder", *equal_kinds(config)), config.tasks)
            _check_complete(contenders, held_out, equal_kinds(config), others)
        return SearchResult(
            config=config,
            folder=folder,
            contenders=contenders,
            recommended=recommended,
            metrics=metrics,
            comparison=comparison,
            held_out=held_out,
            assessed=data["assessed"],
            behaviours=data["behaviours"],
            kinds={name: str(data["kinds"][name]) for name in kinds},
            failures={str(title): str(reason) for title, reason in data["failures"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, ExpressionError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"the result in {str(folder)!r} cannot be read: {reason}; remove {str(path)!r}, and "
            "--resume computes it from the journal"
        ) from None


_FIELDS = {
    "kind": str, "schema": int, "settings": dict, "assessed": int, "behaviours": int,
    "recommended": str, "kinds": dict, "failures": dict, "contenders": list,
}  # fmt: skip
_CONTENDER = {
    "name": str, "formula": str, "conventions": dict, "published": str,
}  # fmt: skip
_CANDIDATE = {
    "objectives": list, "behaviour": str, "by_task": dict, "rung": int, "earlier": list,
}  # fmt: skip


def _read_contender(entry: Any, primitives: PrimitiveSet) -> Contender:
    entry = dict(entry)
    candidate = entry.pop("candidate")
    data = read_object(entry, "contender", _CONTENDER)
    if not is_metric_name(data["name"]):  # it becomes a part of a path
        raise ValueError(f"{data['name']!r} is no name of a metric")
    expression = parse(data["formula"], primitives)
    tried = None
    if candidate is not None:
        values = read_object(candidate, "candidate", _CANDIDATE)
        tried = Candidate(
            expression,
            _numbers(values["objectives"]),
            values["behaviour"],
            {
                str(name): {str(what): float(value) for what, value in row.items()}
                for name, row in values["by_task"].items()
            },
            rung=values["rung"],
            earlier=tuple(map(_numbers, values["earlier"])),
        )
    return Contender(
        data["name"], expression, Conventions.from_json(data["conventions"]), tried,
        data["published"],
    )  # fmt: skip


def _check_complete(
    contenders: Sequence[Contender],
    comparison: Comparison,
    kinds: Sequence[str],
    tasks: Sequence[str],
) -> None:
    """Raise ValueError where nothing was measured of a formula on a task, at a kind of budget."""
    measured = {(record.contender, record.kind, record.task) for record in comparison.records}
    for contender in contenders:
        for kind in kinds:
            for task in tasks:
                if (contender.name, kind, task) not in measured:
                    raise ValueError(f"{contender.name} was not measured on {task} ({kind})")


def _numbers(values: Iterable[Any]) -> Any:
    return tuple(float(value) for value in values)


def _read_records(path: Path) -> list[Record]:
    """Read the records of the comparison from its table."""
    rows = csv.DictReader(io.StringIO(read_file(path, MOST_JSON).decode()))
    texts = ("contender", "task", "kind", "budget", "error")
    types = {**dict.fromkeys(texts, str), "repeat": int}
    return [
        Record(**{field.name: types.get(field.name, float)(row[field.name]) for field in _RECORD})
        for row in rows
    ]


_RECORD = fields(Record)
