"""Whether fine-tuning several pruned networks as one pays: processor time per network, both ways.

For every task and share of channels the published metrics give the networks. They are fine-tuned
and judged one by one and in stacks, in turn, with the jobs that a search runs; the ratio is that of
the medians over the turns.

    python benchmarks/stacking.py --data-root FOLDER

Results go to benchmarks/results/stacking.csv and the table beside it. ``--device cuda`` measures a
GPU, by the clock in the place of processor time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from csv_lines import as_csv

from gp_prune.base.files import write_text
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.pruning import Budget, DegenerateScores
from gp_prune.runs.jobs import TaskSource, Workbench
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluation import Evaluation, Outcome
from gp_prune.search.evaluator import StackBuilder, StackOutcome, job_of
from gp_prune.search.scorer import TaskScorer
from gp_prune.statistics.running import one_thread

RESULTS = Path(__file__).parent / "results" / "stacking.csv"
TASKS = ("lenet-digits", "cnn-digits", "autoencoder-digits", "lenet-mnist")


@dataclass(frozen=True)
class Line:
    """One task, share and size of stacks.

    Attributes:
        task: name of the task.
        device: where it ran.
        keep: share of the channels that is kept.
        stack: most networks of a stack.
        networks: how many there were.
        steps: mini-batches of fine-tuning.
        alone: milliseconds per network, one by one (median over the turns).
        stacked: milliseconds per network, in stacks.
        difference: largest difference of the relative validation errors.
    """

    task: str
    device: str
    keep: float
    stack: int
    networks: int
    steps: int
    alone: float
    stacked: float
    difference: float


def evaluations(bench: TaskScorer, keep: float, steps: int, count: int) -> list[Evaluation]:
    """Networks that differ, pruned by published metrics."""
    conventions = SearchConfig().conventions
    found: dict[str, Evaluation] = {}
    for name in bundled_metrics("reference"):
        metric = Metric.load(name)
        if "i" in metric.expression.axes:
            continue
        try:
            trial = bench.plan(metric.expression, conventions, Budget("channels", keep))
        except DegenerateScores:
            continue
        plan = trial.plan.to_json()
        found.setdefault(plan["digest"], Evaluation(bench.task.name, plan, steps, 0))
    return list(found.values())[:count]


def measured(
    workbench: Workbench, given: list[Evaluation], keep: float, stack: int, turns: int
) -> Line:
    """Both ways in turn."""
    device = workbench.source.device
    builder = StackBuilder(stack)
    stacks = [members for e in given for members in builder.add(e)] + builder.flush()
    alone, stacked = [], []
    for _ in range(turns + 1):  # the first of each warms up
        started = _now(device)
        singles = [evaluation.run(workbench) for evaluation in given]
        between = _now(device)
        together = [job_of(members).run(workbench) for members in stacks]
        alone.append(between - started)
        stacked.append(_now(device) - between)
    single = {e.key: outcome.validation for e, outcome in zip(given, singles, strict=True)}
    found: dict[str, Outcome] = {}
    for members, outcome in zip(stacks, together, strict=True):
        found |= outcome.each() if isinstance(outcome, StackOutcome) else {members[0].key: outcome}
    difference = max(abs(single[key] - found[key].validation) for key in single)
    first = given[0]
    each = 1000 / len(given)
    return Line(
        first.task, device, keep, stack, len(given), first.steps,
        round(each * statistics.median(alone[1:]), 2),
        round(each * statistics.median(stacked[1:]), 2), round(difference, 6),
    )  # fmt: skip


def _now(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def report(lines: list[Line]) -> str:
    """Return a Markdown table."""
    rows = [
        "# Fine-tuning in stacks against one by one",
        "",
        "Milliseconds per network (processor time on a CPU, one thread) for pruning, fine-tuning "
        "and judging, with the jobs that a search runs; medians over turns. A ratio above 1 means "
        "that stacks are faster. The networks are those of the published metrics under a global "
        "ranking, "
        "so their layers differ in width, and narrow ones are padded.",
        "",
        "| task | device | channels kept | networks | steps | stack | one by one | stacked | ratio "
        "| largest difference of an error |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows += [
        f"| {line.task} | {line.device} | {line.keep:.0%} | {line.networks} | {line.steps} | "
        f"{line.stack} | {line.alone:.1f} ms | {line.stacked:.1f} ms | "
        f"**{line.alone / line.stacked:.2f}** | {line.difference:.2g} |"
        for line in lines
    ]
    return "\n".join([*rows, "", "    python benchmarks/stacking.py --data-root FOLDER", ""])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.3, 0.1])
    parser.add_argument("--stacks", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--networks", type=int, default=16)
    parser.add_argument("--steps", type=int, default=SearchConfig().fine_tune_steps)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache-dir", help="folder of trained networks")
    parser.add_argument("--data-root", help="folder with torchvision's data sets")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    workbench = Workbench(
        TaskSource(options.cache_dir, options.data_root, device=options.device)
    )  # fmt: skip
    lines = []
    with one_thread():
        for name in options.tasks:
            bench = TaskScorer(workbench.task(name)[0], SearchConfig().calibration, 0)
            for keep in options.keep:
                given = evaluations(bench, keep, options.steps, options.networks)
                for stack in options.stacks:
                    lines.append(measured(workbench, given, keep, stack, options.turns))
                    print(lines[-1], flush=True)
    write_text(options.out, as_csv(lines))
    write_text(options.out.with_suffix(".md"), report(lines))


if __name__ == "__main__":
    main()
