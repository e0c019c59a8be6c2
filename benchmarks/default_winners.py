"""Whether the formula that a default run recommends prunes better than random and L1.

For every seed one default search. Its recommended formula, FLAP, L1 and random scores then prune
the tasks of the search, and tasks of families that neither the search nor its choice of the winner
has seen, to equal MACs and to equal parameters. Errors are measured right after pruning (batch norm
recalibrated) and after fine-tuning.

The settings of the search were chosen by validation errors of other seeds. The test split is read
once, by the run of this program that makes the table. The draws of random scores are not those that
the search compares its formulas with::

    python benchmarks/default_winners.py --runs FOLDER --seeds 100 --split validation
    python benchmarks/default_winners.py --runs FOLDER --seeds 50 51 52 53 54 --split test

Every network is a line of the CSV file at once; what stands there is not measured again.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from csv_lines import append, read
from default_winners_table import CONTENDERS, Line, markdown

from gp_prune.base.files import write_text
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.jobs import TaskSource, Workbench
from gp_prune.search.comparison import KINDS
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import Evaluation
from gp_prune.search.run import evolve
from gp_prune.search.scorer import TaskScorer
from gp_prune.statistics.running import derive_seed, one_thread

NAME = "default_winners"
UNSEEN = ("autoencoder-digits", "mlp-digits")
"""Tasks of families that neither the default search nor its choice of a winner uses."""
BUDGETS = (0.5, 0.3, 0.15)
"""Shares to keep. After fine-tuning most networks that keep half are as good as the dense one."""
STEPS = (0, 30)
REPEATS = 3
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cell:
    """A network to measure: one contender on one task under one budget.

    Attributes:
        task: the prepared task.
        role: ``own`` for a task of the search, ``unseen`` otherwise.
        contender: one of :data:`CONTENDERS`.
        metric: its formula and conventions.
        budget: what is kept.
        steps: mini-batches of fine-tuning.
        repeat: number of the fine-tuning run, and of the draw of random scores.
    """

    task: TaskScorer
    role: str
    contender: str
    metric: Metric
    budget: Budget
    steps: int
    repeat: int


def recommended(seed: int, folder: Path, workers: int) -> Metric:
    """Return the formula that the default run with a seed recommends; run it, or go on with it."""
    started = (folder / CONFIG).exists()
    config = None if started else SearchConfig(seed=seed)
    result = evolve(config, folder, workers=workers, resume=started)
    return result.metrics[result.recommended.name]


def cells(winner: Metric, scorers: Sequence[tuple[str, TaskScorer]]) -> Iterator[Cell]:
    """Yield what is measured of one seed."""
    flap = replace(Metric.load("flap"), conventions=winner.conventions)
    entered = (winner, flap, Metric.load("l1"), Metric.load("random"))
    metrics = dict(zip(CONTENDERS, entered, strict=True))
    budgets = [Budget(kind, keep) for kind in KINDS for keep in BUDGETS]
    for (role, task), (name, metric), budget, steps in product(
        scorers, metrics.items(), budgets, STEPS
    ):
        # Right after pruning only random scores differ from repeat to repeat.
        for repeat in range(REPEATS if steps or name == "random" else 1):
            yield Cell(task, role, name, metric, budget, steps, repeat)


def measure(seed: int, cell: Cell, split: str, bench: Workbench) -> Line:
    """Prune, fine-tune and judge one network."""
    name = cell.task.task.name
    noise = None
    if "noise" in cell.metric.needs:
        draw = (seed, name, cell.budget.kind, cell.budget.keep, cell.repeat)
        noise = derive_seed("default winners noise", *draw)
    metric = cell.metric
    cut = cell.task.plan(metric.expression, metric.conventions, cell.budget, noise)
    order = derive_seed("default winners", seed, name, cell.repeat)
    evaluation = Evaluation(name, cut.plan.to_json(), cell.steps, order, test=split == "test")
    outcome = evaluation.run(bench)
    error = outcome.test if split == "test" else outcome.validation
    assert error is not None
    return Line(
        seed, str(metric.expression) if cell.contender == "recommended" else "", name, cell.role,
        cell.contender, cell.budget.kind, cell.budget.keep, cell.steps, cell.repeat,
        round(cut.macs, 5), round(cut.params, 5), round(error, 6),
    )  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, search, measure, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True, help="folder of the searches")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder of the table  [default: --runs]")
    arguments = parser.parse_args(words)
    out = arguments.out or arguments.runs
    file = out / f"{NAME}-{arguments.split}.csv"
    lines = read(file, Line)
    there = {line.key for line in lines}
    source, config = TaskSource(), SearchConfig()
    bench = Workbench(source)
    with one_thread():
        winners = {
            seed: recommended(seed, arguments.runs / f"seed-{seed}", arguments.workers)
            for seed in arguments.seeds
        }
        scorers = [
            (role, TaskScorer(source.load(name), config.calibration, 0, config.memory))
            for role, names in (("own", config.tasks), ("unseen", UNSEEN))
            for name in names
        ]
        for seed, winner in winners.items():
            for cell in cells(winner, scorers):
                key = (
                    seed, cell.task.task.name, cell.contender, cell.budget.kind,
                    cell.budget.keep, cell.steps, cell.repeat,
                )  # fmt: skip
                if key in there:
                    continue
                line = measure(seed, cell, arguments.split, bench)
                append(file, line)
                lines.append(line)
            errors = [x.error for x in lines if x.seed == seed and x.contender == "recommended"]
            assert not math.isnan(statistics.fmean(errors))
            print(f"seed {seed}: {winner.expression}", flush=True)
    write_text(out / f"{NAME}-{arguments.split}.md", markdown(lines, arguments.split))


if __name__ == "__main__":
    main()
