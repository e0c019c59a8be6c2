"""Whether it is better to fine-tune all candidates, or a share of more of them in the same time.

For every task and seed two searches: one of a given number of generations that fine-tunes every
candidate (the default), then one that judges right after pruning, fine-tunes the best quarter,
and may go on for as long on the clock. Judged by the hypervolume of the whole front on the test
split, which no search has read. Run it on a machine that does nothing else.

Every finished search is a line of the CSV file at once; what stands there is not run again. The
table is written beside it.

    python benchmarks/promotion.py --out benchmarks/results/promotion.csv
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from csv_lines import append, read
from gp_vs_random import chance, options, settings, volumes
from scipy.stats import ttest_1samp

from gp_prune.base.files import write_text
from gp_prune.runs.jobs import TaskSource
from gp_prune.search.config import SearchConfig
from gp_prune.search.run import SearchProgress, evolve

ALL, QUARTER = 1.0, 0.25
ENDLESS = 10_000


@dataclass(frozen=True)
class Line:
    """One search.

    Attributes:
        task: name of the task.
        seed: seed of the search.
        fine_tuned: share of the candidates of a generation that are fine-tuned.
        generations: bred generations.
        behaviours: distinct behaviours tried, the published metrics included.
        validation: hypervolume of the front by validation errors.
        test: hypervolume of the same formulas by test errors.
        seconds: of the search on the clock, without preparation and final comparison.
    """

    task: str
    seed: int
    fine_tuned: float
    generations: int
    behaviours: int
    validation: float
    test: float
    seconds: float


class SearchTimer:
    """Hears how a run goes; times its search."""

    def __init__(self) -> None:
        self.generations = 0
        self._began = self._ended = time.perf_counter()

    def __call__(self, now: SearchProgress) -> None:
        """Take in where the run stands."""
        if now.stage == "tasks":
            self._began = time.perf_counter()
        if now.generation is not None:
            self._ended = time.perf_counter()
            self.generations = now.generation.number

    @property
    def seconds(self) -> float:
        """From the end of the preparation to the end of the last generation."""
        return self._ended - self._began


def searched(config: SearchConfig, source: TaskSource, fine_tuned: float) -> Line:
    """Run one search in a folder of its own."""
    timer = SearchTimer()
    with tempfile.TemporaryDirectory() as folder:
        result = evolve(config, Path(folder) / "run", source=source, progress=timer)
    return Line(
        config.tasks[0], config.seed, fine_tuned, timer.generations, result.behaviours,
        *volumes(result), round(timer.seconds, 1),
    )  # fmt: skip


def report(lines: list[Line]) -> str:
    """Return a Markdown table: means over the seeds, and a paired test."""
    rows = [
        "| task | seeds | behaviours | seconds | test hypervolume | difference | all win | "
        "paired t |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    ]
    for task in dict.fromkeys(line.task for line in lines):
        every, some = (
            {line.seed: line for line in lines if (line.task, line.fine_tuned) == (task, share)}
            for share in (ALL, QUARTER)
        )
        pairs = [(every[seed], some[seed]) for seed in sorted(every) if seed in some]
        if len(pairs) < 2:
            continue
        gains = [a.test - b.test for a, b in pairs]
        cells = [
            " against ".join(f"{statistics.fmean(getattr(line, name) for line in arm):.{digits}f}"
                             for arm in zip(*pairs, strict=True))
            for name, digits in (("behaviours", 0), ("seconds", 0), ("test", 4))
        ]  # fmt: skip
        rows.append(
            f"| {task} | {len(pairs)} | {' | '.join(cells)} | {statistics.fmean(gains):+.4f} | "
            f"{sum(gain > 0 for gain in gains)} of {len(gains)} | "
            f"{chance(ttest_1samp(gains, 0).pvalue)} |"
        )
    return "\n".join(rows)


HEAD = """# All candidates fine-tuned against the best quarter of more, in the same time

Hypervolume of the whole front (error, MACs, parameters) by test errors, which no search has read;
means over the seeds. One search of 40 x 24 fine-tunes all candidates, which is the default; the
other judges right after pruning, fine-tunes the best quarter, and goes on for as long on the clock,
right after the first. Two tasks at a time, each on a core of its own; at times tests ran beside.

In the same time no difference is shown: a quarter of 2.6 times as many behaviours finds as much on
`cnn-digits`, and on the others rather more than less, within the noise. With the same number of
behaviours, fine-tuning all finds more on `lenet-digits` and `cnn-digits`, and as much on
`autoencoder-digits` ([gp_vs_random.md](gp_vs_random.md)). It is the default because it needs no
choice of rungs and shares, and because evolution is then ahead of random search on every task;
where time counts and fine-tuning is long, let candidates climb rungs.
"""


def main() -> None:
    given = options(__doc__.splitlines()[0], "promotion.csv", seeds=5).parse_args()
    source = TaskSource(given.cache_dir)
    found = {(e.task, e.seed, e.fine_tuned): e for e in read(given.out, Line)}

    def line(config: SearchConfig, fine_tuned: float) -> Line:
        key = (config.tasks[0], config.seed, fine_tuned)
        if key not in found:
            found[key] = searched(config, source, fine_tuned)
            append(given.out, found[key])
            print(found[key], flush=True)
        return found[key]

    for task in given.tasks:
        for seed in range(given.seeds):
            config = settings(task, seed, given)
            seconds = line(config, ALL).seconds
            line(
                replace(config, rung_steps=(0,), promote=(QUARTER,), generations=ENDLESS,
                        time_limit=seconds),
                QUARTER,
            )  # fmt: skip
    text = f"{HEAD}\n{report(list(found.values()))}\n"
    write_text(given.out.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
