"""The LaTeX table of metrics, and documents of one page per metric."""

from __future__ import annotations

import dataclasses
import re

import pytest

from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.report.latex_document import latex_table, legend, standalone


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
    metric = Metric.parse("div(add(Ggamma2, Gbeta2), add(add(square(WG2), WG2), square(Ggamma2)))")
    table = latex_table([metric])
    assert metric.latex() not in table
    assert r"\mathbin{\Big/}" in table


def test_a_column_for_each_task_and_the_mean_over_the_tasks_of_the_metric() -> None:
    metrics = [
        measured("l1", lenet={"macs": 0.5, "test_error": 0.1}, cnn={"macs": 0.25}),
        measured("l2", cnn={"macs": 0.125}),
        Metric.load("fpgm"),
    ]
    table = latex_table(metrics)
    check(table)
    assert r"objective & \shortstack[r]{lenet} & \shortstack[r]{cnn} & mean" in table
    assert r"macs & 0.500 & 0.250 & $0.375 \pm 0.125$ \\*" in table
    assert (
        r"test error & 0.100 &  &  \\ \addlinespace" in table
    )  # one task: neither mean nor deviation
    assert r"macs &  & 0.125 &  \\ \addlinespace" in table
    assert table.index("fpgm") > table.index("0.125")


def test_many_tasks_have_numbers_above_their_columns() -> None:
    tasks = [f"task-{n}" for n in range(6)]
    table = latex_table([measured("l1", **{task: {"macs": 0.5} for task in tasks})])
    check(table)
    assert r"objective & 1 & 2 & 3 & 4 & 5 & 6 & mean" in table
    assert "tasks 1: task-0, 2: task-1, " in table


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
    assert text.count("A quotient is 0 where the magnitude of its divisor") == 1  # for lamp alone


def test_document_of_a_table_explains_each_sign_once() -> None:
    metrics = load("l1", "l2", "lamp")
    text = standalone(metrics, latex_table(metrics))
    assert text.count("$W_{o,i,k}$: weights") == 1
    assert r"\newpage" not in text
    assert (
        text.count("A quotient is 0 where the magnitude of its divisor is at most $10^{-12}$.") == 1
    )


def test_the_legend_explains_numbers_primes_and_each_quotient() -> None:
    text = legend(Metric.load("ria"))
    assert r"Each quotient is 0 where the magnitude of its divisor is at most $10^{-12}$." in text
    assert "$o'$: a further index over the values of o;" in text
    assert "$N_{s}$: number of positions.\\par}" in legend(Metric.load("entropy"))
    fpgm = legend(Metric.load("fpgm"))
    assert "$o'$" in fpgm
    assert "$p$" not in fpgm
    paired = legend(Metric.parse("sum[p](square(pairwise_distance(min_max[o](W))))"))
    assert r"\sum_{p,i,k}" in paired  # o' is taken by the normaliser
    assert "$p$" in paired
