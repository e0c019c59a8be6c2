"""Options of ``gp-prune evolve``, and what an interrupt leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gp_prune.search.config import SearchConfig

SMALL = SearchConfig(
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
        (("--tasks", ""), "--tasks is '', where a name is empty; write names such as lenet-digits"),
        (("--tasks", "lenet-digits,,cnn-digits"), "where a name is empty"),
        (("--resume", "one", "--reuse", "other"), "leave out --reuse, or begin a new run"),
        (("--max-memory", "2"), "max_memory (--max-memory) is '2', which has no unit"),
        (("--calibration", "0"), "calibration is 0; it must be a whole number, at least 1"),
        (("--seed", "-1"), "seed is -1; it must be a whole number from 0 to"),
    ],
)
def test_wrong_rules_are_refused(
    run: Callable[..., Result], options: tuple[str, ...], words: str
) -> None:
    result = run("evolve", *options)
    assert result.exit_code == 2
    assert words in result.output


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
            deadline = time.monotonic() + 240
            while not (folder / "front.csv").exists():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
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
