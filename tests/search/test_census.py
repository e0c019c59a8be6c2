"""The census counts formulas, not occurrences, and the journal tells who was bred from whom."""

from __future__ import annotations

from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.search.census import COMMON, take_census


def test_a_formula_counts_once_however_often_it_has_something() -> None:
    texts = ("mul(sum[i,k](abs(W)), sum[i,k](abs(W)))", "sum[i,k](abs(W))", "mul(2, WG2)")
    census = take_census(parse(text, builtin_primitives()) for text in texts)
    assert census == {
        "formulas": 3,
        "operands": {"W": 2, "WG2": 1},
        "operators": {"abs": 2, "mul": 2, "sum": 2},
        "subtrees": 5 + 2 + 1,
        "distinct": 4,
        "common": [["sum[i,k](abs(W))", 2], ["abs(W)", 2]],
    }


def test_few_subtrees_are_listed() -> None:
    text = "W"
    for _ in range(COMMON + 3):
        text = f"abs(neg({text}))"
    formula = parse(f"sum[i,k]({text})", builtin_primitives())
    census = take_census([formula, formula])
    assert len(census["common"]) == COMMON
    assert census["common"][0] == [str(formula), 2]


def test_an_empty_population_has_a_census() -> None:
    assert take_census([])["formulas"] == 0
