"""``gp-prune genetic``: options, output, interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import gp_prune
from gp_prune.tasks import load_task

Command = Callable[..., Result]

SMALL = (
    "--population", 6, "--generations", 1, "--rounds", 1, "--elites", 2, "--epochs", 1,
    "--final-epochs", 1, "--samples", 100, "--tolerance", 0.5, "--limit", 0.5, "--workers", 1,
)  # fmt: skip


@pytest.fixture
def genetic(
    run: Callable[..., Result], task_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """Return ``genetic("lenet-digits")``, which runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    # The times are not looked at, so they need not be measured well.
    monkeypatch.setattr("gp_prune.pruning.timing._TURN_SECONDS", 0.0)
    return lambda *options: run("genetic", *options, "--cache-dir", task_cache)


def test_the_front_is_printed_drawn_and_saved(
    genetic: Command, tmp_path: Path, task_cache: Path
) -> None:
    result = genetic(*SMALL, "--quiet")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Pareto front of lenet-digits:")
    for heading in ("conv MACs", "conv time", "not zero", "CSR", "random test", "l1 test"):
        assert heading in lines[1]
    assert any(line.startswith(">>>>") for line in lines)
    folder = tmp_path / "runs" / "001"
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (folder / "front.svg").read_bytes()
    assert "Drawn in runs/001/front.png and runs/001/front.svg." in lines
    task = load_task("lenet-digits", cache_dir=task_cache)
    for network in (folder / "networks").iterdir():
        gp_prune.load_pruned(network, task.model)


