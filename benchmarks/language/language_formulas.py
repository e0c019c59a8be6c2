"""Which formula prunes the weights of language models best, without training them again.

Every network is pruned by every formula at 50, 60 and 70 % sparsity and in the pattern 2:4, and its
cross-entropy is measured on sequences of the test split, which nothing has read. All formulas rank
the weights of each output alone, as most of the papers do, and then the weights of all layers
together, divided by the mean of their layer; embeddings and the last layer stay whole, and nothing
is trained afterwards. What a formula measures comes from 64 training sequences,
drawn by three seeds; a network counts once, by the mean over these.

The networks are those of one size on Python's help texts, and others: wider, deeper, and trained on
another text, the modules of Python's standard library. ``EVOLVED`` are formulas that searches found
(``language_searches.py``), one for each ranking, chosen before a network here was pruned by them.
They are compared on networks that were not there when the earlier tests were made.

Every pruned network is a line of the CSV file at once, and what stands there is not run again. The
table is written beside it.

    python benchmarks/language/language_formulas.py --out benchmarks/results/language.csv
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch
from committed import check_committed
from csv_lines import append, read
from scipy.stats import ttest_1samp
from torch import Tensor

from gp_prune._io import write_text
from gp_prune.judging import standings
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget, Pattern, mask, select_weights
from gp_prune.statistics import Batch, collect, prunable_layers
from gp_prune.tasks import Task, load_task

FOLDER = Path(__file__).resolve().parent
NETWORKS = tuple(f"{model}-pydoc@{seed}" for seed in range(1, 9) for model in ("llama", "gpt"))
"""Those of one size, on one text."""
FIRST = NETWORKS[:8]
"""Networks that were known when the order of the tests was fixed."""
LIBRARY = "library"
"""Stands for the text of the standard library in the name of a network."""
OTHERS = (
    *(f"{m}-pydoc@{seed}" for seed in (1, 2) for m in ("llama_wide", "llama_deep", "gpt_wide")),
    *(f"{m}-text@{seed}:{LIBRARY}" for seed in (1, 2) for m in ("llama", "gpt")),
)
"""Those of another width or depth, and on another text."""
FORMULAS = (
    "random_weight", "magnitude", "wanda_weight", "ria_weight", "pruner_zero_weight",
    "sparsegpt_weight", "snip_weight", "taylor_weight", "obd_weight",
)  # fmt: skip
SCOPES = ("row", "global")
SPARSITIES = ("50%", "60%", "70%", "2:4")
PAIRS = (
    ("magnitude", "random_weight"), ("wanda_weight", "magnitude"), ("ria_weight", "wanda_weight"),
    ("pruner_zero_weight", "wanda_weight"), ("sparsegpt_weight", "wanda_weight"),
)  # fmt: skip
"""A formula, and the one that it is compared with."""
ORDER = PAIRS[:2]
"""What is claimed: magnitude is better than random, and Wanda than magnitude. At each sparsity of
``SPARSITIES`` in turn the first claim and then the second is tested at ``LEVEL``, until one fails;
so that each is tested at the full level (fixed-sequence procedure, Maurer et al. 1995)."""
LEVEL = 0.01
FIRST_SEARCH = "weight_7dbe816d"
"""The formula of an earlier search (``first_search.json``), measured on ``NETWORKS`` alone."""
EVOLVED = {scope: f"evolved_{scope}" for scope in SCOPES}
"""Ranking -> name of the formula that ``language_searches.py choose`` has chosen for it."""
RIVALS = ("wanda_weight", "pruner_zero_weight", "obd_weight")
"""What evolved formulas are compared with."""
RIVALS_AT = ("50%", "60%")
"""Where the evolved formula is claimed to be better; these tests are corrected together."""
CALIBRATIONS = (0, 1, 2)
SEQUENCES = 64
JUDGED = 160


@dataclass(frozen=True)
class Line:
    """One pruned network.

    Attributes:
        network: name of the task.
        formula: name of what ranked the weights; ``"dense"`` for the whole network.
        scope: what was ranked together, one of :data:`SCOPES`.
        calibration: seed of the calibration sequences.
        sparsity: share of the weights removed, or the pattern.
        nats: cross-entropy per byte on the test sequences.
    """

    network: str
    formula: str
    scope: str
    calibration: int
    sparsity: str
    nats: float


def load_network(name: str, cache_dir: str | None) -> Task:
    """Return a network of ``NETWORKS`` or ``OTHERS``."""
    if not name.endswith(f":{LIBRARY}"):
        return load_task(name, cache_dir=cache_dir)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{LIBRARY}.txt"
        file.write_bytes(read_library())
        return load_task(name.replace(LIBRARY, str(file)), cache_dir=cache_dir)


def read_library() -> bytes:
    """Return the modules of Python's standard library, packages left out, in order of names."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return b"\n\n".join(file.read_bytes() for file in files)


