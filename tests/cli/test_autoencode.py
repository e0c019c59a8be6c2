"""``gp-prune autoencode`` from the outside."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gp_prune import AutoencodeSettings, autoencode
from gp_prune.autoencoder import run as whole
from gp_prune.autoencoder.population import GenerationReport
from gp_prune.errors import UserError

Run = Callable[..., Result]

QUICK = (
    "--epochs", 3, "--workers", 1, "--batch-size", 9, "--probability", 1, "--schedule", "fixed",
)  # fmt: skip
FAST = (*QUICK, "--cells", 2, "--samples", 20)


@pytest.fixture
def data(tmp_path: Path) -> str:
    random = np.random.RandomState(0)
    path = tmp_path / "own.npz"
    np.savez(path, inputs=random.rand(40, 1, 4, 3), labels=np.arange(40) % 2)
    return str(path)


@pytest.fixture
def run(run: Run) -> Run:
    """``run("--epochs", 3)``: the result of ``gp-prune autoencode``."""
    return lambda *arguments: run("autoencode", *arguments)


def test_a_run_prints_its_cells_and_draws(run: Run, data: str, tmp_path: Path) -> None:
    result = run("--data", data, *FAST, "--out", tmp_path / "run")
    assert result.exit_code == 0
    assert ">>>>" in result.stdout
    assert "weights zero" in result.stdout and "mean L1" in result.stdout
    assert "epoch 3/3: validation loss" in result.stderr
    for name in ("curves", "reconstructions"):
        assert (tmp_path / "run" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "run" / f"{name}.svg").read_text()


def test_tensorboard_follows_a_run_and_changes_no_byte(run: Run, data: str, tmp_path: Path) -> None:
    arguments = ("--data", data, *FAST, "--no-plot", "--quiet")
    for name, more in (("alone", ()), ("followed", ("--tensorboard", tmp_path / "logs"))):
        assert run(*arguments, *more, "--out", tmp_path / name).exit_code == 0
    alone, followed = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in files(tmp_path / name)}
        for name in ("alone", "followed")
    )
    assert followed == alone
    (events,) = (tmp_path / "logs" / "followed").iterdir()
    read = EventAccumulator(str(events))
    read.Reload()
    assert [event.step for event in read.Scalars("validation_loss/best")] == [1, 2, 3]
    ended = run("--resume", tmp_path / "followed", "--tensorboard", tmp_path / "logs", "--no-plot")
    assert "the run had ended before, so nothing was written for TensorBoard" in ended.stderr


def files(folder: Path) -> list[Path]:
    """All files of a run but its times, and the page that shows them."""
    passing = ("spent.json", "report.html")
    return [p for p in folder.rglob("*") if p.is_file() and p.name not in passing]


@pytest.mark.parametrize("mode", ["canonical", "coevolve"])
def test_json_is_one_object_and_a_finished_run_says_it_again(
    run: Run, data: str, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = ("--cells", 2) if mode == "coevolve" else ()
    arguments = ("--data", data, *QUICK, *cells, "--mode", mode, "--json", "--quiet", "--no-plot")
    result = run(*arguments, "--operator", "random", "--out", tmp_path / "run")
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert report["settings"]["mode"] == mode
    assert report["pruning_events"] == (3 if mode == "canonical" else 6)
    assert report["plots"] == []
    stored = json.loads((tmp_path / "run" / "result.json").read_text())
    assert stored["test_l1"] == report["test_l1"]
    monkeypatch.setattr("gp_prune.autoencoder.run.autoencode", None)
    again = run("--resume", tmp_path / "run", "--json", "--quiet", "--no-plot")
    assert json.loads(again.stdout) == report


@pytest.mark.slow
def test_equal_runs_leave_equal_files(run: Run, data: str, tmp_path: Path) -> None:
    contents = []
    timed = ("spent.json", "report.html")  # these say the time that was taken
    for name in ("one", "two"):
        assert run("--data", data, *FAST, "--out", tmp_path / name, "--quiet").exit_code == 0
        contents.append(
            {
                str(p.relative_to(tmp_path / name)): p.read_bytes()
                for p in (tmp_path / name).rglob("*")
                if p.is_file() and p.name not in timed
            }
        )
    assert contents[0] == contents[1]


def test_an_interrupt_while_it_draws_says_how_to_go_on(
    run: Run, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(result: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gp_prune.report.plots.write_plots", interrupted)
    result = run("--data", data, *FAST, "--out", tmp_path / "run", "--plot")
    assert result.exit_code == 130
    assert "interrupted after epoch 3 of 3; go on with: gp-prune autoencode" in result.stderr


def test_an_interrupted_run_says_how_to_go_on_and_does(
    run: Run, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(settings: AutoencodeSettings | None, folder: Path, **options: Any) -> None:
        def progress(now: GenerationReport) -> None:
            options["progress"](now)
            if now.number == 2:
                raise KeyboardInterrupt

        autoencode(settings, folder, workers=1, progress=progress)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(whole, "autoencode", interrupted)
        result = run("--data", data, *FAST, "--out", folder, "--quiet", "--json", "--no-plot")
    assert result.exit_code == 130
    assert json.loads(result.stdout)["epoch"] == 2
    assert f"after epoch 2 of 3; go on with: gp-prune autoencode --resume {folder}" in result.stderr
    assert run("--resume", folder, "--quiet", "--no-plot").exit_code == 0
    assert (folder / "result.json").exists()
    refused = run("--resume", folder, "--epochs", 9)
    assert refused.exit_code == 2
    assert "--resume takes all settings from the run folder" in refused.stderr


def test_without_matplotlib_a_run_goes_on_and_a_wanted_plot_is_refused(
    run: Run, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("--data", data, *FAST, "--out", tmp_path / "run", "--quiet")
    assert result.exit_code == 0
    assert "pip install 'gp-prune[plot]'" in result.stderr
    assert not list((tmp_path / "run").glob("*.png"))
    refused = run("--data", data, *FAST, "--out", tmp_path / "other", "--plot")
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--schedule", "never"), "unknown schedule 'never'"),
        (("--operator", "best"), "unknown metric 'best'"),
        (("--data", "imagenet"), "unknown data 'imagenet'"),
        (("--data", "none.npz"), "data file 'none.npz' cannot be read"),
        (("--cells", "7", "--topology", "torus"), "7 cells make no torus"),
        (("--amount", "2"), "amount is 2.0"),
        (
            ("--mode", "canonical", "--cells", "9"),
            "--cells is of coevolution; leave it out, or give --mode coevolve",
        ),
        (("--mode", "canonical", "--topology", "torus"), "--topology is of coevolution"),
        (("--mode", "canonical", "--selection-samples", "9"), "--selection-samples is of coev"),
        (("--rate-decay", "0.9"), "--rate-decay is of canonical training; leave it out"),
        (("--operator", "none", "--regrow"), "--regrow is of pruning; leave it out"),
        (("--operator", "random", "--temperature", "1"), "--temperature is of metrics"),
        (
            ("--target-sparsity", "0.5", "--amount", "0.1"),
            "--amount follows from the target sparsity; leave it out, or --target-sparsity",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    result = run(*arguments, "--out", tmp_path / "run", "--workers", 1, "--quiet", "--no-plot")
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_settings_file_may_say_more_than_is_used(run: Run, data: str, tmp_path: Path) -> None:
    settings = AutoencodeSettings(data=data, epochs=1, cells=2, operator="random")
    (tmp_path / "all.toml").write_text(settings.to_toml())
    arguments = ("--config", tmp_path / "all.toml", "--mode", "canonical", "--quiet", "--no-plot")
    assert run(*arguments, "--workers", 1, "--out", tmp_path / "run").exit_code == 0


@pytest.mark.slow
def test_pictures_of_all_shapes(data: str, tmp_path: Path) -> None:
    from gp_prune.report.plots import write_plots

    settings = AutoencodeSettings(data=data, epochs=1, mode="canonical", operator="none")
    colour = tmp_path / "colour.npz"
    vector = tmp_path / "vector.npz"
    np.savez(colour, inputs=np.random.RandomState(0).rand(20, 3, 4, 4))
    np.savez(vector, inputs=np.random.RandomState(0).rand(20, 7))
    for number, path in enumerate((colour, vector)):
        chosen = AutoencodeSettings(**{**settings.to_json(), "data": str(path), "primitives": ()})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(write_plots(autoencode(chosen, tmp_path / str(number)))) == 4


def test_a_schedule_needs_no_command_line(data: str, tmp_path: Path) -> None:
    settings = AutoencodeSettings(data=data, epochs=2, mode="canonical", operator="random")
    with pytest.raises(UserError, match="the schedule is 2"):
        autoencode(settings, tmp_path / "run", schedule=lambda t, T: 2.0)
