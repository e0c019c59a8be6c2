"""Which formula prunes the weights of language models best, without training them again.

Every network is pruned by every formula at 50, 60 and 70 % sparsity and in the pattern 2:4, and its
cross-entropy is measured on sequences of the test split, which nothing has read. All formulas rank
the weights of each output alone, as most of the papers do; embeddings and the last layer stay
whole, and nothing is trained afterwards. What a formula measures comes from 64 training sequences,
drawn by three seeds; a network counts once, by the mean over these.

The networks are those of one size on Python's help texts, and others: wider, deeper, and trained on
another text, the modules of Python's standard library. ``EVOLVED`` are formulas that searches found
(``language_searches.py``) and that were chosen before a network of this table was pruned by them.

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
    *(f"{m}-pydoc@{seed}" for seed in (1, 2, 3) for m in ("llama_wide", "llama_deep", "gpt_wide")),
    *(f"{m}-text@{seed}:{LIBRARY}" for seed in (1, 2, 3) for m in ("llama", "gpt")),
)
"""Those of another width or depth, and on another text."""
FORMULAS = (
    "random_weight", "magnitude", "wanda_weight", "ria_weight", "pruner_zero_weight",
    "sparsegpt_weight", "snip_weight", "taylor_weight", "obd_weight",
)  # fmt: skip
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
EVOLVED = FOLDER / "evolved.json"
"""The formula that ``language_searches.py choose`` has chosen."""
RIVALS = ("wanda_weight", "pruner_zero_weight")
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
        formula: name or text of what ranked the weights; ``"dense"`` for the whole network.
        calibration: seed of the calibration sequences.
        sparsity: share of the weights removed, or the pattern.
        nats: cross-entropy per byte on the test sequences.
    """

    network: str
    formula: str
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
    task: Task, scores: Mapping[str, Tensor], metric: Metric, sparsity: str
) -> torch.nn.Module:
    """Return a masked copy of the network of a task."""
    conventions = replace(metric.conventions, scope="row", normaliser="none")
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
    known = {(x.network, x.formula, x.calibration, x.sparsity) for x in read(out, Line)}
    cells = [(m, c, s) for c in CALIBRATIONS for m in metrics for s in SPARSITIES]
    missing = [
        (m, c, s)
        for m, c, s in cells
        if (name, m.name, c, s) not in known and (c == CALIBRATIONS[0] or m.name != "magnitude")
    ]
    if not missing:
        return
    task = load_network(name, cache_dir)
    if (name, "dense", 0, "0%") not in known:
        append(out, Line(name, "dense", 0, "0%", error(task, task.model)))
    for seed in CALIBRATIONS:
        wanted = [m for m in metrics if any(m is n and seed == c for n, c, _ in missing)]
        scores = score(task, wanted, seed) if wanted else {}
        for metric, calibration, sparsity in missing:
            if calibration == seed:
                model = prune_by(task, scores[metric.name], metric, sparsity)
                append(out, Line(name, metric.name, seed, sparsity, error(task, model)))


def by_network(lines: Sequence[Line], formula: str, sparsity: str) -> dict[str, float]:
    """Return network -> mean cross-entropy over the calibration seeds."""
    groups: dict[str, list[float]] = {}
    for line in lines:
        if (line.formula, line.sparsity) == (formula, sparsity):
            groups.setdefault(line.network, []).append(line.nats)
    return {name: statistics.fmean(values) for name, values in groups.items()}


@dataclass(frozen=True)
class PairedTest:
    """A paired comparison over networks: two-sided t-test of the differences of cross-entropies.

    Attributes:
        better: the formula that is compared.
        worse: the one that it is compared with.
        sparsity: what both removed.
        difference: mean difference of the cross-entropies, in nats per byte.
        wins: networks on which the first formula has the lower one.
        networks: number of networks.
        p: of this test alone.
        corrected: by Holm's method for all tests.
    """

    better: str
    worse: str
    sparsity: str
    difference: float
    wins: int
    networks: int
    p: float
    corrected: float = math.nan


def compare(
    lines: Sequence[Line], pairs: Sequence[tuple[str, str]], at: Sequence[str] = SPARSITIES
) -> list[PairedTest]:
    """Return the comparisons, the p-values corrected by Holm's method over all of them."""
    raw = []
    for better, worse in pairs:
        for sparsity in at:
            first, second = (by_network(lines, name, sparsity) for name in (better, worse))
            gaps = [first[name] - second[name] for name in sorted(first.keys() & second.keys())]
            if len(gaps) > 1:
                p = float(ttest_1samp(gaps, 0).pvalue)
                mean, wins = statistics.fmean(gaps), sum(gap < 0 for gap in gaps)
                raw.append(PairedTest(better, worse, sparsity, mean, wins, len(gaps), p))
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


