"""What the journal of a search says, read without its primitives and checked field by field."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gp_prune.base.json_fields import read_object
from gp_prune.report.page.common import reading_journal
from gp_prune.runs.journal import NAME
from gp_prune.runs.journal_lines import entries
from gp_prune.search.evaluator import StackOutcome, outcome_reader

_STEPS = re.compile(r".*:[0-9a-f]+:(\d+):\d+(?::first\d+)?(\+\w+)*")


@dataclass(frozen=True)
class Turn:
    """The state of a search after a generation.

    Attributes:
        number: of the generation.
        assessed: formulas tried so far.
        behaviours: different plans among them.
        evaluations: networks pruned and measured so far.
        hypervolume: of the front.
        front: text and objectives of each formula.
        population: see :func:`gp_prune.search.census.take_census`; None in a run of an earlier
            version.
    """

    number: int
    assessed: int
    behaviours: int
    evaluations: int
    hypervolume: float
    front: Sequence[tuple[str, tuple[float, ...]]]
    population: Mapping[str, Any] | None


@dataclass(frozen=True)
class Birth:
    """What a formula was bred from."""

    generation: int
    operator: str
    parents: tuple[str, ...]


@dataclass(frozen=True)
class LayerShares:
    """What a formula keeps of the layers of a network: name, kept, and how many there were."""

    task: str
    budget: str
    keep: float
    layers: Sequence[tuple[str, int, int]]


@dataclass
class SearchLog:
    """The journal of a search.

    Attributes:
        begun: what decided the results.
        turns: the generations, in order.
        tried: text of a formula -> its rung and objectives.
        births: text of a formula -> what it was bred from.
        shares: what the recommended formula keeps.
        evaluations: number of networks that were pruned and measured.
        batches: mini-batches of fine-tuning of all of them.
        stopped: the rule that ended the search early, if it is a time limit.
    """

    begun: dict[str, Any] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    tried: dict[str, tuple[int, tuple[float, ...]]] = field(default_factory=dict)
    births: dict[str, Birth] = field(default_factory=dict)
    shares: list[LayerShares] = field(default_factory=list)
    evaluations: int = 0
    batches: int = 0
    stopped: str = ""

    @property
    def rungs(self) -> Counter[int]:
        """Return the number of formulas by the highest rung on which they were tried."""
        return Counter(rung for rung, _ in self.tried.values())

    def ancestors(self, text: str) -> list[tuple[str, Birth | None]]:
        """Return a formula and all that it descends from, the youngest first.

        The last ones are of the first population, or were drawn at random: they have no birth.
        """
        found: dict[str, Birth | None] = {}
        waiting = [text]
        while waiting:
            one = waiting.pop()
            if one in found:
                continue
            birth = found[one] = self.births.get(one)
            waiting += birth.parents if birth else ()
        return sorted(
            found.items(),
            key=lambda entry: (entry[0] != text, -(entry[1].generation if entry[1] else -1)),
        )


_TURN = {
    "number": int, "assessed": int, "behaviours": int, "complete": int, "evaluations": int,
    "hypervolume": float, "rates": dict, "front": list, "population": dict,
}  # fmt: skip
_CENSUS = {
    "formulas": int, "operands": dict, "operators": dict, "subtrees": int, "distinct": int,
    "common": list,
}  # fmt: skip
_TRIED = {"text": str, "rung": int, "objectives": list, "by_task": dict, "reason": str}
_BRED = {"text": str, "operator": str, "parents": list}
_LAYERS = {
    "contender": str, "task": str, "budget": str, "keep": float, "layers": list,
}  # fmt: skip


def read_search_log(folder: Path) -> SearchLog:
    """Read the journal of a search, which may still be written.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / NAME
    log = SearchLog()
    turns: dict[int, Turn] = {}
    with reading_journal(path):
        for entry in entries(path, outcome_reader()):
            if isinstance(entry, tuple):
                key, outcome = entry
                keys = outcome.members if isinstance(outcome, StackOutcome) else (key,)
                log.evaluations += len(keys)
                log.batches += sum(map(_steps, keys))
            else:
                _take(log, turns, entry)
    log.turns = [turns[number] for number in sorted(turns)]
    return log


def _steps(key: str) -> int:
    match = _STEPS.fullmatch(key)
    return int(match[1]) if match else 0


def _take(log: SearchLog, turns: dict[int, Turn], entry: dict[str, Any]) -> None:
    """Take in an event; those that a page does not show are passed over."""
    data = {name: value for name, value in entry.items() if name != "event"}
    event = entry["event"]
    if event == "begin":
        log.begun = data["run"]
    elif event == "generation":
        turn = _read_turn(data)
        turns[turn.number] = turn
    elif event == "candidate":
        values = read_object({"reason": "", **data}, "a candidate", _TRIED)
        if not values["reason"]:
            log.tried[values["text"]] = values["rung"], _numbers(values["objectives"])
    elif event == "bred":
        values = read_object(data, "a formula", _BRED)
        birth = Birth(len(turns), values["operator"], tuple(map(str, values["parents"])))
        log.births.setdefault(values["text"], birth)
    elif event == "layers":
        values = read_object(data, "the layers", _LAYERS)
        layers = [(str(name), int(kept), int(of)) for name, kept, of in values["layers"]]
        shares = LayerShares(values["task"], values["budget"], values["keep"], layers)
        # A run that goes on for longer may recommend another formula; the last one counts.
        same = (shares.task, shares.budget, shares.keep)
        log.shares = [s for s in log.shares if (s.task, s.budget, s.keep) != same] + [shares]
    elif event == "stopped":
        log.stopped = str(data["reason"])


def _read_turn(data: dict[str, Any]) -> Turn:
    census = data.get("population")
    values = read_object({**data, "population": census or {}}, "a generation", _TURN)
    if census is not None:
        census = read_object(census, "a population", _CENSUS)
        for name in ("operands", "operators"):
            census[name] = {str(key): int(count) for key, count in census[name].items()}
        census["common"] = [(str(text), int(count)) for text, count in census["common"]]
    front = [(str(text), _numbers(objectives)) for text, objectives in values["front"]]
    return Turn(
        values["number"], values["assessed"], values["behaviours"], values["evaluations"],
        values["hypervolume"], front, census,
    )  # fmt: skip


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(map(float, values))
