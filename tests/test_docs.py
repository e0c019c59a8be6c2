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

import gp_prune
from gp_prune.cli import main
from gp_prune.metric.metric import bundled_metrics

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*|\{[\w-]+\})\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REFERENCE = ROOT / "docs" / "reference.md"
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    return blocks_of(page.read_text("utf-8"), language)


def blocks_of(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a text in one language."""
    return [body for name, body in BLOCK.findall(text) if name == language]


def commands() -> list[str]:
    """Return every `gp-prune` command line that a page shows."""
    lines = [
        line.removeprefix("$ ")
        for page in PAGES
        for language in ("bash", "console")
        for block in blocks(page, language)
        for line in block.replace("\\\n", " ").splitlines()
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


def test_few_blocks_of_code_are_not_run() -> None:
    left_out = [
        (page.name, body)
        for page in PAGES
        for mark, language, body in re.findall(
            r"(<!-- not run: \w.* -->\n)?```(py|bash)\n(.*?)^```$",
            page.read_text("utf-8"),
            re.MULTILINE | re.DOTALL,
        )
        if mark or language == "py"
    ]
    assert len(left_out) <= 3, left_out


ELSEWHERE = re.compile(r"runs/|my_|hf:|images|faces|mnist|HOST|pydoc|timm:|torchvision:|mine=")
"""What a command needs that a checkout lacks, or that takes long."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        line
        for line in commands()
        if line.split()[1] in ("apply", "compare", "evaluate", "latex", "list", "show")
        and not ELSEWHERE.search(line)
    ],
)
def test_commands_on_built_in_networks_run(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, shlex.split(line, comments=True)[1:])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip()


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


def test_the_reference_has_every_public_name() -> None:
    listed = re.findall(r"auto(?:class|function):: gp_prune\.(\w+)", REFERENCE.read_text("utf-8"))
    assert (
        sorted([*listed, "symbols"]) == gp_prune.__all__
    )  # the module is documented by its classes
    assert "automodule:: gp_prune.language.symbols" in REFERENCE.read_text("utf-8")


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    listed = {line for block in blocks_of(index, "{toctree}") for line in block.splitlines()}
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


def test_the_readme_counts_the_bundled_metrics() -> None:
    said = re.search(r"(\d+) come with the package: (\d+) from", (ROOT / "README.md").read_text())
    assert said
    reference = [name for name in bundled_metrics("reference") if not name.startswith("random")]
    assert [int(number) for number in said.groups()] == [len(bundled_metrics()), len(reference)]


def test_readme_fits_on_a_screen_and_a_half() -> None:
    assert len((ROOT / "README.md").read_text("utf-8")) <= 8000
