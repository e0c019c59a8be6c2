"""The page of a run says what its files say, escapes what others wrote, and needs no network."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gp_prune.cli import main
from gp_prune.errors import UserError
from gp_prune.report.page.common import duration
from gp_prune.report.page.geometry import draw, format_tick, ticks
from gp_prune.report.page.parts import Plot, Point, Series, Table
from gp_prune.report.page.search_page import _comparison
from gp_prune.report.page.write import REPORT, render, write_report
from gp_prune.report.page.write import make_page as make
from gp_prune.runs.journal import NAME as JOURNAL
from gp_prune.runs.journal_lines import seal
from gp_prune.runs.spent import read_spent
from gp_prune.search.comparison import KINDS, Comparison
from gp_prune.search.results import FRONT, SearchResult
from gp_prune.search.stored import RESULT

MARKUP = "<script>window.hacked = 1</script>&\"'"
"""What must be escaped wherever it stands."""

VOID = {"meta", "link", "br", "input"}


class Reader(HTMLParser):
    """Collects the rows of tables with exact numbers, the marks, and what could load anything."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, list[float]] = {}
        self.marks: list[dict[str, str]] = []
        self.facts: dict[str, float] = {}
        self.elements: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self._row = self._term = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.elements.append(tag)
        self.addresses += [values[name] for name in ("src", "href") if name in values]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self._row = values.get("data-key", "")
        if tag == "dt":
            self._term = ""
        if values.get("class") == "mark":
            self.marks.append(values)
        if tag == "data":
            number = float(values["value"])
            if "table" not in self._open:
                self.facts[self._term] = number
            elif self._row:
                self.rows.setdefault(self._row, []).append(number)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "dt":
            self._term += data
        self.text.append(data)


def read_page(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


@pytest.fixture(scope="module")
def shown(shown_run: SearchResult) -> Reader:
    return read_page(write_report(shown_run.folder).read_text(encoding="utf-8"))


def generations(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / JOURNAL).read_text().splitlines())
    return [line for line in lines if line["event"] == "generation"]


def test_the_front_has_the_numbers_of_the_result(shown: Reader, shown_run: SearchResult) -> None:
    with open(shown_run.folder / FRONT, newline="") as file:
        table = list(csv.DictReader(file))
    names = [*shown_run.config.names]
    columns = [*names, *(f"equal_{kind}_test" for kind in KINDS)]
    assert len(table) == len(shown_run.contenders)
    for number, row in enumerate(table):
        assert shown.rows[f"f{number}"] == [float(row[name]) for name in columns]


def test_what_was_not_measured_on_a_task_is_left_empty(shown_run: SearchResult) -> None:
    best = shown_run.recommended.name
    records = [
        replace(record, task="elsewhere-digits")
        for record in shown_run.comparison.records
        if record.contender == best
    ]
    held_out = Comparison(records, shown_run.config)
    section = _comparison(replace(shown_run, held_out=held_out))
    tables = [part for part in section.parts if isinstance(part, Table)]
    assert tables
    for table in tables:
        place = next(n for n, heading in enumerate(table.headings) if "elsewhere" in heading)
        for row in table.rows:
            assert (row.cells[place].text == "") == (row.cells[0].text != best)


def test_plots_have_the_numbers_of_the_journal(shown: Reader, shown_run: SearchResult) -> None:
    turns = generations(shown_run.folder)
    marks = {(float(mark["data-x"]), float(mark["data-y"])) for mark in shown.marks}
    for turn in turns:
        assert (turn["number"], turn["hypervolume"]) in marks
        assert (turn["number"], turn["front"][0][1][0]) in marks
        census = turn["population"]
        assert (turn["number"], census["distinct"] / census["subtrees"]) in marks
    for record in shown_run.comparison.part(shown_run.recommended.name, kind="macs"):
        assert (record.keep, record.test) in marks


