"""What the pages of all kinds of runs share."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gp_prune.errors import UserError
from gp_prune.report.page.parts import Cell, Command, Facts, Part, Section
from gp_prune.runs.journal_lines import DamagedJournal
from gp_prune.runs.settings import Settings
from gp_prune.runs.spent import Spent, read_spent

Rows = Sequence[tuple[str, Cell]]
"""Names and values of :class:`~gp_prune.report.page.parts.Facts`."""


def number(value: float, *, whole: bool = False, digits: int = 3) -> Cell:
    """Return a number with few digits; NaN is an empty cell."""
    if math.isnan(value):
        return Cell("")
    return Cell(f"{value:.0f}" if whole else f"{value:.{digits}f}", float(value))


def exact(value: int) -> Cell:
    """Return a whole number with separators of thousands."""
    return Cell(f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}"), float(value))


def count_of(count: int, of: int) -> Cell:
    """Return a count and the whole that it is a part of, with a bar for the share."""
    return Cell(f"{count} of {of}", float(count), share=count / max(1, of))


def duration(seconds: float) -> str:
    """Return a time in words: ``1 h 05 min``, ``3 min 20 s``, ``4.2 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def reading_journal(path: Path) -> Iterator[None]:
    """Turn what a missing or damaged journal raises in the body into a UserError that names it."""
    try:
        yield
    except DamagedJournal:  # it names the journal and the line already
        raise
    except OSError as error:
        raise UserError(f"journal {str(path)!r} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"journal {str(path)!r} is damaged: {error}") from None


def closing_sections(
    folder: Path,
    command: str,
    settings: Settings,
    shown: Mapping[str, Any],
    versions: Mapping[str, Any],
    counts: Rows,
    ended: Rows = (),
) -> list[Section]:
    """Return the sections that end every page: what was spent, and the settings.

    Args:
        folder: the run folder.
        command: of the run.
        settings: of the run.
        shown: the settings as the page has them.
        versions: of packages.
        counts: what was tried, before the times.
        ended: what stands after the times.
    """
    changed = settings.changed(type(settings)())
    return [
        Section("What was spent", [Facts([*counts, *_times(read_spent(folder)), *ended])]),
        Section(
            "Settings",
            [_command(command, settings.python_files), *_settings(shown, changed, versions)],
        ),
    ]


def _times(spent: Spent | None) -> Rows:
    """Return the times of a run; none where no session has ended."""
    if spent is None:
        return []
    of = "" if spent.sessions == 1 else f", {spent.sessions} sessions"
    return [
        (f"time on the clock{of}", Cell(duration(spent.seconds), spent.seconds)),
        (
            f"processor time of this machine{of}",
            Cell(duration(spent.processor_seconds), spent.processor_seconds),
        ),
    ]


def _command(command: str, code: Sequence[str]) -> Command:
    """Return the command that repeats a run from its settings.

    Args:
        command: of the run.
        code: Python files that it runs; only their names are shown.
    """
    trust = "".join(f" --trust {shlex.quote(Path(file).name)}" for file in code)
    note = "In the run folder. Settings give the same result on any number of workers."
    return Command(f"gp-prune {command} --config config.toml{trust} --out again", note)


def _settings(
    settings: Mapping[str, Any], changed: Collection[str], versions: Mapping[str, Any]
) -> list[Part]:
    """Return the settings, those that are no defaults first, and the versions of packages."""
    rows = {name: Cell(_text(value)) for name, value in settings.items()}
    first = [(name, cell) for name, cell in rows.items() if name in changed]
    rest = [(name, cell) for name, cell in rows.items() if name not in changed]
    parts: list[Part] = [Facts(first, "Settings that are not the default")] if first else []
    parts.append(Facts(rest, "Defaults", folded=True))
    if isinstance(versions, Mapping):
        known = [(str(name), Cell(str(version))) for name, version in versions.items()]
        parts.append(Facts(known, "Versions", folded=True))
    return parts


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value != "" else "none"
