"""Every command of README.md and docs/ runs, on small files and with small settings.

The arguments that are added are options that everybody has; they only make a command shorter.
"""

from __future__ import annotations

import importlib
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="the pages need gp-prune[test]")
from pages import PAGES, ROOT, Command, blocks, commands
from reader_folder import SMALL_SEARCH, Caches, run_command

SMALL = {
    "compare": ["--keep", "0.5"],
    "genetic": [
        "--population", "6", "--generations", "1", "--rounds", "1", "--elites", "1",
        "--epochs", "1", "--removal-epochs", "1", "--points", "1", "--final-epochs", "1",
    ],
    "autoencode": ["--epochs", "2", "--limit", "60",],
}  # fmt: skip
"""What makes the commands short."""

WITH_COMMANDS = [page for page in PAGES if any(commands(page, run=True))]


def shortened(command: Command) -> list[str]:
    """Return the words of a command with small settings; of an option the last value counts."""
    name, *words = command.words
    if name == "evolve":
        if "--resume" in words:
            return [name, *words, *(["--generations", "2"] if "--generations" in words else [])]
        small = [*SMALL_SEARCH]
        if "--leave-one-out" in words:
            small.remove("--no-comparison")  # which would leave nothing to print
        if any("pydoc" in word for word in words):
            small += ["--max-evaluations", "2"]
        return [name, *words, *small, "--final-seeds", "1"]
    if name == "apply":
        image_net = words[1].startswith(("torchvision:", "timm:")) and "--data" in words
        return [
            name, *words, *(["--samples", "8"] if image_net else []),
            *(["--epochs", "1"] if "--epochs" in words else []),
        ]  # fmt: skip
    return [name, *words, *SMALL.get(name, [])]


def with_a_name(word: str) -> str:
    """Put the name of a metric of the run into ``runs/RUN/metrics/NAME.json``."""
    if not word.endswith("/NAME.json"):
        return word
    return str(sorted(Path(word).parent.glob("*.json"))[0])


@pytest.fixture
def copied(reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the reader, in which the test may write, as the current one."""
    shutil.copytree(reader, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("click.launch", lambda url: 0)  # `report --open` opens nothing
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_commands_run_one_after_the_other(page: Path, copied: Path, caches: Caches) -> None:
    for command in commands(page, run=True):
        words = list(map(with_a_name, shortened(command)))
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("default")  # a person sees them as lines
            try:
                done = run_command(words, caches)
            except BaseException as error:
                error.add_note(f"{page.name}: {command.line}")
                raise
        assert done.stdout.strip(), command.line
        if command.output:
            Path(command.output).write_text(done.stdout, "utf-8")


@pytest.mark.slow
def test_the_search_in_python_runs(
    copied: Path, caches: Caches, capsys: pytest.CaptureFixture[str]
) -> None:
    """The block that takes longest, with a smaller search; its network has four classes."""
    page = ROOT / "docs" / "evolve.md"
    model, x = importlib.import_module("my_model").build()
    names: dict[str, Any] = {"model": model, "x": x}
    before, *_ = blocks(page, "python")
    exec(compile(before.text, page.name, "exec"), names)
    from gp_prune import TaskSource

    names["search"].set_params(
        tasks=["lenet-digits"], population=4, generations=1, source=TaskSource(caches.full),
        settings=dict(
            comparison=False, no_start_formulas=True, calibration=64, exclude=("data",)
        ),
    )  # fmt: skip
    (block,) = blocks(page, "py")
    text, replaced = re.subn("generations=40", "generations=2", block.text)
    assert replaced == 1
    exec(compile(text, page.name, "exec"), names)
    assert names["search"].front_.shape[0] > 0
