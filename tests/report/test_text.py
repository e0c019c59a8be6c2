"""What others wrote never steers a terminal, whichever way it is printed."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

import gp_prune
from gp_prune.base.json_fields import escape_json, write_json
from gp_prune.report.console import make_console, new_table, print_facts, print_table, render
from gp_prune.report.text import Rendered, printable

HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\u202eexe.gpj\u2066\u200f\r\x08\x7f\ud800\U000e0041"
STEERING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def steers(text: str) -> bool:
    return any(unicodedata.category(c) in STEERING for c in text if c not in "\n\t")


@given(st.text())
@example(HOSTILE)
def test_nothing_that_steers_is_left_and_all_else_stays(text: str) -> None:
    shown = printable(text)
    assert not steers(shown)
    assert printable(shown) == shown
    plain = "".join(c for c in text if not steers(c))
    assert printable(plain) == plain
    restored = re.sub(
        r"\\x..|\\u....|\\U........|\\[rtn]",
        lambda match: match[0].encode().decode("unicode_escape"), shown,
    )  # fmt: skip
    if "\\" not in text:
        assert restored == text


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none(), max_size=3))
@example({HOSTILE: HOSTILE})
def test_json_means_the_same(data: dict[str, object]) -> None:
    for indent in (None, 2):
        text = escape_json(json.dumps(data, ensure_ascii=False, indent=indent))
        assert not steers(text)
        assert json.loads(text) == data


def test_json_files_have_no_raw_controls(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"layer": HOSTILE})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert not steers(text)
    assert json.loads(text) == {"layer": HOSTILE}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [False, True])
def test_a_console_writes_out_what_it_is_given(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal() if terminal else io.StringIO()
    console = make_console(stream)
    table = new_table(HOSTILE, ["a", HOSTILE])
    table.add_row(HOSTILE, Text(HOSTILE))
    rows: Table = table
    console.print(HOSTILE)
    console.print(Text(HOSTILE, style="bold"), rows)
    print_facts(console, [(HOSTILE, HOSTILE)])
    print_table(console, ["a", HOSTILE], [[HOSTILE, HOSTILE]])
    stream.write("\n".join(render(console, Text(HOSTILE), rows)))
    own = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())  # colours of the program itself
    assert not steers(own)
    assert "31m" in own and "[2J" in own
    assert ("\x1b[" in stream.getvalue()) == terminal


def test_lines_of_a_console_keep_their_colours() -> None:
    assert printable(Rendered("\x1b[1mbold\x1b[0m")) == "\x1b[1mbold\x1b[0m"
    assert render(make_console(io.StringIO())) == []


def test_the_command_line_prints_in_one_way() -> None:
    root = Path(gp_prune.__file__).parent
    other = re.compile(r"\b(click\.(s?echo|echo_via_pager|prompt)|print|Console)\(|std\w+\.write")
    for path in [*(root / "cli").glob("*.py"), *(root / "report").glob("*.py")]:
        if path.name in ("text.py", "console.py"):
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not [x for x in lines if other.search(x) and "console.print(" not in x], path
