"""Whether evolution finds more than random formulas do, at an equal budget of evaluations.

For every task and seed two searches with equal settings, one with ``strategy="evolve"`` and one
with ``strategy="random"``: both try the published metrics first and then equally many new
behaviours, the one by variation of what survived, the other by random trees. Judged by the
hypervolume of the whole front on the test split, which no search has read.

Every finished search is a line of the CSV file at once; what stands there is not run again. The
table is written beside it.

    python benchmarks/gp_vs_random.py --out benchmarks/results/gp_vs_random.csv
    python benchmarks/gp_vs_random.py --tasks cnn-digits --seeds 20
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from csv_lines import append, read
from protocols import FINE_TUNED, hypervolume
from scipy.stats import ttest_1samp, wilcoxon

from gp_prune.base.files import write_text
from gp_prune.runs.jobs import TaskSource
from gp_prune.search.config import STRATEGIES, SearchConfig
from gp_prune.search.results import SearchResult, ladder_objectives
from gp_prune.search.run import evolve

TASKS = ("lenet-digits", "cnn-digits", "autoencoder-digits")


@dataclass(frozen=True)
class Line:
    """One search.

    Attributes:
        task: name of the task.
        seed: seed of the search.
        strategy: ``"evolve"`` or ``"random"``.
        behaviours: distinct behaviours tried, the published metrics included.
        validation: hypervolume of the front by validation errors.
        test: hypervolume of the same formulas by test errors.
        seconds: on the clock.
    """

    task: str
    seed: int
    strategy: str
    behaviours: int
    validation: float
    test: float
    seconds: float


def volumes(result: SearchResult) -> tuple[float, float]:
    """Hypervolumes of the front by validation and by test errors."""
    found = [c for c in result.contenders if c.candidate is not None]
    rows = [ladder_objectives(result, contender) for contender in found]
    by_validation = [(row["tuned_error"], row["macs"], row["params"]) for row in rows]
    by_test = [(row["test_tuned_error"], row["macs"], row["params"]) for row in rows]
    return hypervolume(by_validation), hypervolume(by_test)


def settings(task: str, seed: int, given: argparse.Namespace) -> SearchConfig:
    """Return a search of which only the ladder is looked at, so its final comparison is short."""
    return SearchConfig(
        validate_on=(),
        tasks=(task,), population=given.population, generations=given.generations, seed=seed,
        front_size=given.front, budgets=(0.5,), final_steps=1, final_seeds=1,
        **FINE_TUNED,
    )  # fmt: skip


def searched(config: SearchConfig, given: argparse.Namespace) -> Line:
    """Run one search in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        source = TaskSource(given.cache_dir)
        result = evolve(config, Path(folder) / "run", source=source, workers=given.workers)
        seconds = time.perf_counter() - started
    return Line(
        config.tasks[0], config.seed, config.strategy, result.behaviours, *volumes(result),
        round(seconds, 1),
    )  # fmt: skip


