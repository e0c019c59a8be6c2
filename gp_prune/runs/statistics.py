"""How much of the calibration data the formulas of a run saw: a file, and warnings."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from gp_prune.base.json_fields import write_json
from gp_prune.base.sizes import remark_on_size
from gp_prune.runs.folder import writing
from gp_prune.runs.settings import Settings
from gp_prune.statistics.coverage import (
    STATISTICS_VERSION,
    CoverageWarning,
    LayerCoverage,
    coverage_json,
    describe_limit,
)

STATISTICS = "statistics.json"
"""The file in the run folder."""


class StatisticsFile:
    """The file of a run that says how much of the data each measurement saw.

    Args:
        folder: the run folder.
        settings: of the run, with a field ``max_memory``.

    Warns:
        CoverageWarning: the limit of memory is more than the machine has.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder, self._settings = folder, settings
        self._warned: set[str] = set()
        warn_of_limits(settings, [])

    def write(self, networks: Mapping[str, LayerCoverage]) -> None:
        """Write what was measured by now.

        Args:
            networks: name of a network -> how much was measured of its layers.

        Warns:
            CoverageWarning: something did not fit; once for each network.
        """
        memory = self._settings.memory
        found = {
            name: describe_limit(coverage, memory, f" of {name}")
            for name, coverage in networks.items()
        }
        notes = {name: note for name, note in found.items() if note}
        _warn(note for name, note in notes.items() if name not in self._warned)
        self._warned.update(notes)
        content = {
            "version": STATISTICS_VERSION,
            "max_memory": memory,
            "notes": [*notes.values()],
            "networks": {name: coverage_json(coverage) for name, coverage in networks.items()},
        }
        with writing(self._folder):
            write_json(self._folder / STATISTICS, content)


def warn_of_limits(settings: Settings, notes: Iterable[str]) -> None:
    """Warn of what did not fit the memory of a run, and of more memory than the machine has.

    Args:
        settings: of the run, with a field ``max_memory``.
        notes: sentences; those that are empty say nothing.
    """
    _warn([*notes, remark_on_size(settings.memory)])


def _warn(notes: Iterable[str]) -> None:
    for note in dict.fromkeys(notes):
        if note:
            warnings.warn(note, CoverageWarning, stacklevel=4)