def test_the_facts_are_those_of_the_journal(shown: Reader, shown_run: SearchResult) -> None:
    last = generations(shown_run.folder)[-1]
    spent = read_spent(shown_run.folder)
    assert spent is not None
    assert shown.facts["formulas tried"] == last["assessed"] == shown_run.assessed
    assert shown.facts["different plans, evaluated"] == last["behaviours"] == shown_run.behaviours
    assert shown.facts["networks pruned and measured in the search"] == last["evaluations"]
    lines = (shown_run.folder / JOURNAL).read_text().count('"event": "evaluation"')
    assert shown.facts["networks pruned and measured in all"] == lines
    assert shown.facts["time on the clock"] == spent.seconds
    assert shown.facts["processor time of this machine"] == spent.processor_seconds


def test_the_page_loads_nothing_and_escapes_names(shown: Reader, shown_run: SearchResult) -> None:
    text = (shown_run.folder / REPORT).read_text(encoding="utf-8")
    assert "<b>" not in text and "&lt;b&gt;bold&lt;/b&gt;" in text
    assert all(address.startswith("#") for address in shown.addresses)
    assert "b" not in shown.elements and shown.elements.count("script") == 1
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert "default-src 'none'" in text
    assert len(text) < 300_000


def test_what_a_journal_says_is_escaped(shown_run: SearchResult, tmp_path: Path) -> None:
    folder = tmp_path / "<i>run"
    shutil.copytree(shown_run.folder, folder)
    best = str(shown_run.recommended.expression)
    with open(folder / JOURNAL, "ab") as file:
        for event in (
            {"event": "stopped", "reason": MARKUP},
            {"event": "bred", "text": best, "operator": MARKUP, "parents": [MARKUP]},
            {"event": "layers", "contender": MARKUP, "task": MARKUP, "budget": "macs",
             "keep": 0.5, "layers": [[MARKUP, 1, 2]]},
        ):  # fmt: skip
            file.write(seal(event))
    text = write_report(folder).read_text(encoding="utf-8")
    assert "window.hacked" in text and "<script>window" not in text and "<i>" not in text
    assert read_page(text).elements.count("script") == 1
    assert text.count(MARKUP[:8]) == 1  # the script of the page


@pytest.mark.parametrize(
    "event",
    [
        {"event": "generation", "number": 1},
        {"event": "layers", "contender": "a", "task": "t", "budget": "macs", "keep": 0.5,
         "layers": [["conv", "many", 2]]},
        {"event": "candidate", "text": "W", "rung": 0, "objectives": ["<b>"], "by_task": {}},
        {"event": "bred", "text": "W", "operator": 3, "parents": []},
    ],
)  # fmt: skip
def test_wrong_events_are_named(
    shown_run: SearchResult, tmp_path: Path, event: dict[str, Any]
) -> None:
    shutil.copytree(shown_run.folder, tmp_path / "run")
    with open(tmp_path / "run" / JOURNAL, "ab") as file:
        file.write(seal(event))
    with pytest.raises(UserError, match=r"journal .* is damaged: "):
        write_report(tmp_path / "run")


def test_a_damaged_line_is_named_once(shown_run: SearchResult, tmp_path: Path) -> None:
    shutil.copytree(shown_run.folder, tmp_path / "run")
    path = tmp_path / "run" / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"e", b"f", 1)
    path.write_bytes(b"".join(lines))
    with pytest.raises(UserError, match="in line 3; restore it") as raised:
        write_report(tmp_path / "run")
    assert str(raised.value).count("is damaged") == 1


def test_a_run_that_goes_on_is_shown_as_far_as_it_has_come(
    shown_run: SearchResult, tmp_path: Path
) -> None:
    shutil.copytree(shown_run.folder, tmp_path / "run")
    (tmp_path / "run" / RESULT).unlink()
    page = make(tmp_path / "run")
    assert page.running
    text = render(page, "run", reload=5)
    assert '<meta http-equiv="refresh" content="5">' in text
    assert "The run has not ended: generation 2 of 2 is done." in text
    last = generations(shown_run.folder)[-1]
    rows = read_page(text).rows
    for number, (_, objectives) in enumerate(last["front"]):
        assert rows[f"f{number}"] == objectives


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(main, list(map(str, arguments)))


