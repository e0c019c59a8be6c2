"""Searches for formulas on the weights of small language models, and the choice among them.

``run`` searches. The arms are ``scratch``, the default search on `llama-pydoc` without any start
formula; ``plain``, the same without the setting ``factors``; and two that search on a Llama and a
GPT-2 together: ``joint_row`` ranks the weights of each output alone, ``joint_global`` all layers
together. Every finished search is a line of ``searches.csv``, its front among it; what stands there
is not run again. ``choose`` prunes networks that no search has seen by the formulas of the joint
fronts, under the conventions of their search, and judges on the validation splits; of each arm the
formula with the least mean cross-entropy is a candidate of the comparison.

    python benchmarks/language/language_searches.py run --runs FOLDER --arm scratch
    python benchmarks/language/language_searches.py run --runs FOLDER --arm plain
    python benchmarks/language/language_searches.py run --runs FOLDER --arm joint_row
    python benchmarks/language/language_searches.py run --runs FOLDER --arm joint_global
    python benchmarks/language/language_searches.py choose
    python benchmarks/language/language_searches.py table
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from csv_lines import append, read
from language_networks import EVOLVED, FORMULAS, RANKINGS, prune_by, score
from torch import Tensor

from gp_prune import SearchConfig, evaluate, evolve, load_task
from gp_prune.base.files import write_text
from gp_prune.metric.metric import Metric
from gp_prune.runs.folder import CONFIG
from gp_prune.search.results import SearchResult

FOLDER = Path(__file__).resolve().parent
SEARCHES = FOLDER / "searches.csv"
CHOICE = FOLDER / "choice.csv"
JOINT = ("llama-pydoc", "gpt-pydoc")
ARMS: dict[str, dict[str, Any]] = {
    "scratch": {"tasks": ("llama-pydoc",), "no_start_formulas": True},
    "plain": {"tasks": ("llama-pydoc",), "no_start_formulas": True, "factors": "off"},
    "joint_row": {"tasks": JOINT, "scope": "row", "max_evaluations": 400, "factors": "off"},
    "joint_global": {"tasks": JOINT, "max_evaluations": 400, "factors": "off"},
}
BASELINES = ("magnitude", "wanda_weight", "ria_weight", "pruner_zero_weight", "obd_weight")
"""Formulas that stand beside those of the fronts in the choice."""
CHOOSE_ON = ("llama-pydoc@21", "gpt-pydoc@21", "llama-pydoc@22", "gpt-pydoc@22")
CHOOSE_AT = ("50%", "60%")
RANKED = {"joint_row": "row", "joint_global": "global"}
"""Arm -> what its formulas rank together where they are chosen."""
MOST_NODES = 25
"""Larger formulas of a front do not take part in the choice."""


@dataclass(frozen=True)
class Search:
    """One search.

    Attributes:
        arm: one of :data:`ARMS`.
        seed: of the search.
        behaviours: distinct prunings tried.
        error: least error on the tasks of the search: mean of cross-entropies, 0 as the dense
            network, 1 as the best guess from the frequencies of the bytes.
        wanda: error of Wanda on the same cells.
        seconds: of processor time.
        front: formulas of the front and the error of each, as JSON.
    """

    arm: str
    seed: int
    behaviours: int
    error: float
    wanda: float
    seconds: float
    front: str

    @property
    def formulas(self) -> list[tuple[str, float]]:
        """Return the formulas of the front and their errors, the least first."""
        return sorted(((text, error) for text, error in json.loads(self.front)), key=lambda x: x[1])


def settings(arm: str, seed: int) -> SearchConfig:
    """Return the default search on the weights of language models, but for what the arm changes.

    Nothing is compared at its end, since ``choose`` does it for all searches together.
    """
    return SearchConfig(granularity="weight", seed=seed, comparison=False, **ARMS[arm])


def search(arm: str, seed: int, folder: Path) -> Search:
    """Search once, or go on with it."""
    started = (folder / CONFIG).exists()
    before = _seconds()
    result = evolve(None if started else settings(arm, seed), folder, resume=started, workers=1)
    front = [
        (str(c.expression), round(c.candidate.objectives[0], 5))
        for c in result.contenders
        if c.candidate is not None
    ]
    seconds = round(_seconds() - before, 1)
    return Search(
        arm, seed, result.behaviours, min(error for _, error in front), _wanda_error(result),
        seconds, json.dumps(front),
    )  # fmt: skip


def _wanda_error(result: SearchResult) -> float:
    """Return the error of Wanda on the tasks and budgets of a search, ranked as in the search."""
    config = result.config
    wanda = replace(Metric.load("wanda_weight"), conventions=config.conventions)
    judged = evaluate(wanda, config.tasks, keep=config.ladder)
    return round(judged.error, 5)


def _seconds() -> float:
    """Return the processor time of this process and of the workers that have ended."""
    used = [resource.getrusage(x) for x in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(x.ru_utime + x.ru_stime for x in used)


@dataclass(frozen=True)
class Judged:
    """A formula on one network that chooses.

    Attributes:
        network: name of the task.
        formula: name or text.
        scope: what was ranked together.
        sparsity: share of the weights removed.
        nats: cross-entropy per byte on the validation sequences.
    """

    network: str
    formula: str
    scope: str
    sparsity: str
    nats: float


def candidates(searches: Sequence[Search], scope: str) -> list[str]:
    """Return the baselines, and the formulas of all fronts for a ranking that are small enough."""
    texts = [t for s in searches if RANKED.get(s.arm) == scope for t, _ in s.formulas]
    small = [text for text in texts if Metric.load(text).expression.size <= MOST_NODES]
    return list(dict.fromkeys([*BASELINES, *small]))


def choose(searches: Sequence[Search], cache_dir: str | None) -> None:
    """Judge the candidates on the networks that choose, and write the best of each ranking."""
    for name in CHOOSE_ON:
        known = {
            (x.formula, x.scope, x.sparsity) for x in read(CHOICE, Judged) if x.network == name
        }
        missing: dict[str, list[tuple[str, str]]] = {}
        for scope in EVOLVED:
            for text in candidates(searches, scope):
                cells = [(scope, s) for s in CHOOSE_AT if (text, scope, s) not in known]
                if cells:
                    missing.setdefault(text, []).extend(cells)
        if not missing:
            continue
        task = load_task(name, cache_dir=cache_dir)
        for text, cells in missing.items():
            metric = Metric.load(text)
            scores = score(task, [metric], 0)[metric.name]
            for scope, sparsity in cells:
                model = prune_by(task, scores, scope, sparsity)
                nats = task.error(model, task.validation)
                append(CHOICE, Judged(name, text, scope, sparsity, nats))
        print(name, flush=True)
    for scope, name in EVOLVED.items():
        rows = [row for row in ranked(scope) if row[1] not in BASELINES]
        if rows:
            metric = replace(Metric.parse(rows[0][1], name=name), conventions=RANKINGS[scope])
            metric.save(FOLDER / f"{name}.json")


def ranked(scope: str) -> list[tuple[float, str, str]]:
    """Return mean difference from Wanda, formula, and on how many cells it is better, in order."""
    lines = [line for line in read(CHOICE, Judged) if line.scope == scope]
    wanda = {(x.network, x.sparsity): x.nats for x in lines if x.formula == "wanda_weight"}
    rows = []
    for formula in dict.fromkeys(x.formula for x in lines):
        gaps = [x.nats - wanda[x.network, x.sparsity] for x in lines if x.formula == formula]
        wins = sum(gap < 0 for gap in gaps)
        rows.append((statistics.fmean(gaps), formula, f"{wins} of {len(gaps)}"))
    return sorted(rows)


def rank_correlation(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Return Spearman's correlation of two scores within the rows, the mean over all weights.

    Args:
        first: layer -> scores (o, i, 1).
        second: the same of another formula.
    """
    total, count = 0.0, 0
    for name, values in first.items():
        one, other = (_centred_ranks(x.flatten(1)) for x in (values, second[name]))
        products = (one * other).sum(1) / (one.square().sum(1) * other.square().sum(1)).sqrt()
        total += float(products.sum()) * values.shape[1]
        count += values.numel()
    return total / count


