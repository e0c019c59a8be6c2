"""What README.md and the pages under docs/ show is what the program does."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from pages import BLOCK, PAGES, ROOT, SHELL, blocks, commands

import gp_prune
from gp_prune.cli import COMMANDS, main
from gp_prune.metric.metric import bundled_metrics

REFERENCE = ROOT / "docs" / "reference.md"
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
REASONS = ("GPU", "cluster", "download")
"""Why a block may be left out."""
MOST_LEFT_OUT = 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    with torch.random.fork_rng():
        for number, block in enumerate(blocks(page, "python"), start=1):
            exec(compile(block.text, f"{page.name}, block {number}", "exec"), names)


def anchors(page: Path) -> set[str]:
    """Return what links to a heading of a page end with."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", BLOCK.sub("", page.read_text("utf-8")))
    for target, heading in LINK.findall(text):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not heading or heading in anchors(file), f"{target}#{heading}"


def test_few_blocks_are_left_out_and_each_says_why() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        marks = re.findall("^<!-- not run", text, re.MULTILINE)
        assert len(marks) == sum(bool(block.reason) for block in blocks(page)), page
    reasons = [block.reason.partition(",")[0] for page in PAGES for block in blocks(page)]
    left_out = [reason for reason in reasons if reason]
    assert set(left_out) <= set(REASONS)
    assert len(left_out) <= MOST_LEFT_OUT
    counts = ", ".join(f"{reason} {left_out.count(reason)}" for reason in REASONS)
    guide = " ".join((ROOT / "CONTRIBUTING.md").read_text("utf-8").split())
    assert f"{len(left_out)} blocks are left out ({counts})" in guide


def test_nothing_but_marked_blocks_escapes_the_tests() -> None:
    """Commands of other programs are run by `.ci/run`; blocks of text hold no commands."""
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    for page in PAGES:
        for block in blocks(page):
            if block.reason or block.language in ("python", "py") or block.language[:1] == "{":
                continue
            if block.language in SHELL:
                for line in block.commands:
                    if not line.startswith("gp-prune "):
                        last = line.rpartition("&& ")[2]
                        assert line in script or f"readme_command '{last}'" in script, line
            else:
                assert block.language in ("", "text"), block
                assert not re.search(r"^(\$ |gp-prune |pip )", block.text, re.MULTILINE), block


def all_commands() -> dict[str, list[str]]:
    """Return the commands of all pages, also those in blocks that are left out, and of the help."""
    found = {command.line: command.words for page in PAGES for command in commands(page)}
    for name in COMMANDS:
        with click.Context(main) as context:
            epilog = getattr(main.get_command(context, name), "epilog", None) or ""
        for line in re.findall(r"^  gp-prune .*$", epilog, re.MULTILINE):
            words = shlex.split(line.partition(" > ")[0])
            found[shlex.join(words)] = words[1:]
    return found


@pytest.mark.parametrize("words", all_commands().values(), ids=all_commands().keys())
def test_commands_have_the_options_that_pages_and_help_use(words: list[str]) -> None:
    name, *arguments = words
    with click.Context(main) as context:
        command = main.get_command(context, name)
        assert command is not None
        command.make_context(name, arguments, parent=context)


def test_console_blocks_show_what_is_printed() -> None:
    shown = 0
    for page in PAGES:
        for block in blocks(page, "console"):
            for command, output in re.findall(
                r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE
            ):
                if ">" in command or not output:
                    continue
                done = CliRunner().invoke(main, shlex.split(command)[1:])
                assert done.exit_code == 0
                assert done.stdout == output
                shown += 1
    assert shown


def test_the_reference_has_every_public_name() -> None:
    listed = re.findall(r"auto(?:class|function):: gp_prune\.(\w+)", REFERENCE.read_text("utf-8"))
    assert (
        sorted([*listed, "symbols"]) == gp_prune.__all__
    )  # the module is documented by its classes
    assert "automodule:: gp_prune.language.symbols" in REFERENCE.read_text("utf-8")


def test_every_page_is_in_the_table_of_contents() -> None:
    trees = blocks(ROOT / "docs" / "index.md", "{toctree}")
    listed = {line for block in trees for line in block.text.splitlines()}
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    notebooks = {f"notebooks/{page.stem}" for page in (ROOT / "docs").glob("notebooks/*.ipynb")}
    assert pages | notebooks <= listed


def test_pictures_are_what_their_script_draws() -> None:
    folder = ROOT / "docs" / "pictures"
    drawn = runpy.run_path(str(folder / "draw.py"))["PICTURES"]
    assert {path.stem for path in folder.glob("*.svg")} == set(drawn)
    for name, draw in drawn.items():
        assert draw() == (folder / f"{name}.svg").read_text("utf-8"), "run docs/pictures/draw.py"


@pytest.mark.slow
def test_the_support_contract_is_what_the_program_does() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "support.py"))
    _, rest = (ROOT / "docs" / "support.md").read_text("utf-8").split(script["BEGIN"])
    assert rest.split(script["END"])[0] == script["table"](), "run docs/support.py"


def test_the_summary_for_programs_names_every_command() -> None:
    text = (ROOT / "docs" / "llms.txt").read_text("utf-8")
    said = re.search(r"Commands: ([^.]*)\.", text)
    assert said and set(re.findall(r"\w+", said[1])) == set(COMMANDS)


def test_the_readme_counts_the_bundled_metrics() -> None:
    said = re.search(r"(\d+) come with the package: (\d+) from", (ROOT / "README.md").read_text())
    assert said
    reference = [name for name in bundled_metrics("reference") if not name.startswith("random")]
    assert [int(number) for number in said.groups()] == [len(bundled_metrics()), len(reference)]


def test_readme_fits_on_a_screen_and_a_half() -> None:
    assert len((ROOT / "README.md").read_text("utf-8")) <= 8000
