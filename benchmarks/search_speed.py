"""How much a search costs: the loop that a researcher would write with DEAP, beside ours.

The naive loop stands in naive_search.py: deep copies with masks, nothing remembered but individuals
that variation left unchanged. Both sides have the same statistics of the layers (made once, counted
on neither side), the same selection of channels, the same fine-tuning and validation samples.

* Levers: networks of the naive loop's own candidates, from torchvision and a DataLoader, from
  tensors, and compact, in turn; how many of its evaluations repeat a plan (cache); with
  ``--levers`` our search without rungs and with them, and one worker and two.
* In all: processor time of both whole searches, and the hypervolume of both fronts. All of the
  naive front, and all of ours, was tried at the same, full fidelity.

    python benchmarks/search_speed.py --levers
    python benchmarks/search_speed.py --task lenet-mnist --population 60 --generations 15 \
        --ladder 0.5,0.25,0.1 --steps 470 --rungs 0,60 --promote 0.15,0.2 \
        --training 10000 --judging 5000 --data-root FOLDER --time-first 60 --course FILE.csv

With ``--time-first N`` only the first N evaluations of the naive loop are really done its way; the
others take their errors from compact networks, and its time is extrapolated, which the report
says. ``--shelf FILE`` keeps the errors of those, so that a later run with the same settings needs
to time only. ``--course`` keeps both searches generation by generation. ``--memory`` instead
prints the memory of our search after every generation.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from csv_lines import append
from limited_tasks import LimitedSource
from naive_data import Loadable, loadable, same
from naive_search import Naive, Tried, masked_copy, masked_error, smaller, tuned_error
from protocols import FINE_TUNED, hypervolume

from gp_prune.language.primitive import builtin_primitives
from gp_prune.pruning import ChannelPlan
from gp_prune.runs.executors import InProcess, Runner, make_runner
from gp_prune.runs.jobs import TaskSource
from gp_prune.runs.journal import Journal
from gp_prune.runs.processes import resident_memory
from gp_prune.search.config import SearchConfig
from gp_prune.search.evaluator import Evaluator, outcome_reader
from gp_prune.search.nsga2 import Search
from gp_prune.search.objectives import Objectives
from gp_prune.search.run import reference_metrics
from gp_prune.search.scorer import TaskScorer
from gp_prune.training.pooling import pool_fast

N = TypeVar("N", int, float)


def processor(function: Callable[[], float]) -> tuple[float, float]:
    """Processor seconds of a call, and its value."""
    started = time.process_time()
    value = function()
    return time.process_time() - started, value


class PerNetwork(NamedTuple):
    """Mean processor seconds of one network in four ways, and what they do to its error.

    Attributes:
        loaded: masked, from torchvision's data set and a DataLoader: the naive way.
        masked: masked, from slices of a tensor.
        small: compact, from slices of a tensor.
        fast: the same with faster pooling: ours.
        difference: mean absolute difference in relative error between first and last.
    """

    loaded: float
    masked: float
    small: float
    fast: float
    difference: float


def per_network(
    config: SearchConfig, bench: TaskScorer, images: Loadable, tried: Sequence[Tried], count: int
) -> PerNetwork:
    """Time the four ways in turn, on networks that the naive loop tried."""
    ways: list[Callable[[ChannelPlan], float]] = [
        lambda plan: masked_error(config, bench, images, plan),
        lambda plan: tuned_error(config, bench, masked_copy(bench, plan)),
        lambda plan: tuned_error(config, bench, smaller(bench, plan)),
        lambda plan: tuned_error(config, bench, pool_fast(smaller(bench, plan))),
    ]
    seconds: list[list[float]] = [[] for _ in ways]
    differences = []
    for number, one in enumerate(random.Random(0).sample(list(tried), min(count, len(tried)))):
        errors = {}
        for place in sorted(range(len(ways)), reverse=bool(number % 2)):
            taken, errors[place] = processor(lambda place=place, plan=one.plan: ways[place](plan))  # type: ignore[misc]
            seconds[place].append(taken)
        differences.append(abs(errors[0] - errors[3]))
    loaded, masked, small, fast = map(statistics.fmean, seconds)
    return PerNetwork(loaded, masked, small, fast, statistics.fmean(differences))


class Ours(NamedTuple):
    """One search of ours.

    Attributes:
        processor: seconds of this process.
        wall: seconds on the clock.
        front: objectives of the front, all of full fidelity.
        evaluations: evaluations of networks.
        memory: bytes in use after every generation.
        course: after every generation its processor seconds, the formulas tried and the
            hypervolume of the front.
    """

    processor: float
    wall: float
    front: list[Objectives]
    evaluations: int
    memory: list[int]
    course: list[tuple[float, int, float]]

    def reached(self, volume: float) -> tuple[float, int] | None:
        """Processor seconds and formulas until the front had that hypervolume, if it has it."""
        for seconds, formulas, found in self.course:
            if found >= volume:
                return seconds, formulas
        return None


def search(config: SearchConfig, bench: TaskScorer, runner: Runner) -> Ours:
    """Run our search; the statistics of the layers are made already."""
    primitives = builtin_primitives()
    seeds = [m for m in reference_metrics(primitives) if m.expression.axes is config.root]
    memory, course = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        Journal(Path(folder), outcome_reader()) as journal,
    ):
        wall, started = time.perf_counter(), time.process_time()
        evaluator = Evaluator(runner, journal, stack=1)
        found = Search(config, primitives, [bench], seeds, evaluator, journal)
        for generation in found.generations():
            memory.append(resident_memory(os.getpid()))
            course.append(
                (time.process_time() - started, generation.assessed, generation.hypervolume)
            )
            last = generation
        taken = time.process_time() - started, time.perf_counter() - wall
    front = sorted(candidate.objectives for candidate in found.archive.front())
    return Ours(*taken, front, last.evaluations, memory, course)


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def report_memory(config: SearchConfig, bench: TaskScorer, source: TaskSource) -> None:
    """Memory of this process after every generation."""
    memory = search(config, bench, InProcess(source)).memory
    row("generation", "MB in use")
    row("---:", "---:")
    for number, held in enumerate(memory):
        if number % max(1, len(memory) // 20) == 0 or number == len(memory) - 1:
            row(number, round(held / 2**20))
    early, late = memory[min(5, len(memory) - 1)], memory[-1]
    print(f"\nAfter generation 5: {(late - early) / 2**20:+.0f} MB")


def levers(
    config: SearchConfig,
    bench: TaskScorer,
    source: TaskSource,
    given: argparse.Namespace,
    ours: Ours,
) -> None:
    """Rows for what our search gains by its rungs and by its workers."""
    all_full = search(replace(config, rung_steps=(), promote=()), bench, InProcess(source))
    pool = make_runner(source, given.workers)
    try:
        pool.prepare(config.tasks)
        warm = replace(config, population=4, generations=0, rung_steps=(), promote=())
        search(warm, bench, pool)
        parallel = search(config, bench, pool)
    finally:
        pool.close()
    assert parallel.front == ours.front, "workers change nothing"
    row(
        f"rungs, s (hypervolume without {hypervolume(all_full.front):.4f})",
        f"{all_full.processor:.1f}", f"{ours.processor:.1f}",
        f"{all_full.processor / ours.processor:.1f}",
    )  # fmt: skip
    row(
        f"{given.workers} workers, s on the clock", f"{ours.wall:.1f}", f"{parallel.wall:.1f}",
        f"{ours.wall / parallel.wall:.2f}",
    )  # fmt: skip


def compare(
    config: SearchConfig, bench: TaskScorer, source: TaskSource, given: argparse.Namespace
) -> None:
    """Print what every lever saves, and what all save together."""
    images = loadable(bench.task, given.data_root)
    assert same(images.train, bench.task.train) and same(images.validation, bench.task.validation)
    shelf = Path(given.shelf) if given.shelf else None
    naive = Naive(config, bench, images, given.time_first, shelf)
    naive_seconds, naive_front = naive.run()
    total, distinct = len(naive.tried), len({one.plan.digest() for one in naive.tried})
    one = per_network(config, bench, images, naive.tried, given.sample)
    ours = search(config, bench, InProcess(source))
    row("lever", "without", "with", "ratio")
    row("---", "---:", "---:", "---:")
    row(
        "batches from tensors, s each", f"{one.loaded:.3f}", f"{one.masked:.3f}",
        f"{one.loaded / one.masked:.1f}",
    )  # fmt: skip
    row(
        "compact networks, s each", f"{one.masked:.3f}", f"{one.small:.3f}",
        f"{one.masked / one.small:.1f}",
    )  # fmt: skip
    row(
        "faster pooling, s each",
        f"{one.small:.3f}",
        f"{one.fast:.3f}",
        f"{one.small / one.fast:.1f}",
    )
    row("cache, networks", total, distinct, f"{total / distinct:.1f}")
    if given.levers:
        levers(config, bench, source, given, ours)
    row(
        "**in all, processor s**", f"{naive_seconds:.1f}", f"{ours.processor:.1f}",
        f"**{naive_seconds / ours.processor:.1f}**",
    )  # fmt: skip
    reached = ours.reached(hypervolume(naive_front))
    if reached is not None:
        seconds, formulas = reached
        row(
            f"to the naive front's hypervolume ({formulas} formulas), processor s",
            f"{naive_seconds:.1f}", f"{seconds:.1f}", f"**{naive_seconds / seconds:.1f}**",
        )  # fmt: skip
    extrapolated = (
        f", extrapolated from {naive.timed} of {total} timed networks"
        if naive.timed < total
        else ""
    )
    print(f"\nNaive: {total} networks{extrapolated}. Ours: {ours.evaluations} evaluations.")
    print(f"Naive and compact networks differ in error by {one.difference:.4f} in the mean.")
    print(
        f"Hypervolume of the front: naive {hypervolume(naive_front):.4f}, "
        f"ours {hypervolume(ours.front):.4f}."
    )
    if given.course:
        write_course(Path(given.course), config.seed, {"naive": naive.course, "ours": ours.course})


@dataclass(frozen=True)
class Step:
    """A generation of a search.

    Attributes:
        seed: of the search.
        search: ``"naive"`` or ``"ours"``.
        generation: its number.
        seconds: of processor time until it ended.
        tried: networks (naive) or formulas (ours) until then.
        hypervolume: of the front.
    """

    seed: int
    search: str
    generation: int
    seconds: float
    tried: int
    hypervolume: float


def write_course(path: Path, seed: int, courses: dict[str, list[tuple[float, int, float]]]) -> None:
    """Add the generations of both searches to a CSV file."""
    for name, course in courses.items():
        for generation, (seconds, tried, volume) in enumerate(course):
            append(path, Step(seed, name, generation, round(seconds, 1), tried, round(volume, 5)))


def listed(text: str, number: Callable[[str], N]) -> tuple[N, ...]:
    """Return the numbers between commas; none in an empty text."""
    return tuple(number(part) for part in text.split(",") if part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="lenet-digits")
    parser.add_argument("--population", type=int, default=24)
    parser.add_argument("--generations", type=int, default=6)
    parser.add_argument("--ladder", default="0.5,0.25,0.1", help="shares of channels kept")
    parser.add_argument("--steps", type=int, default=60, help="fine-tuning at full fidelity")
    parser.add_argument("--rungs", default="0", help="fine-tuning on cheaper rungs; '' for none")
    parser.add_argument("--promote", default="0.25", help="shares that rise from them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=int, default=20, help="networks, masked and compact")
    parser.add_argument("--time-first", type=int, default=0, help="networks; 0 for all")
    parser.add_argument("--shelf", help="file with the errors of networks that are not timed")
    parser.add_argument("--training", type=int, default=0, help="training images; 0 for all")
    parser.add_argument("--judging", type=int, default=0, help="validation images; 0 for all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--levers", action="store_true", help="time rungs and workers, too")
    parser.add_argument("--course", help="CSV file that gets both searches' generations")
    parser.add_argument("--memory", action="store_true", help="memory of our search instead")
    parser.add_argument("--cache-dir")
    parser.add_argument("--data-root")
    given = parser.parse_args()
    torch.set_num_threads(1)
    source = TaskSource(given.cache_dir, given.data_root)
    if given.training or given.judging:
        # Worker processes must find the class of the source, too.
        here = str(Path(__file__).parent)
        os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
        source = LimitedSource(
            given.cache_dir, given.data_root, training=given.training, judging=given.judging
        )
    config = SearchConfig(
        validate_on=(),
        tasks=(given.task,),
        population=given.population,
        generations=given.generations,
        seed=given.seed,
        ladder=listed(given.ladder, float),
        fine_tune_steps=given.steps,
        rung_steps=listed(given.rungs, int),
        promote=listed(given.promote, float),
        **FINE_TUNED,
    )
    bench = TaskScorer(source.load(given.task), config.calibration, config.seed)
    print(
        f"{given.task}, {given.population} x {given.generations}, ladder {given.ladder}, "
        f"{given.steps} steps, seed {given.seed}\n"
    )
    if given.memory:
        report_memory(config, bench, source)
    else:
        compare(config, bench, source, given)


if __name__ == "__main__":
    main()
