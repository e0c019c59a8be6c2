"""How many samples the batch norm of a pruned network is measured on again.

Every bundled channel metric cuts networks for the digits to half and to 30 % of their MACs, in one
ranking of all layers. Batch norm is then recalibrated on the first samples of the training split,
and the validation error is measured: for each number of samples, its mean distance from the error
with the most samples, and the rank correlation of the two over all cuts. A search ranks formulas by
such errors. The test split is not read.

    python benchmarks/recalibration.py --out benchmarks/results/recalibration.csv
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from csv_lines import append, read
from scipy.stats import spearmanr

from gp_prune.base.files import write_text
from gp_prune.language.record import MissingMeasurement
from gp_prune.metric.file import bundled_metrics
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget, ChannelPlan, compact
from gp_prune.search.config import SearchConfig
from gp_prune.search.scorer import TaskScorer
from gp_prune.tasks import load_task
from gp_prune.training.pooling import pool_fast

TASKS = ("resnet-digits", "resnet-digits@1", "cnn-digits", "mobilenet-digits")
SAMPLES = (64, 128, 256, 512, 1024)
KEEP = (0.5, 0.3)


@dataclass(frozen=True)
class Line:
    """The errors of one task with one number of samples, beside those with the most.

    Attributes:
        task: name of the task.
        samples: training samples that batch norm was measured on.
        cuts: networks.
        distance: mean of the absolute difference of validation errors (shares of wrong samples).
        correlation: Spearman's, of the errors over all cuts.
        seconds: of processor time for recalibrating a network, the median.
    """

    task: str
    samples: int
    cuts: int
    distance: float
    correlation: float
    seconds: float


def measure(name: str) -> list[Line]:
    """Return a line for each number of samples."""
    task = load_task(name)
    scorer = TaskScorer(task, SearchConfig().calibration, 0)
    errors: dict[int, list[float]] = {count: [] for count in SAMPLES}
    times: dict[int, list[float]] = {count: [] for count in SAMPLES}
    for metric in (Metric.load(name) for name in bundled_metrics()):
        if metric.granularity != "channel":
            continue
        for keep in KEEP:
            try:
                cut = scorer.plan(
                    metric.expression, SearchConfig().conventions, Budget("macs", keep)
                )
            except MissingMeasurement:
                continue
            assert isinstance(cut.plan, ChannelPlan)
            model = pool_fast(compact(task.model, cut.plan, scorer.architecture))
            for count in SAMPLES:
                before = time.process_time()
                task.recalibrate(model, samples=count)
                times[count].append(time.process_time() - before)
                errors[count].append(task.error(model, task.validation))
    most = np.array(errors[SAMPLES[-1]])
    return [
        Line(
            name, count, len(most), round(float(np.abs(most - errors[count]).mean()), 5),
            round(float(spearmanr(most, errors[count])[0]), 5),
            round(float(np.median(times[count])), 5),
        )
        for count in SAMPLES
    ]  # fmt: skip


def report(lines: Sequence[Line]) -> str:
    """Return the table as Markdown."""
    rows = [
        "# Samples that batch norm is recalibrated on",
        "",
        f"{len({line.task for line in lines})} networks for the digits, each cut by the bundled "
        f"channel metrics to {' and '.join(f'{100 * keep:g} %' for keep in KEEP)} of its MACs. "
        f"Distance and rank correlation of the validation errors (shares of wrong samples) are "
        f"those to {SAMPLES[-1]} samples; the time is relative to 512.",
        "",
        "    python benchmarks/recalibration.py --out benchmarks/results/recalibration.csv",
        "",
        "| network | cuts | samples | mean distance of errors | Spearman's correlation | time |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    whole = {line.task: line.seconds for line in lines if line.samples == 512}
    rows += [
        f"| {x.task} | {x.cuts} | {x.samples} | {x.distance:.4f} | {x.correlation:.4f} | "
        f"{x.seconds / whole[x.task]:.2f} |"
        for x in lines
    ]
    return "\n".join([*rows, ""])


def main() -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the CSV file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = read(given.out, Line)
    for name in TASKS:
        if name not in {line.task for line in lines}:
            for line in measure(name):
                append(given.out, line)
                lines.append(line)
    write_text(given.out.with_suffix(".md"), report(lines))


if __name__ == "__main__":
    main()
