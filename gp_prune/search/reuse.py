"""Floor 9: the evaluations of another run, so that nothing is evaluated twice across runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gp_prune.errors import UserError
from gp_prune.evolution.journal import NAME, entries
from gp_prune.search.config import SearchConfig
from gp_prune.search.stacking import AnyOutcome, outcome_reader

_SAME = {"versions": "packages", "device": "device"}
"""What must be equal for an evaluation to have the same result, besides the networks."""


class EarlierRun:
    """What another run evaluated, read at once, so that a wrong folder is found out at once.

    Args:
        folder: the other run folder.

    Raises:
        UserError: the folder has no journal, or the run had not begun.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        try:
            content = path.read_bytes()
        except OSError:
            raise UserError(f"run {str(folder)!r} cannot be reused: it has no {NAME}") from None
        begun: dict[str, Any] | None = None
        self._outcomes: dict[str, AnyOutcome] = {}
        for entry in entries(content, path, outcome_reader()):
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
        """The outcomes that a new run may take over, by the key of the evaluation.

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
    """Why outcomes of the other run would not be those of this one; empty if they would."""
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
