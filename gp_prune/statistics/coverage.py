"""Say how much of the calibration data was measured, and where a limit of memory was met."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from gp_prune.base.sizes import format_size
from gp_prune.errors import pluralize
from gp_prune.language.record import Coverage, LayerRecord
from gp_prune.statistics.sampling import MAX_MEMORY

STATISTICS_VERSION = 4
"""Raised whenever the same formula gets other scores on the same data; runs then cannot be resumed.

Version 1 kept 64 samples and 64 positions of each layer's maps; 2 measures all of them.
Version 3 reads maps of several sizes whole, and scales kernels, counts and norms of a part of the
data to the whole. Version 4 takes what needs no mini-batches over larger batches, sums kernels by
pairs of classes, and takes losses of nuclear norm of maps of one position without an integral: the
same numbers but for their last digits.
"""

LayerCoverage = Mapping[str, Mapping[str, Coverage]]
"""Layer name -> field -> how much of the data it was measured on."""


class CoverageWarning(UserWarning):
    """Something was measured on a part of the data, because all of it does not fit the limit."""


class _Part(NamedTuple):
    layer: str
    name: str
    coverage: Coverage

    @property
    def share(self) -> float:
        """Return the share of the values that was seen."""
        seen = self.coverage
        return seen.samples * seen.positions / max(1, seen.of_samples * seen.of_positions)


def coverage_of(records: Iterable[LayerRecord]) -> LayerCoverage:
    """Return how much of the data the records of layers were measured on."""
    return {record.name: record.coverage for record in records if record.coverage}


def describe_coverage(coverage: LayerCoverage) -> str:
    """Return in a few words on how many samples something was measured; empty for nothing."""
    parts = list(_parts(coverage))
    if not parts:
        return ""
    samples = pluralize(max(part.coverage.of_samples for part in parts), "sample")
    if all(part.coverage.whole for part in parts):
        return f"{samples}, all positions"
    worst = _worst(parts)
    return f"{samples}; {worst.name} in {worst.layer}: {_seen(worst.coverage)}"


def describe_limit(coverage: LayerCoverage, max_memory: int | None, where: str = "") -> str:
    """Return one sentence where a limit of memory was met; empty where everything was measured.

    Args:
        coverage: how much was measured.
        max_memory: the limit in bytes; None for the default.
        where: whose layers these are, such as ``" of lenet-digits"``.
    """
    parts = [part for part in _parts(coverage) if not part.coverage.whole]
    if not parts:
        return ""
    worst, others = _worst(parts), len(parts) - 1
    more = f" (and {pluralize(others, 'more measurement')} in part)" if others else ""
    limit = format_size(MAX_MEMORY if max_memory is None else max_memory)
    return (
        f"{worst.name} of layer {worst.layer!r}{where} was measured on {_seen(worst.coverage)}"
        f"{more}, because the whole does not fit {limit} of memory; allow more with "
        "--max-memory (max_memory)."
    )


def coverage_json(coverage: LayerCoverage) -> dict[str, Any]:
    """Return how much of the data was measured as a JSON object."""
    return {
        layer: {name: seen._asdict() for name, seen in fields.items()}
        for layer, fields in coverage.items()
    }


def _parts(coverage: LayerCoverage) -> Iterator[_Part]:
    for layer, fields in coverage.items():
        for name, seen in fields.items():
            yield _Part(layer, name, seen)


def _worst(parts: Iterable[_Part]) -> _Part:
    return min(parts, key=lambda part: part.share)


def _seen(coverage: Coverage) -> str:
    samples = f"{coverage.samples:,} of {pluralize(coverage.of_samples, 'sample')}"
    if coverage.of_positions == 1:
        return samples
    return f"{samples} and {coverage.positions:,} of {pluralize(coverage.of_positions, 'position')}"
