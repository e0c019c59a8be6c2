"""How much of the calibration data the formulas of a run saw: a file, and warnings."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from gp_prune._io import write_json
from gp_prune._sizes import remark_on_size
from gp_prune.runs.folder import Settings, writing
from gp_prune.statistics.coverage import (
    STATISTICS_VERSION,
    CoverageWarning,
    LayerCoverage,
    coverage_json,
    describe_limit,
)

STATISTICS = "statistics.json"
"""The file in the run folder."""


def write_statistics(
    folder: Path, settings: Settings, networks: Mapping[str, LayerCoverage]
) -> None:
    """Write how much of the data each measurement saw, and warn where a limit was met.

    Args:
        folder: the run folder.
        settings: of the run, with a field ``max_memory``.
        networks: name of a network -> how much was measured of its layers.

    Warns:
        CoverageWarning: something did not fit, or the limit is more than the machine has.
    """
    notes = [
        describe_limit(coverage, settings.memory, f" of {name}")
        for name, coverage in networks.items()
    ]
    warn_of_limits(settings, notes)
    content = {
        "version": STATISTICS_VERSION,
        "max_memory": settings.memory,
        "notes": [note for note in notes if note],
        "networks": {name: coverage_json(coverage) for name, coverage in networks.items()},
    }
    with writing(folder):
        write_json(folder / STATISTICS, content)


def warn_of_limits(settings: Settings, notes: Iterable[str]) -> None:
    """Warn of what did not fit the memory of a run, and of more memory than the machine has.

    Args:
        settings: of the run, with a field ``max_memory``.
        notes: sentences; those that are empty say nothing.
    """
    for note in dict.fromkeys([*notes, remark_on_size(settings.memory)]):
        if note:
            warnings.warn(note, CoverageWarning, stacklevel=3)