def _centred_ranks(values: Tensor) -> Tensor:
    """Return the ranks within each row (o, i), their mean subtracted; ties in their order."""
    ranks: Tensor = values.argsort(dim=1, stable=True).argsort(dim=1).double()
    return ranks - ranks.mean(1, keepdim=True)


def likeness(searches: Sequence[Search], cache_dir: str | None) -> list[str]:
    """Return a line for each search: which formula of its front ranks most like Wanda."""
    task = load_task("llama-pydoc", cache_dir=cache_dir)
    published = score(task, [Metric.load(n) for n in FORMULAS if n != "random_weight"], 0)
    wanda = published["wanda_weight"]
    lines = []
    for found in searches:
        best: tuple[float, str, float] = (-1.0, "", 0.0)
        first = ""
        for text, error in found.formulas:
            metric = Metric.load(text)
            scores = score(task, [metric], 0)[metric.name]
            best = max(best, (rank_correlation(scores, wanda), text, error))
            if not first:
                rated = {n: rank_correlation(scores, s) for n, s in published.items()}
                nearest = max(rated, key=lambda n: rated[n])
                first = (
                    f"{found.error:.3f} | {rated['wanda_weight']:.3f} "
                    f"| `{nearest}` {rated[nearest]:.3f}"
                )
        lines.append(
            f"| {found.arm} | {found.seed} | {found.behaviours} | {found.wanda:.3f} | {first} "
            f"| `{best[1]}` | {best[0]:.3f} | {best[2]:.3f} |"
        )
    beside = ", ".join(
        f"`{name}` {rank_correlation(scores, wanda):.3f}" for name, scores in published.items()
    )
    return [*lines, "", f"Beside them, published formulas with Wanda: {beside}."]


