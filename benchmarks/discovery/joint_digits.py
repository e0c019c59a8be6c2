"""Searches on the joint digits task: evolution, random formulas, and evolution from nothing.

Every arm tries equally many behaviours: ``evolve`` and ``random`` begin with the published and the
two-factor formulas, ``scratch`` evolves with neither. Every finished search is a line of the CSV
file at once; what stands there is not run again. Fronts are kept as formulas with their objectives.

    python benchmarks/discovery/joint_digits.py --runs FOLDER --seeds 20 21 22 23
    python benchmarks/discovery/joint_digits.py --table
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from csv_lines import append, read
from scipy.stats import wilcoxon

from gp_prune import SearchConfig, evolve
from gp_prune._io import write_text
from gp_prune.runs.folder import CONFIG
from gp_prune.search.nsga2 import Generation

FOLDER = Path(__file__).resolve().parent
FILE = FOLDER / "joint_digits.csv"
ARMS: dict[str, dict[str, Any]] = {
    "evolve": {},
    "random": {"strategy": "random"},
    "scratch": {"no_start_formulas": True},
}
BEHAVIOURS = 500
"""Distinct behaviours that every search may try, the start formulas among them."""


@dataclass(frozen=True)
class Line:
    """One search.

    Attributes:
        arm: one of :data:`ARMS`.
        seed: of the search.
        behaviours: distinct behaviours tried.
        hypervolume: of the whole front: error, parameters kept, size (validation split).
        error: least error in the search.
        recommended: formula that the run recommends.
        nodes: its size.
        unseen: its validation error on the two tasks that choose the winner.
        seconds: of processor time.
        front: formulas of the front, and error, parameters kept and size of each, as JSON.
    """

    arm: str
    seed: int
    behaviours: int
    hypervolume: float
    error: float
    recommended: str
    nodes: int
    unseen: float
    seconds: float
    front: str


def settings(arm: str, seed: int) -> SearchConfig:
    """Return the default search, with a limit of behaviours; nothing is fine-tuned at its end."""
    return SearchConfig(seed=seed, max_evaluations=BEHAVIOURS, final_steps=0, **ARMS[arm])


def run(arm: str, seed: int, folder: Path) -> Line:
    """Search once, or go on with it."""
    last: list[Generation] = []
    listen: Callable[[Generation], None] = last.append
    started = (folder / CONFIG).exists()
    before = _seconds()
    config = None if started else settings(arm, seed)
    result = evolve(config, folder, resume=started, callbacks=[listen])
    found = [c.candidate for c in result.contenders if c.candidate is not None]
    front = [[str(c.expression), *(round(x, 5) for x in c.objectives)] for c in found]
    best = result.recommended
    return Line(
        arm, seed, result.behaviours, round(last[-1].hypervolume, 5),
        min(c.objectives[0] for c in found), str(best.expression), best.expression.size,
        round(result.unseen_error(best, "validation"), 5), round(_seconds() - before, 1),
        json.dumps(front),
    )  # fmt: skip


def _seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def table(lines: list[Line]) -> str:
    """Return the arms side by side, and a paired test of evolution against random formulas."""
    rows = [
        "| arm | seeds | hypervolume | least error | recommended, unseen tasks | nodes |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for arm in ARMS:
        own = [line for line in lines if line.arm == arm]
        if len(own) < 2:
            continue
        figures = ([x.hypervolume for x in own], [x.error for x in own], [x.unseen for x in own])
        cells = [f"{statistics.fmean(v):.4f} ± {statistics.stdev(v):.4f}" for v in figures]
        nodes = statistics.fmean(x.nodes for x in own)
        rows.append(f"| {arm} | {len(own)} | {' | '.join(cells)} | {nodes:.1f} |")
    by_arm = {arm: {x.seed: x for x in lines if x.arm == arm} for arm in ARMS}
    pairs = sorted(by_arm["evolve"].keys() & by_arm["random"].keys())
    if len(pairs) >= 5:
        rows.append("")
        for name in ("hypervolume", "error", "unseen"):
            gains = [
                getattr(by_arm["evolve"][s], name) - getattr(by_arm["random"][s], name)
                for s in pairs
            ]
            better = sum(g > 0 if name == "hypervolume" else g < 0 for g in gains)
            rows.append(
                f"- {name}: evolution is better in {better} of {len(pairs)} pairs "
                f"({statistics.fmean(gains):+.4f}; Wilcoxon, two-sided p = "
                f"{wilcoxon(gains).pvalue:.4f})"
            )
    rows += [
        "",
        "| arm | seed | recommended formula | nodes | unseen tasks |",
        "|---|---:|---|---:|---:|",
    ]
    rows += [
        f"| {x.arm} | {x.seed} | `{x.recommended}` | {x.nodes} | {x.unseen:.3f} |" for x in lines
    ]
    return "\n".join([_HEAD, *rows, ""])


_HEAD = f"""# Searches on the joint digits task

Three arms, each with {BEHAVIOURS} distinct behaviours on the tasks of the default search (digits;
equal MACs, right after pruning). `evolve` and `random` begin with the published and the two-factor
formulas, `scratch` evolves without any. Hypervolume of the whole front in the objectives of the
search (error, parameters kept, size); all errors are validation errors, from 0 (as the dense
network) to 1 (the best constant guess). The unseen tasks are the two that choose the winner.

    python benchmarks/discovery/joint_digits.py --runs FOLDER --seeds 20 21 22 23 24 25 26 27
"""


def main() -> None:
    """Read the command line, search, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, help="folder of the searches")
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["evolve", "random"])
    parser.add_argument("--out", type=Path, default=FILE, help="the CSV file")
    parser.add_argument("--table", action="store_true", help="write the table alone")
    given = parser.parse_args()
    lines = read(given.out, Line)
    there = {(line.arm, line.seed) for line in lines}
    for seed in () if given.table else given.seeds:
        for arm in given.arms:
            if (arm, seed) not in there:
                line = run(arm, seed, given.runs / f"{arm}-{seed}")
                append(given.out, line)
                lines.append(line)
                print(f"{arm} {seed}: {line.recommended}", flush=True)
    write_text(given.out.with_suffix(".md"), table(sorted(lines, key=lambda x: (x.arm, x.seed))))


if __name__ == "__main__":
    main()
