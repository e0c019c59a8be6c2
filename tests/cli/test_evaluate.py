"""Options, output and exit codes of ``gp-prune evaluate``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]


def test_the_table_fits_80_columns(
    run: Run, task_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run(
        "evaluate", "sum[i,k](abs(W))", "--on", "lenet-digits", "--keep", "0.5,0.3",
        "--budget-kind", "macs,params", "--calibration", "64", "--cache-dir", task_cache,
    )  # fmt: skip
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("lenet-digits") for line in lines) == 4
    assert any(line.startswith("objectives: error 0.") for line in lines)


@pytest.mark.parametrize(
    ("formula", "status", "code"),
    [("sum[i,k](abs(W))", "ok", 0), ("gamma - gamma", "degenerate", 3), ("sum[i](W", "invalid", 4)],
)
def test_json_and_exit_code_say_what_a_formula_is(
    run: Run, task_cache: Path, formula: str, status: str, code: int
) -> None:
    result = run(
        "evaluate", formula, "--on", "lenet-digits", "--keep", "0.5", "--calibration", "64",
        "--cache-dir", task_cache, "--json", "--quiet",
    )  # fmt: skip
    data = json.loads(result.stdout)
    assert (data["status"], result.exit_code) == (status, code)
    if status == "ok":
        assert data["objectives"]["size"] == 3
        assert not result.stderr
    else:
        assert data["reason"] in result.stderr


def test_a_pair_shows_what_divides_the_budget(run: Run, task_cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "pair.json"
    assert run("pair", "l1", "l2", "--out", str(file)).exit_code == 0
    words = ("--on", "lenet-digits", "--keep", "0.5", "--cache-dir", task_cache)
    lines = run("evaluate", str(file), *words, "--calibration", "64").stdout.splitlines()
    assert lines[:3] == [
        "sum[i,k](abs(W))", "ranks channels: those of each layer",
        "shares of the layers by l2[i,k](W)",
    ]  # fmt: skip


def test_the_shares_may_be_given_beside_the_formula(run: Run, task_cache: Path) -> None:
    words = ("--on", "lenet-digits", "--keep", "0.5", "--cache-dir", task_cache)
    given = ("--calibration", "64", "--allocation", "sqrt(depth)")
    lines = run("evaluate", "l1", *words, *given).stdout.splitlines()
    assert lines[2:4] == [
        "shares of the layers by sqrt(depth)",
        "needs network: the place of each layer in the traced network",
    ]
    result = run("evaluate", "depth", *words)
    assert result.exit_code == 4 and "gives the share of each layer" in result.stderr


def test_the_task_is_not_loaded_for_an_invalid_formula(run: Run) -> None:
    assert run("evaluate", "W +", "--on", "no-such-task").exit_code == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "Missing option '--on'"),
        (("--on", "no-such-task"), "unknown task 'no-such-task'"),
        (("--on", "lenet-digits", "--keep", "half"), "'half' is no list of shares"),
        (
            ("--on", "lenet-digits", "--keep", "2"),
            "keep (--keep) is 2.0; it must be a",
        ),
        (
            ("--on", "lenet-digits", "--keep", "0.5,nan"),
            "keep (--keep) is nan; it must be",
        ),
        (("--on", "lenet-digits", "--budget-kind", "flops"), "budget_kind holds 'flops'"),
    ],
)
def test_other_mistakes_have_the_exit_code_of_all_commands(
    run: Run, options: tuple[str, ...], words: str
) -> None:
    result = run("evaluate", "l1", *options)
    assert result.exit_code == 2
    assert words in result.stderr
