"""Tables, numbers and progress as text."""

from __future__ import annotations

import io
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gp_prune.formula.printer import escape
from gp_prune.report.catalogue import markdown_math
from gp_prune.report.console import (
    make_console,
    percent,
    print_facts,
    print_table,
    quantity,
)
from gp_prune.report.progress import StageBars

PREFIX = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@given(st.integers(0, 10**14))
def test_quantity_reads_back_to_three_digits(number: int) -> None:
    text = quantity(number)
    value, _, prefix = text.partition(" ")
    assert abs(float(value) * PREFIX[prefix] - number) <= 0.005 * number
    assert len(value) <= 4
    if number < 10_000:
        assert text == str(number)


def test_quantity() -> None:
    assert [quantity(n) for n in (0, 9999, 10_000, 999_499, 999_600, 9_996_000, 1_814_073_344)] == [
        "0", "9999", "10.0 k", "999 k", "1.00 M", "10.0 M", "1.81 G"
    ]  # fmt: skip


def test_percent() -> None:
    assert percent(0.50049) == "50.0 %"


def printed(*headings: str, rows: list[list[str]]) -> list[str]:
    stream = io.StringIO()
    print_table(make_console(stream), headings, rows)
    return stream.getvalue().splitlines()


def test_plain_table() -> None:
    lines = printed("name", ">number", rows=[["sum[i,k](W)", "1"], ["x", "23"]])
    assert lines == ["name         number", "sum[i,k](W)       1", "x                23"]


WIDTHS = [20, 40, 60, 80, 100, 120, 200]
LAYERS = [
    ["features.denseblock4.denselayer16.conv2", "1024", "663", "7.53 M", ""],
    ["classifier.1", "1000", "1000", "1.28 M", "network output"],
    ["(normalisations and the rest)", "", "", "0", ""],
]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("terminal", [False, True])
def test_names_and_numbers_are_never_broken(
    width: int, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    console = make_console(stream)
    if terminal:
        console = Console(file=stream, width=width, force_terminal=True, color_system=None)
    headings = ["layer", ">channels", ">kept", ">MACs", "kept whole"]
    print_table(console, headings, LAYERS, fold=["layer", "kept whole"])
    text = stream.getvalue()
    for row in LAYERS:
        assert all(word in text for cell in row[:3] + row[4:] for word in cell.split())
        assert f" {row[3]}" in text
    if width >= 80:
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert console.width == width


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_of_text_become_blocks_where_they_do_not_fit(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    headings = ["metric", "prunes", "formula", "source"]
    formula, source = "mean[n](at_least(min_max[o](A), 0.5))", "Somebody, A Paper, 2020"
    stream = io.StringIO()
    rows = [["of_a_long_name", "channel", formula, source]]
    print_table(make_console(stream), headings, rows, fold=["formula", "source", "prunes"])
    lines = stream.getvalue().splitlines()
    least = len("of_a_long_name" + "channel" + "mean[n](at_least(min_max[o](A),") + len("Somebody,")
    if width >= least + 3:
        assert lines[0].split() == headings and lines[1].startswith("of_a_long_name ")
    else:
        assert lines[0] == "of_a_long_name" and lines[1] == "  prunes   channel"
    if width >= 60:
        assert all(word in stream.getvalue() for word in formula.split())


@pytest.mark.parametrize(
    ("columns", "width"), [("77", 77), ("", 120), ("0", 120), ("wide", 120), ("-5", 120)]
)
def test_the_variable_columns_is_the_width_of_what_is_no_terminal(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert make_console(io.StringIO()).width == width
    monkeypatch.delenv("COLUMNS")
    assert make_console(io.StringIO(), 160).width == 160


@given(st.lists(st.text(st.characters(codec="ascii", categories=("L", "P", "N"))), min_size=2))
def test_no_cell_is_lost_or_taken_for_markup(words: list[str]) -> None:
    lines = printed("a", "b", rows=[[word, "x"] for word in words])
    seen = "".join(lines)
    for word in words:
        assert re.sub(r"\s", "", word) in re.sub(r"\s", "", seen)
    assert all(len(line) <= 120 for line in lines)


def test_the_note_of_a_step_is_never_cut() -> None:
    """It stands below the bars, in as many lines as it takes."""
    stream = io.StringIO()
    console = Console(file=stream, width=60, force_terminal=True, color_system=None)
    note = "12 formulas, front 3, least error 0.012 by sum[i,k](mul(abs(W), abs(G)))"
    with StageBars(console, {"search": "generations"}) as bars:
        bars.show("search", 1, 4, note)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "generations" in text and "1/4" in text and "…" not in text
    assert all(word in text for word in note.split())


def test_facts_fold_under_themselves() -> None:
    stream = io.StringIO()
    print_facts(make_console(stream), [("a", "word " * 60), ("long name", "x")])
    lines = stream.getvalue().splitlines()
    assert all(line[:11].strip() == "" for line in lines[1:-1])
    assert lines[-1] == "long name  x"


def test_markdown_math() -> None:
    assert markdown_math(r"\left|x\right| |y|") == r"$\left\lvert x\right\rvert \vert y\vert$"
    assert markdown_math(r"\frac{a}{b}_{\!c}") == r"$\frac{a}{b}_{c}$"


def test_escape() -> None:
    assert escape("50 % of a_b & {c}") == r"50 \% of a\_b \& \{c\}"


def test_the_time_of_a_stage_begins_with_its_first_step() -> None:
    """A step is shown when it is done, and the stage began before it."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with StageBars(console, {"search": "generations", "compare": "compared"}) as bars:
        time.sleep(0.05)
        bars.show("search", 1, 2, "")
        bars.show("other", 1, 2, "")
        time.sleep(0.05)
        bars.show("compare", 1, 3, "")
        first, second = (task.elapsed or 0.0 for task in bars.tasks)
        assert first >= 0.1 and 0.05 <= second < first
