"""Plots of a search for papers: the numbers of its page, written in each format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gp_prune.errors import UserError
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.report.search_plots import plot_tree
from gp_prune.search.results import SearchResult

pytest.importorskip("matplotlib")


def lines(figure: Any) -> list[list[tuple[float, float]]]:
    """The points of everything that is drawn."""
    return [
        [(float(x), float(y)) for x, y in line.get_xydata()]
        for axes in figure.axes
        for line in axes.get_lines()
    ]


def test_the_front_has_the_objectives(shown_run: SearchResult, tmp_path: Path) -> None:
    for suffix in ("png", "svg", "pdf"):
        figure = shown_run.plot.front(tmp_path / f"front.{suffix}")
        assert (tmp_path / f"front.{suffix}").stat().st_size > 1000
    drawn = {point for line in lines(figure) for point in line}
    for contender in shown_run.contenders:
        if contender.candidate is not None:
            error, params, size = contender.candidate.objectives
            assert {(params, error), (size, error)} <= drawn


def test_errors_are_those_of_the_comparison(shown_run: SearchResult) -> None:
    best = shown_run.recommended.name
    for kind in ("macs", "params"):
        drawn = {point for line in lines(shown_run.plot.errors(kind=kind)) for point in line}
        records = shown_run.comparison.part(best, kind=kind)
        assert records and {(record.keep, record.test) for record in records} <= drawn
    with pytest.raises(UserError, match="kind is 'flops'; it must be macs or params"):
        shown_run.plot.errors(kind="flops")


def test_layers_and_course_have_a_panel_each(shown_run: SearchResult) -> None:
    figure = shown_run.plot.layers(kind="params", keep=0.5)
    tasks = len(shown_run.config.tasks)
    assert sum(bool(axes.patches) for axes in figure.axes) == tasks
    assert len(shown_run.plot.course().axes) == 3
    with pytest.raises(UserError, match=r"kept of its layers at macs 0\.9; its budgets are 0\.5"):
        shown_run.plot.layers(keep=0.9)


def test_a_notebook_shows_a_figure() -> None:
    figure = plot_tree(parse("abs(gamma)", builtin_primitives()))
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_tree_has_a_box_for_each_node_and_a_line_to_each_argument() -> None:
    formula = parse("mul(sum[i,k](abs(W)), add(0.5, WG2))", builtin_primitives())
    (axes,) = plot_tree(formula).axes
    assert sorted(text.get_text() for text in axes.texts) == sorted(
        ["mul", "sum[i,k]", "abs", "W", "add", "0.5", "WG2"]
    )
    assert len(axes.get_lines()) == formula.size - 1
    places = {text.get_position() for text in axes.texts}
    assert len(places) == formula.size
