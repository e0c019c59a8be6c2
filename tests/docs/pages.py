"""Read the blocks of code and the commands that README.md and the pages under docs/ show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = ("bash", "console")
BLOCK = re.compile(
    r"^(?:<!-- not run: ([^\n]*) -->\n)?```(\w*|\{[\w-]+\})\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
"""A block of code: why it is not run, its language and its text."""


class Block(NamedTuple):
    """A block of code of a page.

    Attributes:
        page: the file.
        reason: why it is not run; empty where it is.
        language: what stands after the fence.
        text: the code.
    """

    page: Path
    reason: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Return the command lines of a block of a shell, without what they print."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line.strip() for line in lines if line.strip()]


class Command(NamedTuple):
    """A command of gp-prune.

    Attributes:
        words: the command and its arguments, without ``gp-prune``.
        output: the file that its output goes to; empty for the screen.
    """

    words: list[str]
    output: str = ""

    @property
    def line(self) -> str:
        """Return the command as it is typed."""
        return shlex.join(["gp-prune", *self.words])


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the fenced blocks of a page in some languages, or all of them."""
    found = [Block(page, *match) for match in BLOCK.findall(page.read_text("utf-8"))]
    return [block for block in found if not languages or block.language in languages]


def commands(page: Path, *, run: bool = False) -> Iterator[Command]:
    """Yield every `gp-prune` command that a page shows; with ``run`` those that are not marked."""
    for block in blocks(page, *SHELL):
        for line in block.commands if not (run and block.reason) else ():
            if run and line.startswith("pip install"):
                continue  # `.ci/run` runs the whole line
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                if words[:1] == ["gp-prune"]:
                    output = words[words.index(">") + 1] if ">" in words else ""
                    yield Command(words[1 : words.index(">") if output else None], output)