def test_a_machine_reads_the_result_and_a_finished_run_says_it_again(
    genetic: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = genetic("lenet-digits", *SMALL, "--json", "--quiet", "--no-baselines", "--no-plot")
    data = json.loads(first.stdout)
    assert data["split"] == "test"
    assert data["baselines"] == {}
    assert not (tmp_path / "runs" / "001" / "front.png").exists()
    written = {path: path.read_bytes() for path in Path("runs/001").rglob("*") if path.is_file()}
    monkeypatch.setattr("gp_prune.genetic.run.prune_genetically", None)
    again = genetic("--resume", "runs/001", "--json", "--quiet", "--no-plot")
    assert json.loads(again.stdout) == data
    assert {path: path.read_bytes() for path in written} == written
    monkeypatch.setenv("COLUMNS", "80")
    table = genetic("--resume", "runs/001", "--quiet", "--no-plot").stdout
    assert max(map(len, table.split("error rate on")[0].splitlines())) <= 80
    for point in data["front"]:
        assert f"{100 * point['report_error']:.2f} %" in table and point["name"] in table
    assert "…" not in table
    report = tmp_path / "runs" / "001" / "result.json"
    report.write_text(report.read_text().replace('"report_error": ', '"report_error": "a", "x": '))
    refused = genetic("--resume", "runs/001", "--no-plot")
    assert refused.exit_code == 2 and "cannot be read" in refused.stderr


def test_an_interrupt_while_it_draws_says_how_to_go_on(
    genetic: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(report: object, path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gp_prune.report.plots.plot_front", interrupted)
    result = genetic("lenet-digits", *SMALL, "--quiet", "--no-baselines", "--plot")
    assert result.exit_code == 130
    assert "go on with: gp-prune genetic --resume runs/001" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pareto", "--lambda-error", 1), "--pareto keeps the objectives apart"),
        (("--lambda-macs", -1), "lambdas holds -1.0; it must be a number, at least 0"),
        (("--granularity", "filter"), "granularity is 'filter'"),
        (("--selection", "roulette"), "give lambdas with these alone"),
        (("--mutation", "nothing"), "unknown metric 'nothing'"),
        (("--temperature", -1), "temperature is -1.0; it must be a number, at least 0"),
        (("--mutation", "random", "--temperature", 1), "--temperature is of metrics; leave it"),
        (("lenet-digit",), "unknown model 'lenet-digit'; did you mean 'lenet-digits'?"),
        (("torchvision:resnet18",), "need data; name a data set or a folder of images"),
        (("--resume", "nowhere"), "is not a run folder"),
        (("--resume", "nowhere", "--seed", 1), "--resume takes all settings from the run folder"),
        (("lenet-digits", "--weights", "x"), "is a task with its own weights"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    genetic: Command, options: tuple[object, ...], words: str
) -> None:
    result = genetic(*options)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if "error" in line]
    assert words in line
    assert "Traceback" not in result.output


def test_an_own_network_with_images(genetic: Command, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    nn = torch.nn\n"
        "    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2),\n"
        "                         nn.Flatten(), nn.Linear(24, 10)), torch.zeros(1, 1, 8, 8)\n"
    )
    result = genetic(
        "net.py:build", "--data", "digits", *SMALL, "--mutation", "random", "--mutation", "l2",
        "--lambda-error", 1, "--lambda-sparsity", 2, "--no-plot", "--no-baselines", "--out", "o",
        "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "error rate on the validation samples" in result.stdout
    # The run goes on from another folder, because it knows the file by its whole path.
    config = (tmp_path / "o" / "config.toml").read_text()
    assert f'model = "{tmp_path / "net.py"}:build"' in config


def test_names_go_before_folders_that_are_called_so(genetic: Command, tmp_path: Path) -> None:
    for name in ("lenet-digits", "digits", "random", "l1", "magnitude"):
        (tmp_path / name).mkdir()
    result = genetic(
        "lenet-digits", "--data", "digits", "--mutation", "random", "--mutation", "l1",
        "--mutation", "magnitude", *SMALL, "--no-plot", "--no-baselines", "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.output


def test_without_matplotlib_a_sentence_says_what_is_missing(
    genetic: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = genetic("--plot")
    assert result.exit_code == 2
    assert "pip install 'gp-prune[plot]', or leave the plot out with --no-plot" in result.stderr
    result = genetic(*SMALL, "--quiet", "--no-baselines")
    assert result.exit_code == 0
    assert "warning: a plot needs matplotlib" in result.stderr


def wait_for_turns(journal: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not journal.exists() or journal.read_text().count('"event": "turn"') < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_an_interrupt_leaves_the_front_so_far(
    tmp_path: Path, task_cache: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "run"
    options = ("--cache-dir", task_cache, "--out", folder, "--quiet", "--workers", 2)
    with started("genetic", *options, "--rounds", 200) as process:
        try:
            wait_for_turns(folder / "journal.jsonl", 3, process)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=600)
        finally:
            process.kill()
    assert process.returncode == 130
    assert output.startswith("Pareto front so far")
    (sentence,) = errors.splitlines()
    assert sentence.startswith("gp-prune: interrupted in round 1 of 200; go on with: gp-prune ")
    assert sentence.endswith(f"genetic --resume {folder} --cache-dir {task_cache}")


@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_one_that_was_not(
    tmp_path: Path, task_cache: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    options = (
        "--cache-dir", task_cache, "--quiet", "--json", "--no-plot", "--rounds", 3, "--workers", 2,
        "--population", 12, "--generations", 4, "--epochs", 1, "--final-epochs", 2,
    )  # fmt: skip

    def result(*more: object) -> Any:
        with started("genetic", *more) as process:
            output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        data = json.loads(output)
        del data["folder"]
        for points in (data["front"], [data["dense"]], *data["baselines"].values()):
            for point in points:
                for field in [name for name in point if name.startswith("conv_time")]:
                    del point[field]
        return data

    whole = result(*options, "--out", tmp_path / "whole")
    folder = tmp_path / "cut"
    for turns in (2, 7, 12):
        target = ("--resume", folder) if (folder / "config.toml").exists() else ("--out", folder)
        given = options if target[0] == "--out" else (
            "--cache-dir", task_cache, "--quiet", "--json", "--no-plot", "--workers", 1
        )  # fmt: skip
        with started("genetic", *given, *target) as process:
            try:
                wait_for_turns(folder / "journal.jsonl", turns, process)
            finally:
                process.kill()
    last = ("--cache-dir", task_cache, "--quiet", "--json", "--no-plot", "--workers", 2)
    assert result(*last, "--resume", folder) == whole
