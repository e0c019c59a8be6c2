from __future__ import annotations

import io
import re

from hypothesis import given
from hypothesis import strategies as st

from gp_prune.report.catalogue import markdown_math
from gp_prune.report.latex_document import escaped
from gp_prune.report.tables import make_console, percent, print_facts, print_table, quantity

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


def printed(*columns: str, rows: list[list[str]], right: str = "") -> list[str]:
    stream = io.StringIO()
    print_table(make_console(stream), columns, rows, right=right)
    return stream.getvalue().splitlines()


def test_plain_table() -> None:
    lines = printed("name", "number", rows=[["sum[i,k](W)", "1"], ["x", "23"]], right=" r")
    assert lines == ["name         number", "sum[i,k](W)       1", "x                23"]


@given(st.lists(st.text(st.characters(codec="ascii", categories=("L", "P", "N"))), min_size=2))
def test_no_cell_is_lost_or_taken_for_markup(words: list[str]) -> None:
    lines = printed("a", "b", rows=[[word, "x"] for word in words])
    seen = "".join(lines)
    for word in words:
        assert re.sub(r"\s", "", word) in re.sub(r"\s", "", seen)
    assert all(len(line) <= 120 for line in lines)


def test_facts_fold_under_themselves() -> None:
    stream = io.StringIO()
    print_facts(make_console(stream), [("a", "word " * 60), ("long name", "x")])
    lines = stream.getvalue().splitlines()
    assert all(line[:11].strip() == "" for line in lines[1:-1])
    assert lines[-1] == "long name  x"


def test_markdown_math() -> None:
    assert markdown_math(r"\left|x\right| |y|") == r"$\left\lvert x\right\rvert \vert y\vert$"
    assert markdown_math(r"\frac{a}{b}_{\!\epsilon}") == r"$\frac{a}{b}_{\epsilon}$"


def test_escaped() -> None:
    assert escaped("50 % of a_b & {c}") == r"50 \% of a\_b \& \{c\}"