def report(lines: list[Line]) -> str:
    """Return a Markdown table: means and spreads by task, and paired tests over the seeds."""
    rows = [
        "| task | seeds | evolve | random | difference | evolve wins | paired t | Wilcoxon | "
        "difference by validation errors |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for task in dict.fromkeys(line.task for line in lines):
        test, validation = _paired(lines, task, "test"), _paired(lines, task, "validation")
        if len(test["evolve"]) < 2:
            continue
        gains, seen = _gains(test), _gains(validation)
        cells = [
            f"{statistics.fmean(test[name]):.4f} ± {statistics.stdev(test[name]):.4f}"
            for name in ("evolve", "random")
        ]
        rows.append(
            f"| {task} | {len(gains)} | {cells[0]} | {cells[1]} | {statistics.fmean(gains):+.4f} | "
            f"{sum(gain > 0 for gain in gains)} of {len(gains)} | "
            f"{chance(ttest_1samp(gains, 0).pvalue)} | {chance(wilcoxon(gains).pvalue)} | "
            f"{statistics.fmean(seen):+.4f}, {chance(ttest_1samp(seen, 0).pvalue)} |"
        )
    return "\n".join(rows)


def _paired(lines: list[Line], task: str, errors: str) -> dict[str, list[float]]:
    """Hypervolumes of a task by strategy, of the seeds that both strategies have, in order."""
    found = {(e.seed, e.strategy): getattr(e, errors) for e in lines if e.task == task}
    seeds = sorted(s for s, strategy in found if strategy == "random" and (s, "evolve") in found)
    return {name: [found[seed, name] for seed in seeds] for name in STRATEGIES}


def _gains(pairs: dict[str, list[float]]) -> list[float]:
    return [a - b for a, b in zip(pairs["evolve"], pairs["random"], strict=True)]


def chance(value: float) -> str:
    """Return the p of a test, as it stands in a table."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


HEAD = """# Evolution against random search, at an equal number of behaviours

Hypervolume of the whole front (error, MACs, parameters) by test errors, which no search has read;
mean and standard deviation over the seeds. Both searches have the same settings and try the
published metrics first; `random` then draws random trees in the place of offspring. All candidates
are fine-tuned, which is the default.

It was not always: before, all were judged right after pruning and the best quarter rose and was
fine-tuned. Then evolution was ahead of random search on `lenet-digits` (1.676 against 1.615, ten
seeds) and `autoencoder-digits` (0.954 against 0.861, ten seeds), but on `cnn-digits` the difference
was within the noise (1.6505 against 1.6466, twenty seeds, p = .21). What is wrong there was looked
for with seeds 104 to 107 of `cnn-digits`, which are not in the table. Mean test hypervolume:

| what rises right after pruning | evolve | random |
| --- | ---: | ---: |
| a quarter | 1.649 | 1.640 |
| a quarter; 14 in the place of 40 survive | 1.659 | |
| a quarter; 30 % of the offspring are random trees | 1.651 | |
| half | 1.664 | |
| half; 20 in the place of 40 survive | 1.666 | |
| 30 %, after 10 mini-batches | 1.673 | |
| all | 1.675 | 1.653 |

So what evolution needs is a faithful error for each of its offspring, more than random search does:
offspring of good parents differ little, and the error right after pruning tells them apart badly.
Fine-tuning all takes 2.3 times the processor time of a quarter on `cnn-digits`; in the same time no
difference between the two is shown ([promotion.md](promotion.md)). The default was changed after
these four seeds; the table's were run once, after that, and seeds 5 to 9 after 0 to 4 had been
seen, which on `lenet-digits` left it open (p = .07).

Tried without gain while a quarter rose: survivors by what they add to the hypervolume in the place
of crowding distance; a mutation that changes how cuts spread over the layers.
"""


def options(description: str, out: str, seeds: int) -> argparse.ArgumentParser:
    """Return the options of a comparison of searches over tasks and seeds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results") / out)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--population", type=int, default=40)
    parser.add_argument("--generations", type=int, default=24)
    parser.add_argument("--front", type=int, default=40, help="most formulas of a front")
    parser.add_argument("--cache-dir")
    return parser


def main() -> None:
    parser = options(__doc__.splitlines()[0], "gp_vs_random.csv", seeds=10)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    lines = read(given.out, Line)
    done = {(line.task, line.seed, line.strategy) for line in lines}
    for seed in range(given.seeds):
        for task in given.tasks:
            for strategy in STRATEGIES:
                if (task, seed, strategy) not in done:
                    config = replace(settings(task, seed, given), strategy=strategy)
                    lines.append(searched(config, given))
                    append(given.out, lines[-1])
                    print(lines[-1], flush=True)
    text = f"{HEAD}\n{given.population} x {given.generations}:\n\n{report(lines)}\n"
    write_text(given.out.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
