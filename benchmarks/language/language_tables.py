"""Tests and tables of what :mod:`language_formulas` has measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from language_networks import (
    CALIBRATIONS,
    EVOLVED,
    FIRST,
    FIRST_SEARCH,
    JUDGED,
    LEVEL,
    NETWORKS,
    ORDER,
    OTHERS,
    PAIRS,
    RIVALS,
    RIVALS_AT,
    SEQUENCES,
    SPARSITIES,
    Line,
)  # fmt: skip
from scipy.stats import ttest_1samp

from gp_prune.judging import standings

_TEST_HEAD = """| formula | against | ranked | sparsity | difference | better on | p | p, Holm |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"""


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
        scope: what the first one ranked together.
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
