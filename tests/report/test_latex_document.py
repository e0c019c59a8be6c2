"""The LaTeX table of metrics, and documents of one page per metric."""

from __future__ import annotations

import dataclasses
import re

import pytest

from gp_prune.formula.line_breaking import QUOTIENT
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.report.latex_document import latex_table, standalone


def load(*names: str) -> list[Metric]:
    return [Metric.load(name) for name in names]


def measured(name: str, **tasks: dict[str, float]) -> Metric:
    return dataclasses.replace(Metric.load(name), objectives=tasks)


def check(table: str) -> None:
    """Every row has as many cells as there are columns."""
    assert table.count("{") == table.count("}")
    declared = re.search(r"\\begin\{(?:tabular|longtable)\}\{(.*)\}\n", table)
    assert declared
    spec = re.sub(r"@\{\}|>\{[^p]*\}|p\{\d+pt\}", lambda m: "p" * (m[0][0] == "p"), declared[1])
    body = table[declared.end() :]
    for row in re.findall(r"^(.*) \\\\\*? ?(?:\\addlinespace)?$", body, re.MULTILINE):
        spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
        assert row.count("&") + 1 + spans == len(spec), row


def test_name_formula_and_size() -> None:
    table = latex_table(load("l1", "fpgm"))
    check(table)
    assert r"\begin{tabular}" in table
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert table.count(rule) == 1
    assert r"metric & formula & size \\" in table
    assert r"\texttt{l1} & $\displaystyle \sum_{i,k} \left|W_{o,i,k}\right|$ & 3 \\" in table


def test_many_rows_go_over_pages() -> None:
    table = latex_table(load(*bundled_metrics()))
    check(table)
    assert r"\begin{longtable}" in table
    assert table.index(r"\endhead") < table.index(r"\endfoot") < table.index(r"\texttt")
    for name in bundled_metrics():
        assert rf"\texttt{{{name.replace('_', chr(92) + '_')}}}" in table


def test_long_formulas_are_broken() -> None:
    (metric,) = load("conjunctive_activation")
    table = latex_table([metric])
    assert metric.latex() not in table
    assert r"\mathbin{\Big/_{\! \epsilon}}" in table


def test_objectives_are_means_over_tasks() -> None:
    metrics = [
        measured("l1", lenet={"macs": 0.5, "test_error": 0.1}, cnn={"macs": 0.25}),
        measured("l2", lenet={"macs": 0.125}),
        Metric.load("fpgm"),
    ]
    table = latex_table(metrics)
    check(table)
    assert "means over cnn, lenet" in table
    assert r"\shortstack[r]{test\\error}" in table
    assert r"\texttt{l1} & 3 & 0.375 & 0.100 \\*" in table
    assert r"\texttt{l2} & 2 & 0.125 &  \\*" in table
    assert r"\texttt{fpgm} & 3 &  &  \\*" in table


@pytest.mark.parametrize("value", ["high", None, True, {"a": "b"}, [1]])
def test_objectives_that_are_no_numbers_are_left_out(value: object) -> None:
    metric = dataclasses.replace(
        Metric.load("l1"), objectives={"lenet": {"note": value}, "all": value}
    )
    table = latex_table([metric])
    check(table)
    assert r"metric & formula & size \\" in table


def test_document_of_pages() -> None:
    text = standalone(load("l1", "lamp", "gecco_2"))
    assert text.count(r"\newpage") == 2
    assert text.count(r"\section*") == 3
    assert rf"\[ {QUOTIENT} \]" in text  # for gecco_2, which is broken
    assert QUOTIENT not in standalone(load("l1", "lamp"))


def test_document_of_a_table_explains_each_sign_once() -> None:
    metrics = load("l1", "l2", "lamp")
    text = standalone(metrics, latex_table(metrics))
    assert text.count("$W$: weights") == 1
    assert r"\newpage" not in text
    assert text.count(r"\frac{a}{b}_{\!\epsilon} =") == 1
