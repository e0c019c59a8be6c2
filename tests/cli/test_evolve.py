"""Options of ``gp-prune evolve``, and what an interrupt leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import Result

from gp_prune.cli.evolve import _next_model
from gp_prune.runs.journal import NAME as JOURNAL
from gp_prune.search.archive import Candidate
from gp_prune.search.config import SearchConfig
from gp_prune.search.stored import FrontSoFar

SMALL = SearchConfig(
    validate_on=(),
    tasks=("lenet-digits",),
    population=4,
    generations=3,
    ladder=(0.4,),
    budgets=(0.4,),
    fine_tune_steps=2,
    final_steps=2,
    final_seeds=1,
    front_size=3,
    calibration=64,
)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--strategy", "anneal"), "strategy is 'anneal'; it must be one of evolve, random"),
        (("--max-evaluations", "-1"), "max_evaluations is -1"),
        (("--time-limit", "-1"), "time_limit is -1.0"),
        (("--stall", "-1"), "stall is -1"),
        (("--tasks", ""), "--tasks is '', where a name is empty; write names separated by commas"),
        (("--tasks", "lenet-digits,,cnn-digits"), "where a name is empty"),
        (("--resume", "one", "--reuse", "other"), "leave out --reuse, or begin a new run"),
        (
            ("--resume", "one", "--seed", "1"),
            "leave the others out (only --comparison, --final-seeds, --finalists, --generations, "
            "--max-evaluations, --reduce-within-noise, --stall, --time-limit may be given)",
        ),
        (("--resume", "one", "--generations", "9"), "'one' is not a run folder"),
        (("--tasks", "lenet-digits", "--leave-one-out"), "there must be two tasks or more"),
        (("--validate-on", "lenet-digits"), "but is there twice or among the tasks of the search"),
        (("--max-memory", "2"), "max_memory (--max-memory) is '2', which has no unit"),
        (("--calibration", "0"), "calibration is 0; it must be a whole number, at least 1"),
        (("--objectives", "error,macks"), "objective 'macks' is unknown (did you mean 'macs'?)"),
        (("--objectives", "error,,macs"), "objectives is 'error,,macs', where a name is empty"),
        (("--budget-kind", "flops"), "budget_kind holds 'flops'; it must be one of channels, macs"),
        (("--start-formula", "no_such_metric"), "no_such_metric"),
        (("--seed", "-1"), "seed is -1; it must be a whole number from 0 to"),
    ],
)
def test_wrong_rules_are_refused(
    run: Callable[..., Result], options: tuple[str, ...], words: str
) -> None:
    result = run("evolve", *options)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.slow
def test_an_interrupt_after_the_first_front_was_written_says_so(
    run: Callable[..., Result], tmp_path: Path, task_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: FrontSoFar, front: Sequence[Candidate]) -> None:
        original(self, front)
        raise KeyboardInterrupt

    original = FrontSoFar.write
    monkeypatch.setattr(FrontSoFar, "write", write)
    (tmp_path / "settings.toml").write_text(SMALL.to_toml())
    result = run(
        "evolve", "--config", tmp_path / "settings.toml", "--out", tmp_path / "run", "--workers", 1,
        "--cache-dir", task_cache, "--quiet",
    )  # fmt: skip
    assert result.exit_code == 130
    front = tmp_path / "run" / "front.csv"
    assert f"interrupted with the front so far in {front}; go on with: " in result.stderr
    assert front.is_file()


def test_tensorboard_is_looked_for_before_anything_is_done(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    result = run("evolve", "--tensorboard", tmp_path / "logs", "--out", tmp_path / "run")
    assert result.exit_code == 2 and "pip install 'gp-prune[tensorboard]'" in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_help_says_which_rule_makes_runs_differ(run: Callable[..., Result]) -> None:
    text = " ".join(run("evolve", "--help").output.split())
    assert "the one rule by which equal runs may differ" in text
    for option in ("--strategy", "--max-evaluations", "--stall", "--reuse"):
        assert option in text


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupt_leaves_the_front_so_far(
    tmp_path: Path,
    task_cache: Path,
    started: Callable[..., subprocess.Popen[str]],
    as_json: bool,
) -> None:
    """The run ends at once with what it has, says in one sentence how it goes on, and exits 130."""
    settings = tmp_path / "settings.toml"
    settings.write_text(SMALL.to_toml().replace("generations = 3", "generations = 400"))
    folder = tmp_path / "run"
    options = ["--config", settings, "--out", folder, "--cache-dir", task_cache, "--workers", 2]
    if as_json:
        options.append("--json")
    with started("evolve", *options, "--quiet") as process:
        try:
            deadline = time.monotonic() + 600
            journal = folder / JOURNAL
            # The first generation is reported when the second one is in the journal.
            while not journal.exists() or journal.read_bytes().count(b'"assessed"') < 2:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=600)
        finally:
            process.kill()
    assert process.returncode == 130
    (sentence,) = errors.splitlines()
    assert sentence.startswith("gp-prune: interrupted after generation ")
    command = f"gp-prune evolve --resume {folder} --cache-dir {task_cache}"
    assert sentence.endswith(f"go on with: {command}")
    if as_json:
        assert json.loads(output)["interrupted"] and json.loads(output)["front"]
    else:
        assert output.startswith("Pareto front so far")


@pytest.mark.parametrize(
    ("tasks", "model"),
    [
        (("llama-pydoc", "gpt-pydoc"), "llama-pydoc"),
        (("lenet-mnist", "cnn-digits"), "cnn-digits"),
        (("lenet-mnist",), "lenet-digits"),  # which needs no files
        (("cnn-digits", "my_model.py:build"), "my_model.py:build"),
    ],
)
def test_the_next_command_is_about_a_network_of_the_search(
    tasks: tuple[str, ...], model: str
) -> None:
    assert _next_model(tasks) == model
