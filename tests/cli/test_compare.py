"""Options and output of ``gp-prune compare``."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def finished(task_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small comparison."""
    from click.testing import CliRunner

    from gp_prune.cli import main

    folder = tmp_path_factory.mktemp("compare") / "run"
    arguments = [
        "compare", "bn_scale", "between=var[c](muP) * sum[j](V^2)", "--on", "lenet-digits",
        "--keep", "0.7,0.4", "--budget-kind", "macs,params", "--calibration", "64",
        "--workers", "1", "--cache-dir", str(task_cache), "--out", str(folder), "--quiet",
    ]  # fmt: skip
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return folder


def test_tables_fit_80_columns(
    run: Run, finished: Path, task_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = shutil.copytree(finished, tmp_path / "not ended")
    (folder / "result.json").unlink()
    result = run("compare", "--resume", folder, "--workers", "1", "--cache-dir", task_cache)
    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("In ")) <= 80
    assert lines[0] == "Errors on the validation split, right after pruning"
    assert any(line.startswith("Allocation uniform: the same share") for line in lines)
    assert any(line.startswith("bn_scale: worst error in 8 cells") for line in lines)
    assert "between = mul(var[c](muP), sum[j](square(V)))" in lines
    assert "scoring: 4/4" in result.stderr
    assert (folder / "result.json").read_bytes() == (finished / "result.json").read_bytes()


def test_the_result_is_printed_in_other_forms(run: Run, finished: Path, task_cache: Path) -> None:
    common = ("compare", "--resume", finished, "--workers", "1", "--cache-dir", task_cache,
              "--quiet")  # fmt: skip
    data = json.loads(run(*common, "--json").stdout)
    assert data["folder"] == str(finished)
    assert {row["name"] for row in data["standings"]} == {"bn_scale", "between", "random", "l1"}
    rows = list(csv.DictReader((finished / "records.csv").read_text().splitlines()))
    assert len(rows) == len(data["records"])
    latex = run(*common, "--latex").stdout
    assert latex.count(r"\begin{tabular}{lrrrrrr}") == 2
    assert r"bn\_scale" in latex and r"\textbf{" in latex


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "no task is named; name at least one with --on"),
        (("l1",), "no task is named"),
        (("--on", "lenet-digits"), "no metric is named"),
        (("l1", "--on", "lenet-digits", "--json", "--csv"), "give one of them"),
        (("l1", "--on", "lenet-digits", "--fine-tune", "long"), "none of none, short and a number"),
        (("l1", "--on", "lenet-digits", "--keep", "1.5"), "keep holds 1.5"),
        (("l1", "--on", "lenet-digits", "--seeds", "0"), "seeds is 0"),
        (("l1", "--resume", "somewhere"), "--resume takes all settings from the run folder"),
        (("nothing", "--on", "lenet-digits"), "nothing"),
        (("l1", "--on", "nothing"), "unknown task 'nothing'"),
    ],
)
def test_mistakes_are_one_sentence(run: Run, options: tuple[str, ...], words: str) -> None:
    result = run("compare", *options)
    assert result.exit_code == 2
    assert words in result.stderr