def test_the_command_writes_a_page_for_each_run(
    run: Callable[..., Result], shown_run: SearchResult, tmp_path: Path
) -> None:
    for name in ("a b", "c"):
        shutil.copytree(shown_run.folder, tmp_path / name, ignore=shutil.ignore_patterns(REPORT))
    done = run("report", tmp_path)
    assert done.exit_code == 0 and done.stdout == f"{tmp_path / REPORT}\n"
    text = (tmp_path / REPORT).read_text(encoding="utf-8")
    assert 'href="a%20b/report.html"' in text and 'href="c/report.html"' in text
    assert (tmp_path / "a b" / REPORT).exists() and (tmp_path / "c" / REPORT).exists()
    elsewhere = tmp_path / "page.html"
    done = run("report", tmp_path / "c", "--watch", "--out", elsewhere)  # it has ended
    assert done.exit_code == 0 and elsewhere.read_text() == (tmp_path / "c" / REPORT).read_text()
    done = run("report", tmp_path, "--watch")
    assert done.exit_code == 2 and "--watch is for one run" in done.stderr


def test_what_is_no_run_is_refused(run: Callable[..., Result], tmp_path: Path) -> None:
    done = run("report", tmp_path)
    assert done.exit_code == 2 and "is not a run folder" in done.stderr
    done = run("report", tmp_path / "none")
    assert done.exit_code == 2 and "Traceback" not in done.output


def test_code_of_primitives_is_not_run_unasked(
    run: Callable[..., Result], shown_run: SearchResult, tmp_path: Path
) -> None:
    shutil.copytree(shown_run.folder, tmp_path / "run")
    code = tmp_path / "code.py"
    code.write_text("raise SystemExit('run')\n")
    config = tmp_path / "run" / "config.toml"
    text = config.read_text().replace("primitives = []", f'primitives = ["{code}"]')
    config.write_text(text)
    done = run("report", tmp_path / "run")
    assert done.exit_code == 2 and f"--trust {code}" in done.stderr


def test_axes_enclose_their_values() -> None:
    for values in ([0.2, 0.7], [3.0], [0.0], [-1.0, 1.0], [1e-9, 2e-9], [0.0, 1e9], []):
        found = ticks(values)
        assert found[0] <= min(values, default=0.0) and max(values, default=0.0) <= found[-1]
        assert 2 <= len(found) <= 9
        labels = [format_tick(tick, found) for tick in found]
        assert len(set(labels)) == len(labels)
    assert ticks([0.0, 6.0], whole=True) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert all(tick == int(tick) for tick in ticks([0.0, 1000.0], whole=True))


def test_points_keep_their_order_on_the_picture() -> None:
    points = [Point(x, x * x, "p") for x in range(5)]
    picture = draw(Plot("t", "x", "y", [Series("s", "front", points)], [(0.0, 0.0), (4.0, 16.0)]))
    marks = picture.series[0].marks
    assert [mark.x for mark in marks] == sorted(mark.x for mark in marks)
    assert [mark.y for mark in marks] == sorted((mark.y for mark in marks), reverse=True)
    assert picture.cloud.count("h0") == 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (61, "1 min 01 s"), (3725, "1 h 02 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # click does not wait for the program
@pytest.mark.skipif(sys.platform != "linux", reason="xdg-open is of Linux")
def test_the_page_is_opened_or_a_warning_says_that_it_is_not(
    run: Callable[..., Result], shown_run: SearchResult, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    program, opened = tmp_path / "xdg-open", tmp_path / "opened"
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    program.write_text(f'#!/bin/sh\necho "$1" > {opened}.part\nmv {opened}.part {opened}\n')
    program.chmod(0o755)
    page = tmp_path / "page.html"
    result = run("report", shown_run.folder, "--out", page, "--open")
    assert (result.exit_code, result.stderr) == (0, "")
    deadline = time.monotonic() + 600
    while not opened.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert opened.read_text() == f"{page}\n"
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    result = run("report", shown_run.folder, "--out", page, "--open")
    assert result.exit_code == 0 and "no program was found that shows the page" in result.stderr
