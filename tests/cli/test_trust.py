"""A run folder or a settings file runs no Python file that the command line does not name."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gp_prune.runs.folder import CONFIG
from gp_prune.runs.journal import NAME
from gp_prune.runs.journal_lines import seal
from gp_prune.search.evaluation import EVALUATION_VERSION
from gp_prune.statistics.coverage import STATISTICS_VERSION

Run = Callable[..., Result]

CASES = [
    ("evolve", "primitives = [{file}]"),
    ("evolve", 'tasks = ["{raw}:build"]'),
    ("genetic", "primitives = [{file}]"),
    ("genetic", 'model = "{raw}:build"\ndata = "digits"'),
    ("autoencode", 'primitives = [{file}]\noperator = "l1"'),
]
cases = pytest.mark.parametrize(("command", "settings"), CASES)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A Python file that leaves a mark where it is run, and then fails."""
    file = tmp_path / "a file.py"
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise ValueError('it ran')\n")
    return file


def sha256(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def folder_of(tmp_path: Path, settings: str, file: Path, digest: str) -> Path:
    """A run folder as somebody may hand it around."""
    folder = tmp_path / "received"
    folder.mkdir()
    text = settings.format(file=repr(str(file)), raw=file)
    (folder / CONFIG).write_text(text)
    (folder / NAME).write_bytes(header([f"{file.name} {digest}"]))
    return folder


def header(code: object) -> bytes:
    """The first line of a journal."""
    return seal(
        {
            "event": "begin",
            "run": {
                "python_files": code,
                "statistics": STATISTICS_VERSION,
                "objectives": [],
                "evaluation": EVALUATION_VERSION,
            },
        }
    )


@cases
def test_a_received_run_folder_runs_nothing_unasked(
    run: Run, tmp_path: Path, evil: Path, command: str, settings: str
) -> None:
    folder = folder_of(tmp_path, settings, evil, sha256(evil))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = run(command, "--resume", folder)
    assert result.exit_code == 2
    assert not (tmp_path / "ran").exists()
    (sentence,) = result.stderr.splitlines()
    assert repr(str(evil)) in sentence and sha256(evil) in sentence
    assert sentence.endswith(f"name it with --trust {shlex.quote(str(evil))}")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    other = tmp_path / "other.py"
    other.touch()
    assert run(command, "--resume", folder, "--trust", other).exit_code == 2
    assert not (tmp_path / "ran").exists()


@cases
@pytest.mark.parametrize("option", ["--trust", "--primitives"])
def test_a_file_that_is_named_is_run_if_it_is_the_one_of_the_run(
    run: Run, tmp_path: Path, evil: Path, command: str, settings: str, option: str
) -> None:
    folder = folder_of(tmp_path, settings, evil, "sha256:0")
    result = run(command, "--resume", folder, option, evil)
    assert result.exit_code == 2
    assert "changed since the run was begun" in result.stderr
    assert not (tmp_path / "ran").exists(), "the digest is looked at first"
    (folder / NAME).write_bytes(header([f"{evil.name} {sha256(evil)}"]))
    result = run(command, "--resume", folder, option, evil, "--quiet")
    assert result.exit_code == 2
    assert "ValueError: it ran" in result.stderr
    assert (tmp_path / "ran").exists()


@cases
def test_a_settings_file_runs_nothing_unasked(
    run: Run, tmp_path: Path, evil: Path, command: str, settings: str
) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(settings.format(file=repr(str(evil)), raw=evil))
    call = (command, "--config", config, "--out", tmp_path / "run", "--quiet")
    result = run(*call)
    assert result.exit_code == 2
    assert not (tmp_path / "ran").exists()
    assert sha256(evil) in result.stderr and "--trust" in result.stderr
    result = run(*call, "--trust", evil)
    assert "ValueError: it ran" in result.stderr
    assert (tmp_path / "ran").exists()


def test_what_the_command_line_gives_is_trusted(run: Run, tmp_path: Path, evil: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text('primitives = ["theirs.py"]\nmodel = "theirs.py:build"\n')
    result = run(
        "genetic", f"{evil}:build", "--data", "digits", "--config", config,
        "--primitives", evil, "--out", tmp_path / "run", "--quiet",
    )  # fmt: skip
    assert "ValueError: it ran" in result.stderr


@pytest.mark.parametrize("where", [(), ("--config",), ("--resume",)])
def test_trust_in_what_is_not_run_is_refused(
    run: Run, tmp_path: Path, evil: Path, where: tuple[str, ...]
) -> None:
    folder = folder_of(tmp_path, "seed = 1", evil, "")
    target = {"--config": folder / CONFIG, "--resume": folder}
    words = [word for option in where for word in (option, target[option])]
    result = run("evolve", *words, "--trust", evil)
    assert result.exit_code == 2
    assert f"does not run {str(evil)!r}" in result.stderr
    assert not (tmp_path / "ran").exists()


def test_a_journal_that_hides_what_is_run_is_refused(run: Run, tmp_path: Path, evil: Path) -> None:
    folder = folder_of(tmp_path, CASES[0][1], evil, "")
    hiding: list[object] = [[], "text", None]
    for code in hiding:
        (folder / NAME).write_bytes(header(code))
        result = run("evolve", "--resume", folder, "--trust", evil)
        assert result.exit_code == 2 and "run other files" in result.stderr
        assert not (tmp_path / "ran").exists()


def test_reuse_runs_nothing_of_the_other_run(run: Run, tmp_path: Path, evil: Path) -> None:
    folder = folder_of(tmp_path, CASES[0][1], evil, sha256(evil))
    result = run("evolve", "--reuse", folder, "--tasks", "none", "--out", tmp_path / "run")
    assert result.exit_code == 2 and not (tmp_path / "ran").exists()


def test_skipping_is_decided_when_a_run_is_resumed(run: Run, tmp_path: Path) -> None:
    result = run("evolve", "--skip-lost", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "--skip-lost is for a run that is resumed" in result.stderr


def test_a_device_in_the_place_of_code_is_not_read(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    for file in ("/dev/zero", str(tmp_path / "pipe.py")):
        (tmp_path / "settings.toml").write_text(f"primitives = [{file!r}]")
        result = run("evolve", "--config", tmp_path / "settings.toml", "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert "not readable: it is a pipe or a device, not a regular file" in result.stderr
