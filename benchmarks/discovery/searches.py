"""Searches by evolution and by random formulas, with the same number of behaviours.

Four tasks: ``digits`` are those of the default search; ``images`` are a LeNet and a fully
connected autoencoder on MNIST, a network with batch norm on FashionMNIST and the published
ResNet-20 on CIFAR-10; ``weights`` are the same networks, for formulas of single weights; ``shares``
are five networks, two of them with residual sums, for formulas of the share of each layer.

Four arms: ``evolve`` and ``random`` begin with the published and the two-factor formulas,
``scratch`` evolves without any, ``factors`` evolves with products of parts that read different
measurements. Every finished search is a line of a CSV file at once; what stands there is not run
again. Fronts are kept as formulas with their objectives. ``--unseen`` measures the recommended
formulas on networks of other families (validation splits).

    python benchmarks/discovery/searches.py digits --runs FOLDER --seeds 30 31 32 33 34 35 36 37
    python benchmarks/discovery/searches.py images --runs FOLDER --seeds 0 1 2 3 4
    python benchmarks/discovery/searches.py weights --runs FOLDER --seeds 0 1 2 3 4
    python benchmarks/discovery/searches.py images --runs FOLDER --unseen
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from csv_lines import append, as_csv, read
from scipy.stats import wilcoxon

from gp_prune import Metric, SearchConfig, compare, evaluate, evolve
from gp_prune.base.files import write_text
from gp_prune.judging.standings import find_standings
from gp_prune.runs.folder import CONFIG
from gp_prune.search.nsga2 import Generation
from gp_prune.search.results import SearchResult

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER.parent / "results"
NETWORKS = FOLDER / "transfer_networks.py"
IMAGES = ("lenet-mnist", "cnn-fashionmnist", "autoencoder-mnist", f"{NETWORKS}:resnet20_search")
CHOICE = ("resnet-digits@1", "cnn-digits", "mlp-digits")
"""Networks on which the winner of a search on images is measured, too; of one on the digits, those
that chose it."""
SELECT = "mean[n,s](A^2) * sum[j](V^2)"
"""What chooses the channels where formulas give the shares of layers (``square_energy``)."""
DEEP = (
    f"{NETWORKS}:resnet20_search", "resnet-digits", "cnn-fashionmnist", "caffe_lenet-digits",
    "autoencoder-digits",
)  # fmt: skip
"""Networks on which formulas of the shares of layers are searched; two have residual sums."""
UNSEEN = tuple(f"{NETWORKS}:{name}" for name in ("vgg", "dense", "conv_autoencoder"))
"""Networks of families that no search here uses; their validation splits alone are read."""

_ON_IMAGES: dict[str, Any] = {
    "tasks": IMAGES, "validate_on": (), "comparison": False, "population": 20, "generations": 100,
    "max_evaluations": 150, "calibration": 250, "rung_steps": (0,), "rung_samples": 250,
    "promote": (0.25,),
}  # fmt: skip
"""All are judged on 250 images of each network, and a quarter on all (5,000, of ResNet-20 250)."""

PUBLISHED = (
    "l1", "l2", "fpgm", "bn_scale", "group_norm", "activation_variance", "mean_activation",
    "nisp", "taylor_gate", "taylor_2017", "taylor_bn", "taylor_sum", "obd", "wanda", "gecco_2",
)  # fmt: skip
"""Published metrics that a search on images begins with, besides the two-factor formulas: those
that cost least, and stand best in the first tables."""
PUBLISHED_OF_WEIGHTS = (
    "magnitude", "wanda_weight", "ria_weight", "obd_weight", "snip_weight", "lamp_weight",
    "sparsegpt_weight", "taylor_weight", "pruner_zero_weight",
)  # fmt: skip

TASKS: dict[str, dict[str, Any]] = {
    "digits": {"max_evaluations": 1000},
    "images": {
        **_ON_IMAGES, "no_start_formulas": True, "start_formulas": ("two-factor", *PUBLISHED),
    },
    "weights": {
        **_ON_IMAGES, "granularity": "weight", "no_start_formulas": True,
        "start_formulas": PUBLISHED_OF_WEIGHTS,
    },
    "shares": {
        **_ON_IMAGES, "granularity": "layer", "select": SELECT, "tasks": DEEP,
        "max_evaluations": 120, "no_start_formulas": False,
    },
}  # fmt: skip
"""Settings of the searches; ``max_evaluations`` counts distinct behaviours, start formulas too."""

ARMS: dict[str, dict[str, Any]] = {
    "evolve": {},
    "random": {"strategy": "random"},
    "scratch": {"no_start_formulas": True, "start_formulas": ()},
    "factors": {"factors": "on"},
}


@dataclass(frozen=True)
class Line:
    """One search.

    Attributes:
        arm: one of :data:`ARMS`.
        seed: of the search.
        behaviours: distinct behaviours tried.
        hypervolume: of the whole front: error, cost that the budget leaves free, size (validation).
        error: least error in the search.
        recommended: formula that the run recommends.
        nodes: its size.
        unseen: its validation error on other networks for the digits.
        seconds: of processor time.
        front: formulas of the front, and error, cost and size of each, as JSON.
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


