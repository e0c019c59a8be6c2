"""What README.md and the pages under docs/ show is what the program does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from gp_prune.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    return [body for name, body in BLOCK.findall(page.read_text("utf-8")) if name == language]


def commands() -> list[str]:
    """Return every `gp-prune` command line that a page shows."""
    lines = [
        line.removeprefix("$ ")
        for page in PAGES
        for language in ("bash", "console")
        for block in blocks(page, language)
        for line in block.splitlines()
    ]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return sorted({part.split(" > ")[0] for part in parts if part.startswith("gp-prune ")})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    with torch.random.fork_rng():
        for number, block in enumerate(blocks(page, "python"), start=1):
            exec(compile(block, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", BLOCK.sub("", page.read_text("utf-8")))
    for target in LINK.findall(text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("line", commands())
def test_commands_have_the_options_that_pages_use(line: str) -> None:
    name, *arguments = shlex.split(line, comments=True)[1:]
    with click.Context(main) as context:
        command = main.get_command(context, name)
        assert command is not None
        command.make_context(name, arguments, parent=context)


def test_console_blocks_show_what_is_printed() -> None:
    shown = 0
    for page in PAGES:
        for block in blocks(page, "console"):
            for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
                if ">" in command or not output:
                    continue
                done = CliRunner().invoke(main, shlex.split(command)[1:])
                assert done.exit_code == 0
                assert done.stdout == output
                shown += 1
    assert shown


def test_readme_fits_on_a_screen_and_a_half() -> None:
    assert len((ROOT / "README.md").read_text("utf-8")) <= 8000