def choice_table(searches: Sequence[Search], scope: str) -> str:
    """Return the candidates of a ranking in Markdown, the best first."""
    arms = {text: f"{s.arm} {s.seed}" for s in searches for text, _ in s.formulas}
    rows = [
        f"| `{formula}` | {arms.get(formula, '')} | {Metric.load(formula).expression.size} "
        f"| {gap:+.4f} | {wins} |"
        for gap, formula, wins in ranked(scope)
    ]
    head = (
        "| formula | search | nodes | difference | better than Wanda on |\n|---|---|---:|---:|---:|"
    )
    return "\n".join([head, *rows])


def table(searches: Sequence[Search], cache_dir: str | None) -> str:
    """Return all searches, and the choice, in Markdown."""
    rows = "\n".join(likeness(searches, cache_dir))
    by_row, by_layer = (choice_table(searches, scope) for scope in EVOLVED)
    networks = ", ".join(f"`{name}`" for name in CHOOSE_ON)
    return f"""# Searches on the weights of language models

`scratch` is the default search on `llama-pydoc` (500 prunings at 50 and 60 % sparsity, one ranking
of all layers) without any start formula. `plain` is the same without the setting `factors`, by
which half of the random trees, and a further mutation, are products or ratios of parts that read
different measurements. `joint_row` and `joint_global` search on `llama-pydoc` and `gpt-pydoc`
together (400 prunings, also without it) and start from the published formulas; the first ranks the
weights of each output alone, the second all layers together. Errors are on the validation split of
the search: 0 as the dense network, 1 as the best guess from the frequencies of
the bytes. "With Wanda" is the rank correlation (Spearman) with Wanda's scores within the rows of
all layers of `llama-pydoc`, the mean over the weights. "Nearest" is the published formula that the
formula with the least error ranks most like.

    python benchmarks/language/language_searches.py run --runs FOLDER --arm scratch
    python benchmarks/language/language_searches.py run --runs FOLDER --arm plain
    python benchmarks/language/language_searches.py run --runs FOLDER --arm joint_row
    python benchmarks/language/language_searches.py run --runs FOLDER --arm joint_global

| arm | seed | prunings | Wanda's error | least error | with Wanda | nearest | most like Wanda \
| with Wanda | error |
|---|---:|---:|---:|---:|---:|---|---|---:|---:|
{rows}

## Which formula was chosen

Formulas of the fronts with at most {MOST_NODES} nodes pruned networks that no search has seen
({networks}) at {" and ".join(CHOOSE_AT)}; the mean difference from Wanda of the cross-entropies on
validation sequences, in nats per byte, less than 0 where the formula is better. The first of each
table that is not published was chosen ([evolved_row.json](evolved_row.json),
[evolved_global.json](evolved_global.json)).

    python benchmarks/language/language_searches.py choose

### The weights of each output ranked alone

{by_row}

### All layers ranked together

{by_layer}
"""


def main() -> None:
    """Read the command line, search or choose, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("run", "choose", "table"))
    parser.add_argument("--runs", type=Path, help="folder of the searches")
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--cache-dir")
    given = parser.parse_args()
    torch.set_num_threads(1)
    searches = read(SEARCHES, Search)
    if given.stage == "run":
        there = {(found.arm, found.seed) for found in searches}
        for seed in given.seeds:
            if (given.arm, seed) not in there:
                append(SEARCHES, search(given.arm, seed, given.runs / f"{given.arm}-{seed}"))
                print(read(SEARCHES, Search)[-1], flush=True)
        return
    if given.stage == "choose":
        choose(searches, given.cache_dir)
    ordered = sorted(searches, key=lambda found: (found.arm, found.seed))
    write_text(FOLDER / "searches.md", table(ordered, given.cache_dir))


if __name__ == "__main__":
    main()
