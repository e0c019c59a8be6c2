"""The smallest formula is recommended that is as good as the best and loses nowhere to chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import pytest

from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.search.archive import Candidate
from gp_prune.search.comparison import Comparison, Contender, Record
from gp_prune.search.config import SearchConfig
from gp_prune.search.objectives import NOISE
from gp_prune.search.recommendation import lost_to_random, recommend

CONFIG = SearchConfig(tasks=("lenet-digits",), validate_on=())
FORMULAS = {"short": "abs(b)", "long": "add(abs(b), abs(gamma))"}


def contender(name: str) -> Contender:
    expression = parse(FORMULAS[name], builtin_primitives())
    candidate = Candidate(expression, (0.5, 0.5, 0.5), name)
    return Contender(name, expression, CONFIG.conventions, candidate)


def compared(errors: dict[str, Sequence[float]]) -> Comparison:
    records = [
        Record(name, f"task {n}", "macs", "macs", 0.5, "error", 0.5, 0.5, 0, error, error, error)
        for name, values in errors.items()
        for n, error in enumerate(values)
    ]
    return Comparison(records, CONFIG)


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
    assert recommend(CONFIG, entered, comparison, comparison).name == chosen
    gaps = [
        math.log((a + NOISE) / (b + NOISE)) for a, b in zip(short, (0.1, 0.2, 0.3), strict=True)
    ]
    mean, error = comparison.excess("short", "long")
    assert mean == pytest.approx(statistics.fmean(gaps))
    assert error == pytest.approx(statistics.stdev(gaps) / math.sqrt(3))


def test_a_formula_that_loses_to_random_scores_on_a_task_is_not_recommended() -> None:
    own = compared({"long": (0.2, 0.2), "short": (0.1, 0.4), "random": (0.3, 0.3)})
    others = compared({"long": (0.5,), "short": (0.1,), "random": (0.8,)})
    entered = [contender("long"), contender("short")]
    assert lost_to_random(CONFIG, "short", own, others) == 1
    assert recommend(CONFIG, entered, own, others).name == "long"
    equally = compared({"long": (0.2, 0.4), "short": (0.1, 0.4), "random": (0.3, 0.3)})
    assert recommend(CONFIG, entered, equally, others).name == "short"
    nothing = Comparison([], CONFIG)
    assert lost_to_random(CONFIG, "long", nothing, nothing) == 0
