"""The results of benchmarks/default_winners.py: one line per network, as CSV and as tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

CONTENDERS = ("recommended", "flap", "l1", "random")
OFFSET = 0.01
"""Added to an error before its logarithm is taken: about one image of the smallest split."""


@dataclass(frozen=True)
class Line:
    """One pruned network.

    Attributes:
        seed: of the search, of fine-tuning and of random scores.
        formula: the recommended formula; empty for the others.
        task: name of the task.
        role: ``own`` for a task of the search, ``unseen`` for one of another family.
        contender: one of :data:`CONTENDERS`.
        kind: what is equal, ``macs`` or ``params``.
        keep: the share of it that was to be kept.
        steps: mini-batches of fine-tuning.
        repeat: number of the fine-tuning run, and of the draw of random scores.
        macs: share of MACs kept.
        params: share of parameters kept.
        error: 0 as the dense network, 1 as the best guess that does not look at the input.
    """

    seed: int
    formula: str
    task: str
    role: str
    contender: str
    kind: str
    keep: float
    steps: int
    repeat: int
    macs: float
    params: float
    error: float

    @property
    def key(self) -> tuple[int, str, str, str, float, int, int]:
        """Tell which network this is."""
        return (
            self.seed, self.task, self.contender, self.kind, self.keep, self.steps, self.repeat
        )  # fmt: skip


def log_error(error: float) -> float:
    """Return the logarithm of an error, so that small and large ones count alike."""
    return math.log(max(error, 0.0) + OFFSET)


def markdown(lines: Sequence[Line], split: str) -> str:
    """Return the tables."""
    kinds = sorted({line.kind for line in lines})
    steps = sorted({line.steps for line in lines})
    seeds = sorted({line.seed for line in lines})
    budgets = ", ".join(f"{keep:.0%}" for keep in sorted({x.keep for x in lines}, reverse=True))
    text = [
        "# The recommended formula of a default run beside FLAP, L1 and random scores",
        "",
        f"Errors on the {split} split: 0 as the dense network, 1 as the best guess that does not",
        f"look at the input; mean over {budgets} kept. `unseen` are tasks of families that neither",
        "the search nor its choice of the winner uses. L1 and random scores have their own",
        "conventions (the same share of every layer); FLAP, the best published metric on",
        "validation samples, has those of the search. Random scores are drawn three times; after",
        "fine-tuning every figure is a mean of three runs. `wins` says whether the recommended",
        "formula is below random on every task and below L1 in the mean over all tasks of the",
        f"logarithm of the error (+ {OFFSET}).",
        "",
        "    python benchmarks/default_winners.py --runs FOLDER --seeds "
        f"{' '.join(map(str, seeds))} --split {split}",
        "",
        "| seed | formula | "
        + " | ".join(f"wins, {_title(k, s)}" for s, k in product(steps, kinds))
        + " |",
        f"|---:|---|{'---|' * len(kinds) * len(steps)}",
    ]
    for seed in seeds:
        those = [line for line in lines if line.seed == seed]
        formula = next(line.formula for line in those if line.formula)
        verdicts = [
            verdict([x for x in those if (x.steps, x.kind) == case])
            for case in product(steps, kinds)
        ]
        text.append(f"| {seed} | `{formula}` | {' | '.join(verdicts)} |")
    for case in product(steps, kinds):
        text += ["", f"## {_title(case[1], case[0]).capitalize()}", ""]
        text += _table([x for x in lines if (x.steps, x.kind) == case], seeds)
    return "\n".join(text) + "\n"


def verdict(lines: Sequence[Line]) -> str:
    """Return whether the recommended formula wins, or where it does not."""
    lost = [
        f"random on {task}"
        for task in _tasks(lines)
        if mean_error(lines, "recommended", task) >= mean_error(lines, "random", task)
    ]
    if mean_log(lines, "recommended") >= mean_log(lines, "l1"):
        lost.append("L1 in the mean")
    return "yes" if not lost else f"no: {', '.join(lost)}"


def mean_error(lines: Iterable[Line], contender: str, task: str) -> float:
    """Return the mean error of a contender on a task."""
    return statistics.fmean(
        x.error for x in lines if x.contender == contender and x.task == task
    )  # fmt: skip


def mean_log(lines: Sequence[Line], contender: str) -> float:
    """Return the mean over tasks, budgets and repeats of the logarithm of the error."""
    return statistics.fmean(
        statistics.fmean(log_error(x.error) for x in lines if (x.contender, x.task) == case)
        for case in product((contender,), _tasks(lines))
    )


def _tasks(lines: Iterable[Line]) -> list[str]:
    return list(dict.fromkeys(line.task for line in lines))


def _title(kind: str, steps: int) -> str:
    tuned = f"after {steps} mini-batches" if steps else "right after pruning"
    return f"equal {'MACs' if kind == 'macs' else 'parameters'}, {tuned}"


def _table(lines: Sequence[Line], seeds: Sequence[int]) -> list[str]:
    roles = {line.task: line.role for line in lines}
    tasks = list(roles)
    text = [
        f"| seed | contender | {' | '.join(f'{t} ({roles[t]})' for t in tasks)} | mean log |",
        f"|---:|---|{'---:|' * (len(tasks) + 1)}",
    ]
    for seed, contender in product(seeds, CONTENDERS):
        those = [line for line in lines if line.seed == seed]
        figures = [f"{mean_error(those, contender, task):.3f}" for task in tasks]
        figures.append(f"{mean_log(those, contender):.3f}")
        text.append(f"| {seed} | {contender} | {' | '.join(figures)} |")
    return text
