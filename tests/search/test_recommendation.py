"""The smallest formula is recommended that is as good as the best and loses nowhere to chance."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.search.archive import Candidate
from gp_prune.search.comparison import KINDS, Comparison, Record
from gp_prune.search.config import SearchConfig
from gp_prune.search.contenders import Contender
from gp_prune.search.objectives import ERRORS, NOISE
from gp_prune.search.recommendation import excess, finalists, lost_to_random, recommend

CONFIG = SearchConfig(tasks=("lenet-digits",), validate_on=())
FORMULAS = {
    "short": "abs(b)",
    "middle": "abs(abs(b))",
    "long": "add(abs(b), abs(gamma))",
    "longer": "add(abs(b), abs(abs(gamma)))",
}
TASKS = ("task 0", "task 1")
Case = tuple[str, str, str]
"""A task, what is equal, and an error."""
CASES: list[Case] = [*itertools.product(TASKS, KINDS, ERRORS)]
Table = Mapping[str, Mapping[Case, float]]


def contender(name: str) -> Contender:
    expression = parse(FORMULAS[name], builtin_primitives())
    candidate = Candidate(expression, (0.5, 0.5, 0.5), name)
    return Contender(name, expression, CONFIG.conventions, candidate)


ENTERED = [contender(name) for name in FORMULAS]


def compared(errors: Mapping[str, Sequence[float]], error: str = "error") -> Comparison:
    """Return a comparison with one error of each formula on each of several tasks."""
    return tabled(
        {
            name: {(f"task {n}", "macs", error): value for n, value in enumerate(values)}
            for name, values in errors.items()
        }
    )


def tabled(table: Table) -> Comparison:
    """Return a comparison with these validation errors; those on the test split are useless."""
    noise = random.Random(0)
    records = [
        Record(name, task, kind, kind, 0.5, error, 0.5, 0.5, 0, value, noise.random(), 0.0)
        for name, cases in table.items()
        for (task, kind, error), value in cases.items()
    ]
    return Comparison(records, CONFIG)


def joined(*parts: Comparison) -> Comparison:
    return Comparison([record for part in parts for record in part.records], CONFIG)


# Coarse, so that rounding decides nothing but for sums in another order.
ERROR = st.integers(0, 15).map(lambda tenths: tenths / 10)
ROUNDING = 1e-9
TABLES = st.fixed_dictionaries(
    {name: st.fixed_dictionaries(dict.fromkeys(CASES, ERROR)) for name in (*FORMULAS, "random")}
)


def losses(table: Table, name: str, errors: Sequence[str]) -> int:
    """Count, without the code, the cases in which a formula is not below random scores."""
    return sum(table[name][case] >= table["random"][case] for case in CASES if case[2] in errors)


def mean_log(table: Table, name: str, errors: Sequence[str]) -> float:
    values = [math.log(table[name][case] + NOISE) for case in CASES if case[2] in errors]
    return statistics.fmean(values)


@pytest.mark.parametrize(
    ("short", "chosen"),
    [
        ((0.11, 0.21, 0.31), "long"),  # a little worse everywhere
        ((0.30, 0.10, 0.35), "short"),  # worse here and better there
        ((0.10, 0.20, 0.30), "short"),
    ],
)
def test_the_smaller_formula_must_be_as_good(short: Sequence[float], chosen: str) -> None:
    comparison = compared({"long": (0.1, 0.2, 0.3), "short": short, "random": (0.9, 0.9, 0.9)})
    entered = [contender("long"), contender("short")]
    config = replace(CONFIG, finalists=0)
    assert recommend(config, entered, comparison, comparison).name == chosen
    gaps = [
        math.log((a + NOISE) / (b + NOISE)) for a, b in zip(short, (0.1, 0.2, 0.3), strict=True)
    ]
    mean, error = excess("short", "long", comparison)
    assert mean == pytest.approx(statistics.fmean(gaps))
    assert error == pytest.approx(statistics.stdev(gaps) / math.sqrt(3))


def test_a_formula_that_loses_to_random_scores_on_a_task_is_not_recommended() -> None:
    own = compared({"long": (0.2, 0.2), "short": (0.1, 0.4), "random": (0.3, 0.3)})
    others = compared({"long": (0.5,), "short": (0.1,), "random": (0.8,)})
    entered = [contender("long"), contender("short")]
    config = replace(CONFIG, finalists=0)
    assert lost_to_random(config, "short", own, others) == 1
    assert recommend(config, entered, own, others).name == "long"
    equally = compared({"long": (0.2, 0.4), "short": (0.1, 0.4), "random": (0.3, 0.3)})
    assert recommend(config, entered, equally, others).name == "short"
    nothing = Comparison([], CONFIG)
    assert lost_to_random(config, "long", nothing, nothing) == 0


def test_a_formula_that_loses_to_random_scores_after_fine_tuning_is_not_recommended() -> None:
    pruned = compared({"long": (0.2, 0.2), "short": (0.1, 0.1), "random": (0.3, 0.3)})
    tuned = compared(
        {"long": (0.02, 0.02), "short": (0.01, 0.04), "random": (0.03, 0.03)}, "tuned_error"
    )
    entered = [contender("long"), contender("short")]
    both = joined(pruned, tuned)
    assert recommend(CONFIG, entered, both, both).name == "long"
    assert recommend(replace(CONFIG, finalists=0), entered, both, both).name == "short"
    assert recommend(replace(CONFIG, final_steps=0), entered, both, both).name == "short"
    assert recommend(replace(CONFIG, finalists=1), entered, both, both).name == "short"


def test_a_formula_must_be_better_than_random_scores_by_more_than_their_noise() -> None:
    """The standard error of draws of 0.2, 0.3 and 0.4 is 0.1 / sqrt(3) = 0.058."""
    draws = [0.2, 0.3, 0.4]
    for error, lost in ((0.24, 0), (0.25, 1)):
        records = compared({"short": (error,)}).records
        for repeat, draw in enumerate(draws):
            (record,) = compared({"random": (draw,)}).records
            records.append(replace(record, repeat=repeat))
        comparison = Comparison(records, CONFIG)
        assert lost_to_random(CONFIG, "short", comparison, comparison) == lost
        noise = comparison.typical("random", kind="macs", task="task 0", error="error")
        assert noise == pytest.approx((0.3, statistics.stdev(draws) / math.sqrt(3)))


def test_on_one_task_the_mean_over_the_budgets_is_compared() -> None:
    records = [
        replace(record, keep=keep)
        for keep, own, other in ((0.5, 0.05, 0.01), (0.15, 0.5, 0.8))
        for record in compared({"short": (own,), "random": (other,)}).records
    ]
    comparison = Comparison(records, CONFIG)
    assert lost_to_random(CONFIG, "short", comparison, comparison) == 0
    assert comparison.mean("short", "validation") > comparison.mean("random", "validation")


@given(table=TABLES, count=st.integers(1, 4))
def test_finalists_are_the_best_right_after_pruning(table: Table, count: int) -> None:
    comparison = tabled(table)
    config = replace(CONFIG, finalists=count)
    chosen = finalists(config, ENTERED, comparison, comparison)
    assert len(chosen) == count
    ranks = {
        name: (losses(table, name, ["error"]), mean_log(table, name, ["error"]))
        for name in FORMULAS
    }
    others = set(FORMULAS) - {c.name for c in chosen}
    for better, worse in itertools.product([c.name for c in chosen], others):
        assert ranks[better][0] <= ranks[worse][0]
        assert ranks[better][0] < ranks[worse][0] or (
            ranks[better][1] <= ranks[worse][1] + ROUNDING
        )
    assert finalists(replace(CONFIG, finalists=0), ENTERED, comparison, comparison) == ENTERED


@given(table=TABLES, count=st.integers(0, 4), seed=st.integers(0, 5))
def test_the_recommended_formula_loses_least_and_no_smaller_one_is_as_good(
    table: Table, count: int, seed: int
) -> None:
    comparison = tabled(table)
    config = replace(CONFIG, finalists=count)
    best = recommend(config, ENTERED, comparison, comparison)
    last = finalists(config, ENTERED, comparison, comparison)
    assert best in last
    errors = ERRORS if count else ERRORS[:1]
    lost = {c.name: losses(table, c.name, errors) for c in last}
    assert lost[best.name] == min(lost.values())
    able = [c for c in last if lost[c.name] == min(lost.values())]
    least = min(able, key=lambda c: mean_log(table, c.name, errors))
    assert best.expression.size <= least.expression.size
    if best.expression.size == least.expression.size:
        assert mean_log(table, best.name, errors) <= mean_log(table, least.name, errors) + ROUNDING
    mixed = random.Random(seed).sample(ENTERED, len(ENTERED))
    useless = [replace(record, test=1 - record.test) for record in comparison.records]
    again = Comparison(useless, CONFIG)
    assert recommend(config, mixed, again, again) == best
