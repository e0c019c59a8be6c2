"""The default run before and now: processor time by stage, and the front that it reaches.

For every seed the search of the package at an older commit and that of the present code, in turn,
with trained networks: ``gp-prune evolve`` without arguments, in one process with one thread. The
older default prunes other networks and fine-tunes them; what can be compared is the time for one
pruned network of a behaviour, and the time of a whole run. The older package is unpacked from git
into a folder of its own. The hypervolume is that of all that the search found, in the objectives of
each run.

Every finished run is a line of the CSV file at once; what stands there is not run again. The table
is written beside it.

    python benchmarks/default_run.py --before 07ddc16 --seeds 0 1 --runs FOLDER \
        --out benchmarks/results/default_run.csv
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from csv_lines import append, read
from old_code import unpack_old

BEFORE = "07ddc16"
"""Where the package had been restructured, before the default run was made faster."""
STAGES = ("prepare", "search", "front", "compare")


@dataclass(frozen=True)
class Line:
    """One default run.

    Attributes:
        code: the commit, or ``"now"``.
        seed: of the run.
        generations: after the first.
        prepare: seconds of processor time to load the networks, and in the older code to measure.
        search: to find the front, and later to measure what formulas read.
        front: to shorten its formulas and to plan the comparison.
        compare: to measure the front, its winner and the baselines.
        total: all of it, and the imports.
        behaviours: distinct behaviours tried.
        networks: that are pruned for a behaviour: tasks times budgets.
        hypervolume: of all that was found.
        winner: the recommended formula.
        digest: of the front: formulas and objectives, as written.
    """

    code: str
    seed: int
    generations: int
    prepare: float
    search: float
    front: float
    compare: float
    total: float
    behaviours: int
    networks: int
    hypervolume: float
    winner: str
    digest: str


def run(code: str, seed: int, generations: int, folder: Path, cache: str | None) -> Line:
    """Run the default in this process, with the package that it finds."""
    from gp_prune.runs.jobs import TaskSource
    from gp_prune.search.config import SearchConfig
    from gp_prune.search.run import SearchProgress, evolve

    seconds = dict.fromkeys(STAGES, 0.0)
    last, before, volume = time.process_time(), "prepare", 0.0

    def progress(now: SearchProgress) -> None:
        nonlocal last, before, volume
        clock = time.process_time()
        stage = {"tasks": "prepare", "search": "search"}.get(now.stage, "compare")
        # What ends with the first word of the comparison is its preparation.
        seconds["front" if (before, stage) == ("search", "compare") else stage] += clock - last
        last, before = clock, stage
        if now.generation is not None:
            volume = now.generation.hypervolume

    config = SearchConfig(seed=seed, generations=generations)
    result = evolve(config, folder, source=TaskSource(cache), workers=1, progress=progress)
    front = [
        (str(c.expression), c.candidate.objectives)
        for c in result.contenders
        if c.candidate is not None
    ]
    return Line(
        code, seed, generations,
        **{stage: round(value, 2) for stage, value in seconds.items()},
        total=round(time.process_time(), 2), behaviours=result.behaviours,
        networks=len(config.tasks) * len(config.ladder), hypervolume=round(volume, 6),
        winner=str(result.recommended.expression),
        digest=hashlib.sha256(repr(sorted(front)).encode()).hexdigest()[:12],
    )  # fmt: skip


def started(code: str, seed: int, given: argparse.Namespace) -> None:
    """Run the default in a process of its own, with the package and the memory of its workers."""
    from gp_prune.runs.processes import WORKER_MEMORY  # which the older package lacks

    path = "" if code == "now" else str(unpack_old(given.runs, code))
    memory = WORKER_MEMORY if code == "now" else {}
    environment = {**memory, **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    words = [
        sys.executable, __file__, "--child", code, "--seeds", str(seed), "--runs", str(given.runs),
        "--generations", str(given.generations), "--out", str(given.out),
    ]  # fmt: skip
    words += ["--cache-dir", given.cache_dir] if given.cache_dir else []
    subprocess.run(words, check=True, env=environment)


def mean(values: Sequence[float], digits: int) -> str:
    """Return a mean with its spread over the seeds, if there are several."""
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def report(lines: Sequence[Line]) -> str:
    """Return the table as Markdown."""
    codes = list(dict.fromkeys(line.code for line in lines))
    seeds = sorted({line.seed for line in lines})
    both = [s for s in seeds if all((c, s) in {(e.code, e.seed) for e in lines} for c in codes)]
    head = [
        "code", *STAGES, "total", "behaviours", "networks of each", "ms for a network",
        "hypervolume",
    ]  # fmt: skip
    rows = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for code in codes:
        some = [line for line in lines if line.code == code and line.seed in both]
        if some:
            cells = [mean([getattr(e, name) for e in some], 1) for name in (*STAGES, "total")]
            cells.append(mean([e.behaviours for e in some], 0))
            cells.append(str(some[0].networks))
            cells.append(mean([1000 * e.search / (e.behaviours * e.networks) for e in some], 1))
            cells.append(mean([e.hypervolume for e in some], 4))
            rows.append(f"| {code} | " + " | ".join(cells) + " |")
    each = ["", "| seed | code | total | hypervolume | front | recommended |"]
    each.append("| ---: | --- | ---: | ---: | --- | --- |")
    each += [
        f"| {e.seed} | {e.code} | {e.total:.1f} | {e.hypervolume:.4f} | {e.digest} | `{e.winner}` |"
        for e in sorted(lines, key=lambda e: (e.seed, codes.index(e.code)))
    ]
    return "\n".join([*rows, *each])


HEAD = """# The default run, before and now

`gp-prune evolve` without arguments ({generations} generations), with trained networks in the
cache: seconds of processor time of one process with one thread; {seeds}, both codes in turn.
`prepare` loads the networks (in the older code it also measures what formulas read, which is part
of `search` now), `search` finds the front, `front` shortens its formulas and plans the comparison,
`compare` measures front, winner and baselines; `total` has the imports, too. The process of the
present code keeps freed memory as worker processes do.

The older default prunes `lenet-digits`, `cnn-digits` and `autoencoder-digits`, and fine-tunes each
network for 30 mini-batches; the present one prunes `lenet-digits`, `caffe_lenet-digits` and two of
`resnet-digits`, without fine-tuning. "ms for a network" is the time of the search for one pruned
network of a behaviour. The hypervolume is that of all formulas tried, in the objectives of the run;
those of the two defaults are not comparable.

"""


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line; run what is missing in turn, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", default=BEFORE, help="commit of the older package")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--generations", type=int, default=24)
    parser.add_argument("--runs", type=Path, required=True, help="folder of code and runs")
    parser.add_argument("--cache-dir", help="folder of trained networks")
    parser.add_argument("--out", type=Path, required=True, help="the CSV file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.child:
        (seed,) = given.seeds
        folder = given.runs / f"{given.child}-{seed}"
        append(given.out, run(given.child, seed, given.generations, folder, given.cache_dir))
        return
    given.runs.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        for code in (given.before, "now"):
            there = {(line.code, line.seed) for line in read(given.out, Line)}
            if (code, seed) not in there:
                started(code, seed, given)
    lines = read(given.out, Line)
    seeds = len({line.seed for line in lines})
    head = HEAD.format(
        generations=given.generations, seeds="1 seed" if seeds == 1 else f"{seeds} seeds"
    )
    given.out.with_suffix(".md").write_text(head + report(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