@dataclass(frozen=True)
class Standing:
    """The recommended formula of one search on networks of other families.

    Attributes:
        arm: one of :data:`ARMS`.
        seed: of the search.
        rank: mean rank among the formulas of all searches and the baselines.
        error: mean error, 0 as the dense network and 1 as the best constant guess.
    """

    arm: str
    seed: int
    rank: float
    error: float


def run(task: str, arm: str, seed: int, folder: Path) -> Line:
    """Search once, or go on with it; nothing is fine-tuned at the end."""
    last: list[Generation] = []
    listen: Callable[[Generation], None] = last.append
    started = (folder / CONFIG).exists()
    before = _seconds()
    settings = SearchConfig(seed=seed, final_steps=0, **{**TASKS[task], **ARMS[arm]})
    result = evolve(
        None if started else settings, folder, resume=started, callbacks=[listen],
        trust=[NETWORKS] if started and _names_file(settings.tasks) else (),
    )  # fmt: skip
    found = [c.candidate for c in result.contenders if c.candidate is not None]
    front = [[str(c.expression), *(round(x, 5) for x in c.objectives)] for c in found]
    best = result.recommended
    return Line(
        arm, seed, result.behaviours, round(last[-1].hypervolume, 5),
        min(c.objectives[0] for c in found), str(best.expression), best.expression.size,
        round(_error_elsewhere(task, result), 5), round(_seconds() - before, 1),
        json.dumps(front),
    )  # fmt: skip


def _names_file(tasks: Sequence[str]) -> bool:
    """Tell whether one of the tasks is a function of ``transfer_networks.py``."""
    return any(name.startswith(str(NETWORKS)) for name in tasks)


def _error_elsewhere(task: str, result: SearchResult) -> float:
    """Return the validation error of the recommended formula on other networks for the digits."""
    best = result.recommended
    if result.config.comparison:
        return result.unseen_error(best, "validation")
    if task != "shares":
        return evaluate(str(best.expression), CHOICE).error
    shares = Metric.parse(str(best.expression), name="shares")
    return evaluate(Metric.parse(SELECT, name="pair").with_shares(shares), CHOICE).error


def _seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def compare_unseen(task: str, lines: Sequence[Line], runs: Path) -> list[Standing]:
    """Measure the recommended formulas on the validation splits of other networks."""
    folder = runs / f"unseen-{task}"
    names = {f"{line.arm}_{line.seed}": line for line in lines}
    if (folder / CONFIG).exists():
        result = compare(folder=folder, resume=True, trust=[NETWORKS])
    else:
        metrics = [f"{name}={line.recommended}" for name, line in names.items()]
        result = compare(metrics, UNSEEN, folder, calibration=256)
    standings = find_standings(result.measurements, result.metrics, result.settings.baseline)
    return [
        Standing(names[s.name].arm, names[s.name].seed, round(s.rank, 3), round(s.error, 5))
        for s in standings
        if s.name in names
    ]


def _paired(pairs: Sequence[tuple[float, float]], name: str, *, more_is_better: bool) -> str:
    """Return a line on the differences of evolution and random formulas, seed by seed."""
    gains = [one - other for one, other in pairs]
    better = sum(g > 0 if more_is_better else g < 0 for g in gains)
    return (
        f"- {name}: evolution is better in {better} of {len(gains)} pairs "
        f"({statistics.fmean(gains):+.4f}; Wilcoxon, two-sided p = {wilcoxon(gains).pvalue:.4f})"
    )


