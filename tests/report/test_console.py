"""Tables, numbers and the report of a pruned network as text."""

from __future__ import annotations

import copy
import inspect
import io
import re
import time
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from gp_prune.apply.prune import prune
from gp_prune.apply.tuning import Quality
from gp_prune.formula.latex import escape
from gp_prune.report.catalogue import markdown_math
from gp_prune.report.console import (
    make_console,
    percent,
    print_facts,
    print_pruning,
    print_table,
    quantity,
    show_stage_bars,
)
from gp_prune.training import Epoch, FineTuning, History

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
    with show_stage_bars(console, {"search": "generations"}) as show:
        show("search", 1, 4, note)
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
    assert markdown_math(r"\frac{a}{b}_{\!\epsilon}") == r"$\frac{a}{b}_{\epsilon}$"


def test_escape() -> None:
    assert escape("50 % of a_b & {c}") == r"50 \% of a\_b \& \{c\}"


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """The report of a small pruned network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
        )
    return prune(model, "l1", torch.zeros(1, 5), keep_channels=0.5).report(model="mine")


def printed_pruning(report: dict[str, Any]) -> str:
    stream = io.StringIO()
    print_pruning(make_console(stream), report)
    return stream.getvalue()


def rows(text: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of lines with at least two blanks between the cells."""
    cells = [line.strip().split("  ") for line in text.splitlines()]
    parts = [[cell.strip() for cell in line if cell.strip()] for line in cells]
    return {line[0]: line[1:] for line in parts if line}


def quality(**changes: Any) -> dict[str, Any]:
    values = {"kind": "error", "split": "test", "data": "digits", "samples": 360, "dense": 0.011,
              "pruned": 0.872, **changes}  # fmt: skip
    return Quality(**values).to_json()


def test_what_was_not_measured_is_not_printed(plain: dict[str, Any]) -> None:
    text = printed_pruning(plain)
    assert "latency" not in text and "samples of" not in text and "step" not in text
    assert "fine-tuning" not in text
    for key in ("latency", "quality", "steps"):  # as in a report of an earlier version
        older = {name: value for name, value in plain.items() if name != key}
        assert printed_pruning(older) == text


def test_quality_of_every_state(plain: dict[str, Any]) -> None:
    history = History(0.7, tuple(Epoch(n, 0.01, 1.0, 0.2) for n in (1, 2, 3)), 2, True)
    how = FineTuning(epochs=9, distill=0.5)
    report = {
        **plain,
        "quality": quality(recalibrated=0.742, tuned=0.1, settings=how, history=history),
    }
    cells = rows(printed_pruning(report))
    assert cells["on 360 test samples of digits"] == ["error"]
    assert cells["before pruning"] == ["1.1 %"]
    assert cells["after pruning"] == ["87.2 %"]
    assert cells["after recalibration"] == ["74.2 %"]
    assert cells["after fine-tuning"] == ["10.0 %"]
    assert cells["fine-tuning"] == [
        "3 of 9 epochs, ended early; sgd, learning rate 0.01, 50.0 % distilled; kept the state "
        "after epoch 2"
    ]


def test_one_of_a_kind_and_heads(plain: dict[str, Any]) -> None:
    history = History(0.7, (Epoch(1, 0.01, 1.0, 0.2),), 1, False)
    told = quality(samples=1, tuned=0.1, settings=FineTuning(epochs=1), history=history)
    report = copy.deepcopy({**plain, "quality": told})
    report["layers"][1]["unit"] = "heads"
    cells = rows(printed_pruning(report))
    assert "on 1 test sample of digits" in cells
    assert cells["fine-tuning"][0].startswith("1 of 1 epoch; ")
    assert "2 (heads)" in cells and "0" in cells


def test_remarks_stand_below_the_totals(plain: dict[str, Any]) -> None:
    report = {**plain, "remarks": ["Something is hollow.", "Something is missed."]}
    assert printed_pruning(report).splitlines()[-2:] == report["remarks"]


def test_quality_of_an_autoencoder_without_tuning(plain: dict[str, Any]) -> None:
    report = {**plain, "quality": quality(kind="mse", split="validation", pruned=float("inf"))}
    cells = rows(printed_pruning(report))
    assert cells["on 360 validation samples of digits"] == ["mean squared error"]
    assert cells["before pruning"] == ["0.011"]
    assert cells["after pruning"] == ["not finite"]
    assert "after recalibration" not in cells and "after fine-tuning" not in cells


def test_latency(plain: dict[str, Any]) -> None:
    time = {"median_s": 0.01234, "lower_s": 0.0121, "upper_s": 1.5, "repeats": 31, "batch": 2,
            "threads": 4, "device": "cpu"}  # fmt: skip
    report = copy.deepcopy(plain)
    report["latency"] = {
        "before": time,
        "after": {**time, "median_s": 0.001},
        "share": {"median": 0.62, "lower": 0.6, "upper": 0.65},
    }
    report["achieved"]["latency"] = 0.62
    report["asked"] = {"kind": "latency", "keep": 0.6}
    text = printed_pruning(report)
    cells = rows(text)
    assert cells["before pruning"] == ["12.3", "12.1 to 1500", "2", "4", "cpu", "31"]
    assert cells["after pruning"] == ["1.00", "12.1 to 1500", "2", "4", "cpu", "31"]
    assert cells["asked"] == ["keep 60.0 % of the latency"]
    assert cells["achieved"][0].startswith(
        "62.0 % of the latency (quartiles 60.0 % to 65.0 %), "
    )  # fmt: skip


def test_steps(plain: dict[str, Any]) -> None:
    step = {"asked": 0.7, "channels": 0.714, "weights": None, "macs": 0.6, "params": 0.62}
    report = {**plain, "steps": [step, {**step, "asked": 0.5, "channels": 0.5}]}
    cells = rows(printed_pruning(report))
    assert cells["step"] == ["channels asked", "channels", "MACs", "parameters"]
    assert cells["1"] == ["70.0 %", "71.4 %", "60.0 %", "62.0 %"]
    assert cells["2"] == ["50.0 %", "50.0 %", "60.0 %", "62.0 %"]


def test_the_time_of_a_stage_begins_with_its_first_step() -> None:
    """A step is shown when it is done, and the stage began before it."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with show_stage_bars(console, {"search": "generations", "compare": "compared"}) as show:
        time.sleep(0.05)
        show("search", 1, 2, "")
        show("other", 1, 2, "")
        time.sleep(0.05)
        show("compare", 1, 3, "")
        tasks = inspect.getclosurevars(show).nonlocals["bar"].tasks
        assert tasks[0].elapsed >= 0.1 and 0.05 <= tasks[1].elapsed < tasks[0].elapsed
