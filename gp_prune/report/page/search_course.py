"""How a search went: the front over the generations, what survived, and the winner's ancestors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from gp_prune.errors import pluralize
from gp_prune.report.page.common import count_of
from gp_prune.report.page.formulas import FormulaPrinter
from gp_prune.report.page.parts import (
    Cell,
    Heat,
    Part,
    Plot,
    Point,
    Row,
    Section,
    Series,
    Table,
)
from gp_prune.report.page.search_log import Birth, SearchLog, Turn
from gp_prune.search.config import SearchConfig
from gp_prune.search.results import SearchResult

_MOST_COLUMNS = 60
_MOST_NAMES = 14
_MOST_ANCESTORS = 30
_OPERATORS = {
    "crossover": "crossover",
    "subtree": "a subtree was drawn again",
    "node": "a node was replaced",
    "constant": "a constant was changed",
    "insert": "a node was put in",
    "shrink": "a part was taken out",
    "graft": "a part of a published metric was put in",
}


def course_sections(
    config: SearchConfig, log: SearchLog, result: SearchResult | None, printer: FormulaPrinter
) -> list[Section]:
    """Return the sections on the course of a search; none before its first generation."""
    if not log.turns:
        return []
    sections = [Section("Over the generations", course_plots(log.turns))]
    if log.turns[-1].population is not None:
        sections.append(Section("What survives", _survival(log.turns, printer)))
    if result is not None:
        sections.append(
            Section("Lineage of the recommended formula", _lineage(log, result, printer))
        )
    return sections


def course_plots(turns: Sequence[Turn]) -> list[Plot]:
    """Return hypervolume, least error and diversity over the generations."""
    volume = [Point(t.number, t.hypervolume, f"generation {t.number}") for t in turns]
    least = [
        Point(t.number, t.front[0][1][0], f"generation {t.number}: {t.front[0][0]}")
        for t in turns
        if t.front
    ]
    parts: list[Plot] = [
        Plot("Hypervolume of the front", "generation", "hypervolume",
             [Series("hypervolume", "best", volume, line=True)], whole=True),
        Plot("Least error so far", "generation", "validation error",
             [Series("least error", "best", least, line=True)], whole=True),
    ]  # fmt: skip
    distinct = [
        Point(
            t.number, t.population["distinct"] / t.population["subtrees"], f"generation {t.number}"
        )
        for t in turns
        if t.population is not None and t.population["subtrees"]
    ]
    new = []
    for before, after in pairwise([Turn(-1, 0, 0, 0, 0.0, (), None), *turns]):
        tried = after.assessed - before.assessed
        if tried > 0:
            share = (after.behaviours - before.behaviours) / tried
            new.append(Point(after.number, share, f"generation {after.number}"))
    series = [
        Series("different subtrees among all of the population", "best", distinct, line=True),
        Series("new formulas that prune in a new way", "published", new, line=True),
    ]
    parts.append(
        Plot("Diversity", "generation", "share", [s for s in series if s.points],
             whole=True, zero=True)
    )  # fmt: skip
    return parts


def _survival(turns: Sequence[Turn], printer: FormulaPrinter) -> list[Part]:
    counted = [(turn.number, turn.population) for turn in turns if turn.population is not None]
    step = -(-len(counted) // _MOST_COLUMNS)
    shown = counted[::-1][::step][::-1]  # the last one is always shown
    numbers = [number for number, _ in shown]
    censuses = [census for _, census in shown]
    parts: list[Part] = [
        "Share of the formulas of the population, after each generation, that have it."
    ]
    for field, title in (("operands", "Operands"), ("operators", "Operators")):
        names = {name for census in censuses for name in census[field]}
        shares = {name: [_share(census, field, name) for census in censuses] for name in names}
        order = sorted(names, key=lambda name: (-shares[name][-1], -sum(shares[name]), name))
        rows = [(name, shares[name]) for name in order[:_MOST_NAMES]]
        more = f", the {len(rows)} most frequent of {len(order)}" if len(order) > len(rows) else ""
        parts.append(Heat(title + more, numbers, rows))
    last = censuses[-1]
    common = [
        Row([printer.cell(text), count_of(count, last["formulas"])])
        for text, count in last["common"]
    ]
    if common:
        title = "Subtrees that most formulas of the last population share"
        parts.append(Table(["subtree", "formulas"], common, title))
    return parts


def _share(census: Mapping[str, Any], field: str, name: str) -> float:
    return float(census[field].get(name, 0) / max(1, census["formulas"]))


def _lineage(log: SearchLog, result: SearchResult, printer: FormulaPrinter) -> list[Part]:
    best = result.recommended
    metric = result.metrics[best.name]
    found = str(metric.provenance.get("found_as", best.expression))
    ancestors = log.ancestors(found)
    if len(ancestors) == 1 and ancestors[0][1] is None:
        origin = f"It is the published metric {best.published}." if best.published else (
            "It was not bred: it is of the first population, or was drawn at random."
        )  # fmt: skip
        return [origin]
    keys = {text: f"a{count}" for count, (text, _) in enumerate(ancestors)}
    shown = ancestors[:_MOST_ANCESTORS]
    listed = {text for text, _ in shown}
    parts: list[Part] = []
    if found != str(best.expression):
        parts.append(
            "The search found a longer form, from which parts without effect were dropped."
        )
    rows = [
        Row(
            [
                Cell(f"{keys[text][1:]}"),
                Cell(str(birth.generation) if birth else "0 or drawn"),
                Cell(_OPERATORS.get(birth.operator, birth.operator) if birth else "start"),
                printer.cell(text),
                _error(log, text),
                *_parents(birth, keys, listed),
            ],
            keys[text],
        )
        for text, birth in shown
    ]
    headings = [
        "number", "generation", "how", "formula", "validation error", "parent", "other parent"
    ]  # fmt: skip
    parts.append(Table(headings, rows))
    if len(ancestors) > len(shown):
        parts.append(f"{pluralize(len(ancestors) - len(shown), 'older ancestor')} are left out.")
    return parts


def _error(log: SearchLog, text: str) -> Cell:
    tried = log.tried.get(text)
    return Cell("") if tried is None else Cell(f"{tried[1][0]:.3f}", tried[1][0])


def _parents(birth: Birth | None, keys: dict[str, str], listed: set[str]) -> list[Cell]:
    parents = [*dict.fromkeys(birth.parents)] if birth else []
    cells = [
        Cell(keys[text][1:], target=keys[text] if text in listed else "") for text in parents[:2]
    ]
    return cells + [Cell("")] * (2 - len(cells))