def table(task: str, lines: Sequence[Line], standings: Sequence[Standing]) -> str:
    """Return the arms side by side, and paired tests of evolution against random formulas."""
    on = {(s.arm, s.seed): s for s in standings}
    rows = [
        "| arm | seeds | hypervolume | least error | recommended, other digits networks | "
        "other families, error | nodes | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for arm in ARMS:
        own = [line for line in lines if line.arm == arm]
        if len(own) < 2:
            continue
        figures = [[x.hypervolume for x in own], [x.error for x in own], [x.unseen for x in own]]
        figures.append([on[x.arm, x.seed].error for x in own if (x.arm, x.seed) in on])
        cells = [
            f"{statistics.fmean(v):.4f} ± {statistics.stdev(v):.4f}" if len(v) > 1 else ""
            for v in figures
        ]
        ends = [f"{statistics.fmean(x.nodes for x in own):.1f}"]
        ends.append(f"{statistics.fmean(x.seconds for x in own):.0f}")
        rows.append(f"| {arm} | {len(own)} | {' | '.join([*cells, *ends])} |")
    rows += ["", *_tests(lines, on)]
    rows += [
        "",
        "| arm | seed | recommended formula | nodes | other digits networks | other families |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for x in lines:
        other = f"{on[x.arm, x.seed].error:.3f}" if (x.arm, x.seed) in on else ""
        rows.append(
            f"| {x.arm} | {x.seed} | `{x.recommended}` | {x.nodes} | {x.unseen:.3f} | {other} |"
        )
    return "\n".join([_HEAD.format(task=task, most=TASKS[task]["max_evaluations"]), *rows, ""])


def _tests(lines: Sequence[Line], on: dict[tuple[str, int], Standing]) -> list[str]:
    """Return the paired tests; none where fewer than five seeds have both arms."""
    one, other = ({x.seed: x for x in lines if x.arm == arm} for arm in ("evolve", "random"))
    seeds = sorted(one.keys() & other.keys())
    if len(seeds) < 5:
        return []
    rows = []
    for name in ("hypervolume", "error", "unseen"):
        pairs = [(getattr(one[n], name), getattr(other[n], name)) for n in seeds]
        rows.append(_paired(pairs, name, more_is_better=name == "hypervolume"))
    if all(("evolve", n) in on and ("random", n) in on for n in seeds):
        for name in ("error", "rank"):
            found = [(on["evolve", n], on["random", n]) for n in seeds]
            pairs = [(getattr(x, name), getattr(y, name)) for x, y in found]
            rows.append(_paired(pairs, f"{name} on other families", more_is_better=False))
    return rows


_HEAD = """# Searches: {task}

Each search tries at most {most} distinct behaviours (equal budgets, right after pruning, one
process). `evolve` and `random` begin with the published and the two-factor formulas, `scratch`
evolves without any, `factors` draws half of its random trees as products. Hypervolume of the whole
front in the objectives of the search (error, cost that the budget leaves free, size); all errors
are validation errors, from 0 (as the dense network) to 1 (the best constant guess). The other
families are a VGG-like network, one with concatenation and a convolutional autoencoder, pruned to
75, 50 and 30 % of MACs and of parameters (weights: to 50, 20, 10 and 5 %) under two allocations.

    python benchmarks/discovery/searches.py {task} --runs FOLDER --seeds SEED...
"""


def main() -> None:
    """Read the command line, search, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--runs", type=Path, help="folder of the searches")
    parser.add_argument("--seeds", type=int, nargs="+", default=[])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["evolve", "random"])
    parser.add_argument("--out", type=Path, help="the CSV file")
    parser.add_argument("--unseen", action="store_true", help="measure on other families")
    given = parser.parse_args()
    out = given.out or RESULTS / f"searches_{given.task}.csv"
    unseen = out.with_name(f"{out.stem}_unseen.csv")
    lines = read(out, Line)
    there = {(line.arm, line.seed) for line in lines}
    for seed in given.seeds:
        for arm in given.arms:
            if (arm, seed) not in there:
                line = run(given.task, arm, seed, given.runs / f"{given.task}-{arm}-{seed}")
                append(out, line)
                lines.append(line)
                print(f"{arm} {seed}: {line.recommended}", flush=True)
    if given.unseen:
        write_text(unseen, as_csv(compare_unseen(given.task, lines, given.runs)))
    order = list(ARMS)
    lines = sorted(lines, key=lambda x: (order.index(x.arm), x.seed))
    write_text(out.with_suffix(".md"), table(given.task, lines, read(unseen, Standing)))


if __name__ == "__main__":
    main()