def error(task: Task, model: torch.nn.Module) -> float:
    """Return the cross-entropy of a network on the first test sequences, whose order is random."""
    return task.error(model, task.test().select(slice(JUDGED)))


def score(task: Task, metrics: Sequence[Metric], seed: int) -> dict[str, dict[str, Tensor]]:
    """Return name of a metric -> layer -> scores (o, i, 1), measured on sequences drawn by seed."""
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))
    chosen = task.train.select(order[:SEQUENCES])
    batches = [Batch(b.inputs, b.target) for b in task.batches(chosen, 16)]
    layers = [name for name in prunable_layers(task.model) if name not in task.whole]
    expressions = [metric.expression for metric in metrics]
    records = collect(
        task.model, layers, batches, expressions=expressions, loss=task.loss, seed=seed
    )
    return {
        metric.name: {name: metric.scores(record) for name, record in records.items()}
        for metric in metrics
    }


def prune_by(
    task: Task, scores: Mapping[str, Tensor], scope: str, sparsity: str
) -> torch.nn.Module:
    """Return a masked copy of the network of a task."""
    conventions = Conventions(scope, "none" if scope == "row" else "mean")
    dense = {name: values.numpy() for name, values in scores.items()}
    if ":" in sparsity:
        pattern = Pattern.parse(sparsity)
        plan = select_weights(task.model, [*scores], dense, conventions, pattern=pattern)
    else:
        budget = Budget("params", 1 - float(sparsity.rstrip("%")) / 100)
        plan = select_weights(task.model, [*scores], dense, conventions, budget)
    model = copy.deepcopy(task.model)
    mask(model, plan)
    return model


def run(name: str, metrics: Sequence[Metric], out: Path, cache_dir: str | None) -> None:
    """Prune one network in all ways that are not yet in the file."""
    known = {(x.network, x.formula, x.scope, x.calibration, x.sparsity) for x in read(out, Line)}
    later = name not in FIRST
    # A pattern says itself what is ranked together.
    shares = [sparsity for sparsity in SPARSITIES if ":" not in sparsity] if later else []
    ways = [*(("row", s) for s in SPARSITIES), *(("global", s) for s in shares)]
    missing = [
        (metric, seed, scope, sparsity)
        for seed in CALIBRATIONS
        for metric in metrics
        for scope, sparsity in ways
        if (name, metric.name, scope, seed, sparsity) not in known
        and (seed == CALIBRATIONS[0] or metric.name != "magnitude")
        and (metric.name not in EVOLVED.values() or (later and metric.name == EVOLVED[scope]))
    ]
    if not missing:
        return
    task = load_network(name, cache_dir)
    if (name, "dense", "row", 0, "0%") not in known:
        append(out, Line(name, "dense", "row", 0, "0%", error(task, task.model)))
    for seed in CALIBRATIONS:
        wanted = {m.name: m for m, calibration, _, _ in missing if calibration == seed}
        scores = score(task, [*wanted.values()], seed) if wanted else {}
        for metric, calibration, scope, sparsity in missing:
            if calibration == seed:
                model = prune_by(task, scores[metric.name], scope, sparsity)
                append(out, Line(name, metric.name, scope, seed, sparsity, error(task, model)))


def by_network(
    lines: Sequence[Line], formula: str, sparsity: str, scope: str = "row"
) -> dict[str, float]:
    """Return network -> mean cross-entropy over the calibration seeds."""
    groups: dict[str, list[float]] = {}
    for line in lines:
        if (line.formula, line.sparsity, line.scope) == (formula, sparsity, scope):
            groups.setdefault(line.network, []).append(line.nats)
    return {name: statistics.fmean(values) for name, values in groups.items()}


