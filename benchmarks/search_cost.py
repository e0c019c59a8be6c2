"""What a search costs against the population, the network, and the number of workers.

Every search runs a few generations without the final comparison; time and processor time (of the
main process and of its workers) are divided by the number of new behaviours. The networks are
trained and cached beforehand. Writes a CSV file and a plot beside it.

    python benchmarks/search_cost.py --out benchmarks/results/search_cost.csv
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from csv_lines import as_csv
from protocols import FINE_TUNED

matplotlib.use("Agg")
from matplotlib import pyplot

from gp_prune.base.files import write_text
from gp_prune.language.primitive import builtin_primitives
from gp_prune.runs.executors import make_runner
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import Journal
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluator import Evaluator, outcome_reader
from gp_prune.search.nsga2 import Search
from gp_prune.search.run import reference_metrics
from gp_prune.search.scorer import TaskScorer

POPULATIONS = (20, 40, 80, 160)
WORKERS = (1, 2, 4)
TASKS = ("lenet-digits", "autoencoder-digits", "cnn-digits", "lenet-mnist")


@dataclass(frozen=True)
class Line:
    """One search.

    Attributes:
        varied: what this line belongs to: ``"population"``, ``"network"`` or ``"workers"``.
        task: name of the task.
        macs: multiply-adds of the dense network per sample.
        population: candidates per generation.
        workers: worker processes.
        behaviours: new behaviours that were tried.
        wall: seconds on the clock per behaviour.
        processor: processor seconds per behaviour, of all processes.
    """

    varied: str
    task: str
    macs: int
    population: int
    workers: int
    behaviours: int
    wall: float
    processor: float


def measured(
    varied: str, task: str, population: int, workers: int, given: argparse.Namespace
) -> Line:
    """One search of a few generations."""
    generations = max(1, round(given.behaviours / population) - 1)
    config = SearchConfig(
        validate_on=(),
        tasks=(task,), population=population, generations=generations, rung_steps=(0,),
        promote=(0.25,), **FINE_TUNED,
    )  # fmt: skip
    source = TaskSource(given.cache_dir, given.data_root)
    bench = TaskScorer(source.load(task), config.calibration, config.seed)
    primitives = builtin_primitives()
    seeds = [m for m in reference_metrics(primitives) if m.expression.axes is config.root]
    runner = make_runner(source, workers)
    try:
        runner.prepare(config.tasks)
        with (
            tempfile.TemporaryDirectory() as folder,
            Journal(Path(folder), outcome_reader()) as journal,
        ):
            evaluator = Evaluator(runner, journal, stack=1)
            search = Search(config, primitives, [bench], seeds, evaluator, journal)
            found = search.generations()
            # The first generation tries the published metrics; it also warms the workers up.
            first = next(found)
            wall, started = time.perf_counter(), _processor(runner)
            *_, last = found
            wall, used = time.perf_counter() - wall, _processor(runner) - started
    finally:
        runner.close()
    count = last.behaviours - first.behaviours
    macs, _ = bench.architecture.dense_costs
    return Line(varied, task, macs, population, workers, count, wall / count, used / count)


def _processor(runner: object) -> float:
    """Processor seconds that this process and the workers have used."""
    host = getattr(runner, "host", None)
    ticks = os.sysconf("SC_CLK_TCK")
    seconds = time.process_time()
    for pid in host.pids() if host is not None else ():
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(parts[11]) + int(parts[12])) / ticks
    return seconds


def plot(lines: Sequence[Line], path: Path) -> None:
    """Three panels: seconds per behaviour against population, network and workers."""
    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    titles = {
        "population": "population (lenet-digits, 1 worker)",
        "network": "multiply-adds of the dense network (1 worker)",
        "workers": "workers (lenet-digits)",
    }
    for axis, (varied, title) in zip(axes, titles.items(), strict=True):
        rows = [line for line in lines if line.varied == varied]
        column = {"population": "population", "network": "macs", "workers": "workers"}[varied]
        rows.sort(key=lambda line: float(getattr(line, column)))
        values = [getattr(line, column) for line in rows]
        axis.plot(values, [1000 * r.wall for r in rows], "o-", label="on the clock")
        axis.plot(values, [1000 * r.processor for r in rows], "s--", label="processor time")
        axis.set_xlabel(title)
        axis.set_ylim(0, 1.2 * max(1000 * max(r.wall, r.processor) for r in rows))
        axis.margins(x=0.2)
        if varied == "network":
            axis.set_xscale("log")
            for row, value in zip(rows, values, strict=True):
                axis.annotate(
                    row.task, (value, 1000 * row.wall), fontsize=7, ha="center",
                    xytext=(0, 6), textcoords="offset points",
                )  # fmt: skip
        else:
            axis.set_xticks(values)
    axes[0].set_ylabel("ms per behaviour")
    axes[0].legend(loc="lower right")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/search_cost.csv"))
    parser.add_argument("--behaviours", type=int, default=320, help="about so many per search")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--cache-dir")
    parser.add_argument("--data-root")
    given = parser.parse_args()
    torch.set_num_threads(1)
    small = "lenet-digits"
    plan = [("population", small, population, 1) for population in POPULATIONS]
    plan += [("network", task, 40, 1) for task in given.tasks.split(",")]
    plan += [("workers", small, 40, workers) for workers in WORKERS]
    lines = []
    for varied, task, population, workers in plan:
        lines.append(measured(varied, task, population, workers, given))
        print(lines[-1], flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(given.out, as_csv(lines))
    plot(lines, given.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
