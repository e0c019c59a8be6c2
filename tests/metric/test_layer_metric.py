"""A metric of layers gives shares: alone, in a pair, in files, and nowhere as what ranks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gp_prune.errors import UserError
from gp_prune.language.record import synthetic_layer
from gp_prune.metric.file import Conventions, MetricError
from gp_prune.metric.metric import Metric

DEPTH = Metric.parse("sqrt(depth) / macs_freed", name="deep")


def test_it_has_one_value_for_each_layer() -> None:
    layer = synthetic_layer()
    assert (DEPTH.granularity, DEPTH.needs) == ("layer", frozenset({"network"}))
    assert layer.depth is not None and layer.macs_freed is not None
    assert DEPTH.scores(layer) == layer.depth.sqrt() / layer.macs_freed


def test_files_hold_it_alone_and_in_a_pair(tmp_path: Path) -> None:
    pair = Metric.load("l1").with_shares(DEPTH)
    for metric in (DEPTH, pair):
        metric.save(tmp_path / "saved.json")
        loaded = Metric.load(tmp_path / "saved.json")
        assert (loaded, loaded.digest) == (metric, metric.digest)
    assert pair.size == 3 + DEPTH.size
    assert pair.digest != Metric.load("l1").digest
    assert "shares by deep" in repr(pair)


def test_it_is_the_sympy_formula_that_it_prints() -> None:
    assert Metric.from_sympy(DEPTH.sympy()).expression == DEPTH.expression
    assert DEPTH.latex().count("mathrm") == 2
    assert "<mi" in DEPTH.mathml()


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (lambda: DEPTH.with_shares("l1"), "'deep' gives the share of each layer and ranks nothing"),
        (lambda: Metric.load("magnitude").with_shares(DEPTH), "'magnitude' ranks single weights"),
        (lambda: Metric.load("l1").with_shares("magnitude"), "'magnitude' ranks single weights"),
        (lambda: Metric.parse("gamma * depth"), "ranks channels and reads 'depth'"),
        (lambda: Metric.parse("W * stride"), "ranks weights and reads 'stride'"),
        (lambda: Metric.parse("depth", conventions=Conventions("layer")), "scope 'layer'"),
        (lambda: DEPTH.as_mutation(), "'deep' gives the share of each layer"),
    ],
)
def test_what_it_is_not_for(pair: object, words: str) -> None:
    assert callable(pair)
    with pytest.raises(UserError, match=words):
        pair()


def test_of_a_pair_the_shares_are_taken() -> None:
    other = Metric.load("l2").with_shares(DEPTH)
    assert Metric.load("l1").with_shares(other) == Metric.load("l1").with_shares(DEPTH)
    with pytest.raises(MetricError, match="has shares from a third one"):
        dataclasses.replace(Metric.load("l1"), shares=other)