@dataclass(frozen=True)
class PairedTest:
    """A paired comparison over networks: two-sided t-test of the differences of cross-entropies.

    Attributes:
        better: the formula that is compared.
        worse: the one that it is compared with.
        scope: what both ranked together.
        sparsity: what both removed.
        difference: mean difference of the cross-entropies, in nats per byte.
        wins: networks on which the first formula has the lower one.
        networks: number of networks.
        p: of this test alone.
        corrected: by Holm's method for all tests.
    """

    better: str
    worse: str
    scope: str
    sparsity: str
    difference: float
    wins: int
    networks: int
    p: float
    corrected: float = math.nan


def compare(
    lines: Sequence[Line], pairs: Sequence[tuple[str, str]], at: Sequence[str] = SPARSITIES,
    scope: str = "row", other: str = "",
) -> list[PairedTest]:  # fmt: skip
    """Return the comparisons, the p-values corrected by Holm's method over all of them.

    Args:
        lines: the pruned networks.
        pairs: formulas, each with the one that it is compared with.
        at: sparsities.
        scope: what the first formula ranks together.
        other: what the second one ranks together; as the first by default.
    """
    raw = []
    for better, worse in pairs:
        for sparsity in at:
            first = by_network(lines, better, sparsity, scope)
            second = by_network(lines, worse, sparsity, other or scope)
            gaps = [first[name] - second[name] for name in sorted(first.keys() & second.keys())]
            if len(gaps) > 1:
                p = float(ttest_1samp(gaps, 0).pvalue)
                mean, wins = statistics.fmean(gaps), sum(gap < 0 for gap in gaps)
                raw.append(PairedTest(better, worse, scope, sparsity, mean, wins, len(gaps), p))
    return holm(raw)


def claims(lines: Sequence[Line]) -> str:
    """Return the tests of ``ORDER`` in Markdown, over all networks and over the later ones."""
    later = [line for line in lines if line.network not in FIRST]
    rows, holds = [], True
    for sparsity in SPARSITIES:
        for pair in ORDER:
            found = compare(lines, [pair], [sparsity])
            if not found:
                continue
            (test,) = found
            alone = compare(later, [pair], [sparsity])
            holds = holds and test.p < LEVEL and test.difference < 0
            rows.append(
                f"| `{test.better}` | `{test.worse}` | {sparsity} | {test.difference:+.3f} "
                f"| {test.wins} of {test.networks} | {test.p:.2g} | {'yes' if holds else 'no'} "
                f"| {f'{alone[0].p:.2g}' if alone else ''} |"
            )
    return chr(10).join(rows)


def holm(tests: Sequence[PairedTest]) -> list[PairedTest]:
    """Correct p-values for their number (Holm 1979), and keep the order."""
    values = standings.holm([test.p for test in tests])
    return [replace(test, corrected=p) for test, p in zip(tests, values, strict=True)]


def family_of(network: str) -> str:
    """Return what networks are averaged over: the model and the text."""
    return network.partition("@")[0]


def rows_at(lines: Sequence[Line], sparsity: str, scope: str, families: Sequence[str]) -> list[str]:
    """Return a row for each formula: the perplexity for each family."""
    rows = []
    for formula in dict.fromkeys(x.formula for x in lines if x.scope == scope):
        values = by_network(lines, formula, sparsity, scope)
        cells = []
        for family in families:
            nats = [v for name, v in values.items() if family_of(name) == family]
            cells.append(f"{math.exp(statistics.fmean(nats)):.2f}" if nats else "")
        if any(cells):
            rows.append(f"| `{formula}` | {' | '.join(cells)} |")
    return rows


def perplexities(lines: Sequence[Line], scope: str) -> str:
    """Return a table for each sparsity in Markdown: formulas by families."""
    lines = [line for line in lines if line.scope == scope or line.formula == "dense"]
    ranked = {line.network for line in lines if line.scope == scope and line.formula != "dense"}
    lines = [line for line in lines if line.network in ranked]
    families = list(dict.fromkeys(family_of(line.network) for line in lines))
    dense = {
        family: [x.nats for x in lines if x.formula == "dense" and family_of(x.network) == family]
        for family in families
    }
    head = [f"`{family}` ({len(dense[family])})" for family in families]
    first = [f"{math.exp(statistics.fmean(dense[family])):.2f}" for family in families]
    parts = []
    for sparsity in SPARSITIES:
        rows = rows_at(lines, sparsity, scope, families)
        if rows:
            parts += [
                f"#### {sparsity}",
                "",
                f"| formula | {' | '.join(head)} |",
                f"| --- |{' ---: |' * len(families)}",
                f"| dense | {' | '.join(first)} |",
                *rows,
                "",
            ]
    return "\n".join(parts)


