"""Metrics whose shares of the layers come from another metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gp_prune.metric.metric import Metric, MetricError

PAIR = Metric.parse("var[n,s](A) * sum[j](V^2)", name="two").with_shares("gecco_2")


def test_a_pair_comes_back_from_its_file(tmp_path: Path) -> None:
    PAIR.save(tmp_path / "pair.json")
    back = Metric.load(tmp_path / "pair.json")
    assert back == PAIR and back.digest == PAIR.digest
    assert back.shares is not None
    assert back.shares.digest == Metric.load("gecco_2").digest
    assert back.shares.description == Metric.load("gecco_2").description


def test_the_shares_are_part_of_the_meaning() -> None:
    alone = PAIR.with_shares(None)
    assert alone.parts == (alone,) and PAIR.parts == (PAIR, PAIR.shares)
    assert len({alone.digest, PAIR.digest, alone.with_shares("l1").digest}) == 3
    assert PAIR.size == alone.expression.size + Metric.load("gecco_2").expression.size
    assert "shares by gecco_2" in repr(PAIR)
    assert "shares" not in alone.to_json()


def test_both_formulas_become_simpler() -> None:
    double = Metric.parse("sum[i,k](abs(abs(W)))", name="double")
    simpler = double.with_shares(double).simplified()
    assert simpler.shares is not None
    assert str(simpler.expression) == str(simpler.shares.expression) == "l1[i,k](W)"
    minimal = Metric.parse("l1[i,k](W)")
    assert minimal.with_shares(double).simplified() == minimal.with_shares(simpler.shares)
    assert PAIR.canonical().canonical() == PAIR.canonical()


def _with(**changes: Any) -> str:
    data = PAIR.to_json()
    data["shares"] = {**data["shares"], **changes}
    return json.dumps(data)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_with(text="gamma"), "of the metric in the field 'shares': its text 'gamma'"),
        (_with(surprise=1), "the field 'shares' has an unknown field 'surprise'"),
        (_with(schema_version=2), "newer than 1"),
        (_with(shares=PAIR.to_json()), "has shares from a third one"),
        (json.dumps({**PAIR.to_json(), "shares": []}), "field 'shares' of the metric"),
        (json.dumps({**PAIR.to_json(), "shares": Metric.load("l1").to_json()}), "its digest"),
        (json.dumps({**PAIR.to_json(), "shares": Metric.load("magnitude").to_json()}),
         "ranks single weights"),
    ],
)  # fmt: skip
def test_files_that_are_refused(content: str, words: str) -> None:
    with pytest.raises(MetricError, match="metric file 'given' is refused") as caught:
        Metric.from_text(content, "given")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shares", "words"),
    [
        ("l1", "magnitude", "'magnitude' ranks single weights"),
        ("magnitude", "l1", "'magnitude' ranks single weights"),
        ("l1", 3, "are 3; give a Metric"),
        ("l1", "no_such_metric", "unknown metric"),
    ],
)
def test_metrics_that_make_no_pair(name: str, shares: Any, words: str) -> None:
    with pytest.raises(MetricError) as caught:
        Metric.load(name).with_shares(shares)
    assert words in str(caught.value)


def test_deeply_nested_shares_are_refused_at_once() -> None:
    data = PAIR.to_json()
    for _ in range(200):
        data = {**PAIR.to_json(), "shares": data}
    with pytest.raises(MetricError, match="refused"):
        Metric.from_text(json.dumps(data), "nested")


def test_changed_primitives_of_either_formula_are_named() -> None:
    assert PAIR.shares is not None
    old = Metric.load("l1").with_shares(Metric.from_text(json.dumps(
        {**Metric.load("l2").to_json(), "declarations": {"W": "sha256:" + "0" * 64}}), "old"
    ))  # fmt: skip
    assert old.changed_primitives() == ("W",)