def rows_at(lines: Sequence[Line], sparsity: str, families: Sequence[str]) -> list[str]:
    """Return a row for each formula: the perplexity for each family."""
    rows = []
    for formula in dict.fromkeys(line.formula for line in lines if line.formula != "dense"):
        values = by_network(lines, formula, sparsity)
        cells = []
        for family in families:
            nats = [v for name, v in values.items() if family_of(name) == family]
            cells.append(f"{math.exp(statistics.fmean(nats)):.2f}" if nats else "")
        rows.append(f"| `{formula}` | {' | '.join(cells)} |")
    return rows


def perplexities(lines: Sequence[Line]) -> str:
    """Return a table for each sparsity in Markdown: formulas by families."""
    families = list(dict.fromkeys(family_of(line.network) for line in lines))
    dense = {
        family: [x.nats for x in lines if x.formula == "dense" and family_of(x.network) == family]
        for family in families
    }
    head = [f"`{family}` ({len(dense[family])})" for family in families]
    first = [f"{math.exp(statistics.fmean(dense[family])):.2f}" for family in families]
    parts = []
    for sparsity in SPARSITIES:
        parts += [
            f"### {sparsity}",
            "",
            f"| formula | {' | '.join(head)} |",
            f"| --- |{' ---: |' * len(families)}",
            f"| dense | {' | '.join(first)} |",
            *rows_at(lines, sparsity, families),
            "",
        ]
    return "\n".join(parts)


def test_rows(lines: Sequence[Line], pairs: Sequence[tuple[str, str]], at: Sequence[str]) -> str:
    """Return the paired tests in Markdown, corrected together."""
    return "\n".join(
        f"| `{t.better}` | `{t.worse}` | {t.sparsity} | {t.difference:+.3f} "
        f"| {t.wins} of {t.networks} | {t.p:.2g} | {t.corrected:.2g} |"
        for t in compare(lines, pairs, at)
    )


def table(lines: Sequence[Line]) -> str:
    """Return the results in Markdown."""
    others = [line for line in lines if line.network in OTHERS]
    same = [line for line in lines if line.network in NETWORKS]
    known = {line.formula for line in lines}
    evolved = [name for name in known if name not in {*FORMULAS, "dense", FIRST_SEARCH}]
    claimed = [(name, rival) for name in sorted(evolved) for rival in RIVALS]
    first = [(FIRST_SEARCH, rival) for rival in RIVALS if FIRST_SEARCH in known]
    return f"""# Formulas for the weights of language models

Perplexity per byte on {JUDGED} test sequences, geometric mean over the networks of a family (their
number in brackets), after pruning without training; each formula ranks the weights of each output
alone. `pydoc` is Python's help, `text` are the modules of its standard library; `wide` has 2 blocks
of width 96, `deep` 4 of width 64, the others 3 of width 64. A formula that measures something is
measured on {SEQUENCES} training sequences, drawn by {len(CALIBRATIONS)} seeds.

    python benchmarks/language/language_formulas.py --out benchmarks/results/language.csv

{perplexities(lines)}
## Tests

Paired t-tests over the networks (a network counts once, by its mean over the calibration seeds);
the difference of the cross-entropies in nats per byte, less than 0 where the first formula is
better; p two-sided.

### The evolved formula

It was chosen on validation sequences of other networks ([searches.md](../language/searches.md)).
Against its rivals on all networks; p corrected by Holm's method for the lines of this table.

{_TEST_HEAD}
{test_rows(lines, claimed, RIVALS_AT)}

On the networks of another width, depth or text alone:

{_TEST_HEAD}
{test_rows(others, claimed, RIVALS_AT)}

### Magnitude and Wanda, networks of one size

Magnitude is better than random, and Wanda better than magnitude: the tests are made in this order,
each at {LEVEL:g}, until one fails (fixed-sequence procedure), so that none needs a correction. The
first {len(FIRST)} networks were known when the order was fixed; the last column has the p of the
other networks alone.

| formula | against | sparsity | difference | better on | p | shown | p, later networks |
| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |
{claims(same)}

### All others

Each corrected by Holm's method for the lines of its table. Networks of one size:

{_TEST_HEAD}
{test_rows(same, [*PAIRS[len(ORDER) :], *first], SPARSITIES)}

Networks of another width, depth or text:

{_TEST_HEAD}
{test_rows(others, PAIRS, SPARSITIES)}
"""


_TEST_HEAD = """| formula | against | sparsity | difference | better on | p | p, Holm |
| --- | --- | ---: | ---: | ---: | ---: | ---: |"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/language.csv"))
    parser.add_argument("--networks", nargs="*", default=[*NETWORKS, *OTHERS])
    parser.add_argument("--cache-dir")
    parser.add_argument("--table", action="store_true", help="write the table alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.table:
        check_committed([EVOLVED])
        metrics = [*map(Metric.load, FORMULAS), Metric.load(EVOLVED)]
        for name in given.networks:
            run(name, metrics, given.out, given.cache_dir)
            print(name, flush=True)
    write_text(given.out.with_suffix(".md"), table(read(given.out, Line)))


if __name__ == "__main__":
    main()
