"""Where the processor time of the default run goes, against the arithmetic of its networks.

For every network of the default: one formula's plan, the cut, the recalibration of batch norm, the
error on the validation split, and a step of fine-tuning, each the median of several turns on one
thread; beside them what the multiplications take at the throughput of a product of two matrices
that is measured in the same process. Below them the operators of torch by their own time. The
shares of the stages of a whole run are in ``default_run.md``.

    python benchmarks/default_profile.py --out benchmarks/results/default_profile.md
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from gp_prune.language.record import NEEDS
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget
from gp_prune.pruning.cost import count_macs
from gp_prune.runs.jobs import TaskSource, Workbench
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import Evaluation
from gp_prune.search.scorer import TaskScorer
from gp_prune.statistics.running import one_thread
from gp_prune.training.pooling import pool_fast

FORMULA = "l1"
STEPS = 5
SHOWN = 12
"""Operators in the table."""
_SIDE = 1024


@dataclass(frozen=True)
class Part:
    """One thing that is done to a network.

    Attributes:
        task: name of the task.
        name: what is done.
        seconds: of processor time.
        flops: that it needs at least, counted as two for a multiplication with its addition.
    """

    task: str
    name: str
    seconds: float
    flops: float


def timed(action: Callable[[], object], turns: int) -> float:
    """Return the median processor time of an action, in seconds, after one turn that warms up."""
    action()
    times = []
    for _ in range(turns):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return statistics.median(times)


def throughput(turns: int) -> float:
    """Return the floating-point operations per second of a product of two matrices."""
    one, other = torch.rand(_SIDE, _SIDE), torch.rand(_SIDE, _SIDE)
    return 2 * _SIDE**3 / timed(lambda: one @ other, turns)


def measure(scorer: TaskScorer, bench: Workbench, turns: int) -> tuple[list[Part], Counter[str]]:
    """Return the parts of one evaluation and of fine-tuning, and the operators of both."""
    config, task = SearchConfig(), scorer.task
    metric, budget = Metric.load(FORMULA), Budget("macs", config.ladder[0])

    def plan() -> Evaluation:
        cut = scorer.plan(metric.expression, metric.conventions, budget)
        return Evaluation(task.name, cut.plan.to_json(), 0, 0)

    evaluation = plan()
    model = pool_fast(evaluation.pruned(bench))
    one_pass = 2.0 * count_macs(model.eval(), task.example_inputs)
    calibration, batch = min(512, len(task.train)), 64
    has_norm = any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())

    def tune() -> None:
        task.fine_tune(model, steps=STEPS, seed=0)

    def part(name: str, action: Callable[[], object], flops: float, of: int = 1) -> Part:
        return Part(task.name, name, timed(action, turns) / of, flops)

    parts = [
        part("plan, formula known", plan, 0.0),
        part("cut", lambda: evaluation.pruned(bench), 0.0),
        part("recalibrate", lambda: task.recalibrate(model), has_norm * calibration * one_pass),
        part("validate", lambda: task.error(model, task.validation),
             len(task.validation) * one_pass),
        part("fine-tuning step", tune, 3 * batch * one_pass, STEPS),
    ]  # fmt: skip
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        evaluation.run(bench)
        tune()
    own: Counter[str] = Counter()
    for event in seen.key_averages():
        own[event.key] += round(event.self_cpu_time_total)
    return parts, own


def report(parts: Sequence[Part], own: Counter[str], flops: float, prepared: float) -> str:
    """Return the tables as Markdown."""
    rows = [
        "| network | part | ms | arithmetic alone, ms | times that |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for part in parts:
        least = part.flops / flops
        ratio = f"{part.seconds / least:.1f}" if least else ""
        arithmetic = f"{1e3 * least:.2f}" if least else ""
        rows.append(
            f"| {part.task} | {part.name} | {1e3 * part.seconds:.2f} | {arithmetic} | {ratio} |"
        )
    total = sum(own.values())
    rows += ["", "| operator | share of the time of operators |", "| --- | ---: |"]
    rows += [f"| `{name}` | {value / total:.1%} |" for name, value in own.most_common(SHOWN)]
    return HEAD.format(throughput=flops / 1e9, prepared=prepared) + "\n".join(rows) + "\n"


HEAD = """# Profile of the default run

Processor time on one thread, medians; a product of two matrices of 1024 x 1024 runs at
{throughput:.0f} GFLOP/s there. Networks are pruned to half of their MACs. Recalibration reads 512
samples, validation 360, a step of fine-tuning 64 (forward and backward counted as three passes).
Loading and measuring a network takes {prepared:.1f} s in the mean. Operators: of one evaluation and
five steps of fine-tuning on each network, by their own time.

"""


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, measure, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--cache-dir", help="folder of trained networks")
    parser.add_argument("--out", type=Path, required=True, help="the table")
    given = parser.parse_args(words)
    config, source = SearchConfig(), TaskSource(given.cache_dir)
    bench = Workbench(source)
    parts: list[Part] = []
    own: Counter[str] = Counter()
    started = time.process_time()
    names = [n for n in (*config.tasks, *config.validation_tasks) if "@" not in n]
    with one_thread():
        scorers = [
            TaskScorer(source.load(name), config.calibration, 0, config.memory) for name in names
        ]
        for scorer in scorers:
            scorer.measure(NEEDS.keys())
        prepared = (time.process_time() - started) / len(names)
        flops = throughput(given.turns)
        for scorer in scorers:
            more, operators = measure(scorer, bench, given.turns)
            parts += more
            own += operators
    given.out.write_text(report(parts, own, flops, prepared), encoding="utf-8")


if __name__ == "__main__":
    main()
