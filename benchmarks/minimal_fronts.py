"""Check the formulas on the fronts of finished runs: is each as short as it can be?

    python benchmarks/minimal_fronts.py runs/001 runs/002 ...

For every formula of a front it tries all single reductions, written here apart from the code of
the search: a node replaced by one of its arguments, by 0 or 1, a number by one with up to three
digits. None may be shorter and keep every plan on every task that the run decides by: those of the
search and those that choose the winner. No formula may prune and rank like a published metric and
have another name. The table gives the sizes of the recommended formulas as they were found and as
they are shown. The exit status is 1 if a formula fails.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gp_prune.language.expression import Expression, ExpressionError, canonical
from gp_prune.language.parser import parse
from gp_prune.language.primitive import PrimitiveSet, primitive_set
from gp_prune.metric.metric import Metric
from gp_prune.runs.folder import load_or_check_settings
from gp_prune.runs.jobs import TaskSource
from gp_prune.search.comparison import plan_setting
from gp_prune.search.config import SearchConfig
from gp_prune.search.reduction import Reducer
from gp_prune.search.run import reference_metrics
from gp_prune.search.scorer import TaskScorer
from gp_prune.statistics.running import one_thread


class Verdict(NamedTuple):
    """What was found of one run.

    Attributes:
        folder: the run.
        formulas: number of formulas on the front.
        tried: number of single reductions that were tried.
        shorter: name of a formula -> a shorter one with the same plans.
        renamed: name of a formula -> the published metric that it is.
        found: nodes of the recommended formula as it was found.
        shown: its nodes as it is shown.
    """

    folder: Path
    formulas: int
    tried: int
    shorter: dict[str, str]
    renamed: dict[str, str]
    found: int
    shown: int


def single_replacements(tree: Expression) -> Iterator[Expression]:
    """Yield every tree with one node replaced."""
    yield from tree.arguments
    yield Expression.constant(0)
    yield Expression.constant(1)
    if tree.value is not None:
        for digits in (1, 2, 3):
            yield Expression.constant(float(f"{tree.value:.{digits}g}"))
    for place, argument in enumerate(tree.arguments):
        for part in single_replacements(argument):
            arguments = list(tree.arguments)
            arguments[place] = part
            try:
                yield Expression(tree.head, tree.over, arguments)
            except ExpressionError:
                continue


def is_shorter(one: Expression, other: Expression) -> bool:
    """Return whether a tree has fewer nodes, or as many and a shorter text."""
    return (one.size, len(str(one))) < (other.size, len(str(other)))


def check_run(folder: Path) -> Verdict:
    """Check the front of one finished run."""
    config = load_or_check_settings(SearchConfig, None, folder, resume=True, trust=())
    primitives = primitive_set(*config.primitives)
    source = TaskSource()
    scorers = [
        TaskScorer(source.load(name), config.calibration, config.seed, config.memory)
        for name in (*config.tasks, *config.validation_tasks)
    ]
    reducer = Reducer(primitives, scorers, plan_setting(config))
    published = [m for m in reference_metrics(primitives) if m.expression.axes is config.root]
    names = {f"{metric.name}_{config.scope}" for metric in published}
    with (folder / "front.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (folder / metric_file(row["name"])).exists()]
    shorter, renamed, tried = {}, {}, 0
    found = shown = 0
    for row in rows:
        name = row["name"]
        metric = Metric.load(folder / metric_file(name), primitives)
        if row["recommended"] == "1":
            found, shown = found_size(metric, primitives), metric.expression.size
        if name not in names:  # published formulas are shown as they were published
            wanted = reducer.plans(metric.expression)
            for other in single_replacements(metric.expression):
                if other.axes is metric.expression.axes and is_shorter(other, metric.expression):
                    tried += 1
                    if reducer.same_plans(canonical(other), wanted):
                        shorter[name] = str(other)
            known = reducer.find_published(metric.expression, published)
            if known is not None:
                renamed[name] = known.name
    return Verdict(folder, len(rows), tried, shorter, renamed, found, shown)


def metric_file(name: str) -> Path:
    """Return the file of a metric in a run folder."""
    return Path("metrics") / f"{name}.json"


def found_size(metric: Metric, primitives: PrimitiveSet) -> int:
    """Return the nodes of a formula as the search found it."""
    text = metric.provenance.get("found_as")
    return metric.expression.size if text is None else parse(text, primitives).size


def main() -> None:
    """Check all runs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN")
    print("| run | formulas | reductions tried | can be shorter | published | found | shown |")
    print("|---|---|---|---|---|---|---|")
    verdicts = []
    with one_thread():
        for folder in parser.parse_args().folders:
            verdict = check_run(folder)
            verdicts.append(verdict)
            print(
                f"| {folder.name} | {verdict.formulas} | {verdict.tried} | {len(verdict.shorter)} "
                f"| {len(verdict.renamed)} | {verdict.found} | {verdict.shown} |",
                flush=True,
            )
    before, after = (
        statistics.median(getattr(v, side) for v in verdicts) for side in ("found", "shown")
    )
    print(f"\nmedian size of the recommended formula: {before:g} as found, {after:g} as shown")
    for verdict in verdicts:
        for name, text in verdict.shorter.items():
            print(f"{verdict.folder}: {name} can be {text}")
        for name, metric in verdict.renamed.items():
            print(f"{verdict.folder}: {name} is {metric}")
    sys.exit(any(v.shorter or v.renamed for v in verdicts))


if __name__ == "__main__":
    main()
