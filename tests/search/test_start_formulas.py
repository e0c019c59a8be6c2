"""Searches begin with the formulas that the user gives, in any form in which a metric is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gp_prune.errors import UserError
from gp_prune.language.expression import canonical
from gp_prune.language.primitive import builtin_primitives
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.runs.journal import NAME
from gp_prune.search.config import SearchConfig
from gp_prune.search.start_formulas import (
    TWO_FACTOR_NAMES,
    load_formula,
    two_factor_metrics,
)

TEXT = "mul(gamma, sum[i,k](square(W)))"


def tried(folder: Path) -> list[str]:
    lines = [json.loads(line) for line in (folder / NAME).read_text().splitlines()]
    return [line["text"] for line in lines if line["event"] == "candidate"]


def test_texts_names_and_files_are_kept_as_texts(tmp_path: Path) -> None:
    Metric.parse(TEXT, name="own").save(tmp_path / "own.json")
    given = SearchConfig(start_formulas=("l1", str(tmp_path / "own.json"), TEXT, "abs(gamma)"))
    kept = given.with_texts(builtin_primitives())
    assert kept.start_formulas == ("sum[i,k](abs(W))", TEXT, "abs(gamma)")
    assert kept.with_texts(builtin_primitives()) == kept


def test_two_factor_formulas_have_names(simulate: Callable[..., Any], tmp_path: Path) -> None:
    config = SearchConfig(start_formulas=("variance_energy",)).with_texts(builtin_primitives())
    assert config.start_formulas == ("mul(var[n,s](A), sum[j](square(V)))",)
    config = SearchConfig(start_formulas=("two-factor", "l1")).with_texts(builtin_primitives())
    assert len(set(config.start_formulas)) == len(TWO_FACTOR_NAMES) + 1 == 7
    run = simulate(
        tmp_path, start_formulas=config.start_formulas, no_start_formulas=True, generations=0
    )
    assert len(run.search.seeds) == 7


FORMULAS = {
    "variance_energy": "var[n,s](A) * sum[j](V^2)",
    "deviation_reads": "sqrt(var[n,s](A)) * sum[j](abs(V))",
    "class_mean_energy": "var[c](muP) * sum[j](V^2)",
    "class_map_spread_energy": "sum[s](var[c](mP)) * sum[j](V^2)",
    "square_energy": "mean[n,s](A^2) * sum[j](V^2)",
    "variance_in_energy": "var[n,s](A) * sum[i,k](W^2)",
}


def test_the_order_and_the_meaning_of_the_two_factor_formulas() -> None:
    """Searches, which are seeded, and comparisons depend on them."""
    metrics = two_factor_metrics(builtin_primitives())
    expected = [Metric.parse(text, name=name) for name, text in FORMULAS.items()]
    assert [(m.name, m.digest) for m in metrics] == [(m.name, m.digest) for m in expected]
    assert load_formula("variance_energy", builtin_primitives()).conventions == Conventions()


def test_only_those_written_by_hand_have_files_and_none_is_published() -> None:
    written = bundled_metrics("handwritten")
    assert [name for name in TWO_FACTOR_NAMES if name not in written] == ["variance_energy"]
    assert set(written) <= set(TWO_FACTOR_NAMES)
    published = {Metric.load(n).canonical().expression: n for n in bundled_metrics("reference")}
    forms = {name: Metric.parse(text).canonical().expression for name, text in FORMULAS.items()}
    known = {name: published[form] for name, form in forms.items() if form in published}
    assert known == {"variance_energy": "flap"}


def test_given_formulas_are_tried_first_and_breed(
    simulate: Callable[..., Any], tmp_path: Path
) -> None:
    given = (TEXT, "abs(b)", "max[i,k](W)", "sum[i,k](abs(G))", "square(Gbeta)")
    run = simulate(tmp_path, start_formulas=given, no_start_formulas=True, generations=0)
    known = [str(canonical(Metric.parse(text).expression)) for text in given]
    assert set(known) <= set(tried(tmp_path))
    assert [str(run.search.grammar.to_expression(tree)) for tree in run.search.seeds] == known


def test_without_published_formulas_a_search_begins_with_random_trees(
    simulate: Callable[..., Any], tmp_path: Path
) -> None:
    published = {
        str(canonical(Metric.load(name).expression)) for name in bundled_metrics("reference")
    }
    begun = simulate(tmp_path / "with", generations=0).search.seeds
    assert begun and published & set(tried(tmp_path / "with"))
    without = simulate(tmp_path / "without", generations=0, no_start_formulas=True)
    assert not without.search.seeds  # a random tree may still be a published formula
    assert len(published & set(tried(tmp_path / "without"))) < len(begun)


def test_a_search_for_channel_metrics_begins_with_the_two_factor_formulas(
    simulate: Callable[..., Any], tmp_path: Path
) -> None:
    forms = [str(m.canonical().expression) for m in two_factor_metrics(builtin_primitives())]
    run = simulate(tmp_path / "with", generations=0, built_in=True)
    trees = [str(run.search.grammar.to_expression(tree)) for tree in run.search.seeds]
    assert trees[: len(forms)] == forms and set(forms) <= set(tried(tmp_path / "with"))
    without = simulate(
        tmp_path / "without", generations=0, built_in=True, no_start_formulas=True, exclude=("V",)
    )
    assert not without.search.seeds
    some = simulate(tmp_path / "some", generations=0, built_in=True, exclude=("V",))
    assert forms[-1] == str(some.search.grammar.to_expression(some.search.seeds[0]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"start_formulas": ("abs(W)",)}, "has the axes {o,i,k}, and this search is for"),
        ({"start_formulas": ("abs(gama)",)}, "gama"),
        ({"start_formulas": (TEXT,), "exclude": ("gamma",)}, "cannot be used: operand 'gamma' is"),
        ({"start_formulas": (TEXT,), "size_limit": 4}, "has 5 nodes and height 3, and formulas of"),
    ],
)
def test_formulas_that_the_search_cannot_hold_are_refused(
    simulate: Callable[..., Any], tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        simulate(tmp_path, **settings)