def test_table(tests: Sequence[PairedTest]) -> str:
    """Return paired tests in Markdown."""
    rows = [
        f"| `{t.better}` | `{t.worse}` | {t.scope} | {t.sparsity} | {t.difference:+.3f} "
        f"| {t.wins} of {t.networks} | {t.p:.2g} | {t.corrected:.2g} |"
        for t in tests
    ]
    return "\n".join([_TEST_HEAD, *rows])


def evolved_tests(lines: Sequence[Line]) -> list[PairedTest]:
    """Return the tests of the evolved formulas, each in its ranking, corrected together."""
    return holm(
        [
            test
            for scope, name in EVOLVED.items()
            for test in compare(lines, [(name, rival) for rival in RIVALS], RIVALS_AT, scope)
        ]
    )


def table(lines: Sequence[Line]) -> str:
    """Return the results in Markdown."""
    others = [line for line in lines if line.network in OTHERS]
    same = [line for line in lines if line.network in NETWORKS]
    first = [(FIRST_SEARCH, rival) for rival in RIVALS[:2]]
    published = [(EVOLVED["global"], rival) for rival in RIVALS]
    return f"""# Formulas for the weights of language models

Perplexity per byte on {JUDGED} test sequences, geometric mean over the networks of a family (their
number in brackets), after pruning without training. `pydoc` is Python's help, `text` are the
modules of its standard library; `wide` has 2 blocks of width 96, `deep` 4 of width 64, the others 3
of width 64. A formula that measures something is measured on {SEQUENCES} training sequences, drawn
by {len(CALIBRATIONS)} seeds. `evolved_row` and `evolved_global` were chosen on validation sequences
of other networks, each for its ranking ([searches.md](../language/searches.md)).

    python benchmarks/language/language_formulas.py

## Tests

Paired t-tests over the networks (a network counts once, by its mean over the calibration seeds);
the difference of the cross-entropies in nats per byte, less than 0 where the first formula is
better; p two-sided.

### Evolved formulas

On networks that neither their searches nor their choice has seen; p corrected by Holm's method for
the lines of the table.

{test_table(evolved_tests(lines))}

On the networks of another width, depth or text alone:

{test_table(evolved_tests(others))}

`evolved_global`, for all layers together, against its rivals ranked by rows, as they are published.
This table was added after the figures above were known.

{test_table(compare(lines, published, RIVALS_AT, "global", "row"))}

### Magnitude and Wanda, networks of one size, ranked by rows

Magnitude is better than random, and Wanda better than magnitude: the tests are made in this order,
each at {LEVEL:g}, until one fails (fixed-sequence procedure), so that none needs a correction. The
first {len(FIRST)} networks were known when the order was fixed; the last column has the p of the
other networks alone.

| formula | against | sparsity | difference | better on | p | shown | p, later networks |
| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |
{claims(same)}

### All others, ranked by rows

Each corrected by Holm's method for the lines of its table. Networks of one size
(`{FIRST_SEARCH}` is the formula of an earlier search):

{test_table(compare(same, [*PAIRS[len(ORDER) :], *first]))}

Networks of another width, depth or text:

{test_table(compare(others, PAIRS))}

## Perplexities

### The weights of each output ranked alone

{perplexities(lines, "row")}
### All layers ranked together

Scores are divided by the mean of their layer.

{perplexities(lines, "global")}"""


_TEST_HEAD = """| formula | against | ranked | sparsity | difference | better on | p | p, Holm |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/language.csv"))
    parser.add_argument("--networks", nargs="*", default=[*NETWORKS, *OTHERS])
    parser.add_argument("--cache-dir")
    parser.add_argument("--table", action="store_true", help="write the table alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.table:
        files = [FOLDER / f"{name}.json" for name in EVOLVED.values()]
        check_committed([*files, Path(__file__).resolve()])
        metrics = [*map(Metric.load, FORMULAS), *map(Metric.load, files)]
        for name in given.networks:
            run(name, metrics, given.out, given.cache_dir)
            print(name, flush=True)
    write_text(given.out.with_suffix(".md"), table(read(given.out, Line)))


if __name__ == "__main__":
    main()
