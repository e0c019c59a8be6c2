"""Adapters of trackers, with the real libraries where they are installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from gp_prune import MLflow, TensorBoard, Trackio
from gp_prune.errors import UserError
from gp_prune.runs.callbacks import Callback, Callbacks, RunEnd, RunStart, RunStep

ERRORS = (0.5, 0.25, 0.125)


def follow(callback: Callback, folder: Path, errors: tuple[float, ...] = ERRORS) -> None:
    """A run with some steps."""
    settings = {"tasks": ["lenet-digits@1"], "note": "a|b\n`c`"}
    with Callbacks([callback], RunStart("search", folder, settings)) as told:
        for number, error in enumerate(errors):
            told.step(RunStep(number, {"least/a@1": error}, {"best formula": "sum[i,k](abs(W))"}))
        told.done(RunEnd("done", {"test_error": 0.75}, {"recommended": "l1"}))


@pytest.mark.parametrize(
    ("adapter", "module", "words"),
    [
        (TensorBoard, "tensorboard", r"TensorBoard needs .* pip install 'gp-prune\[tensorboard\]'"),
        (MLflow, "mlflow", r"MLflow needs .* pip install 'gp-prune\[mlflow\]'"),
        (Trackio, "trackio", r"Trackio needs .* pip install 'gp-prune\[trackio\]'"),
    ],
)
def test_a_missing_library_is_named(
    adapter: Any, module: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(UserError, match=words):
        adapter(str(tmp_path))


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves that TensorBoard shows of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_shows_each_run_and_a_resumed_one_once(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path / "logs")
    assert not board.begun
    follow(board, tmp_path / "001", ERRORS[:2])
    follow(board, tmp_path / "001")
    follow(board, tmp_path / "002", (1.0,))
    assert board.begun
    curve = read_events(tmp_path / "logs" / "001")
    assert curve["least/a@1"] == [*enumerate(ERRORS)]
    assert curve["result/test_error"] == [(0, 0.75)]
    assert read_events(tmp_path / "logs" / "002")["least/a@1"] == [(0, 1.0)]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written to .*file/001"):
        follow(TensorBoard(tmp_path / "file"), tmp_path / "001")


@pytest.mark.filterwarnings("ignore")
def test_mlflow_holds_settings_figures_and_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    follow(MLflow("metrics", uri), tmp_path / "001")
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("metrics")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("001", "FINISHED")
    assert run.data.params["tasks"] == "['lenet-digits@1']"
    history = client.get_metric_history(run.info.run_id, "least/a_1")
    assert [(entry.step, entry.value) for entry in history] == [*enumerate(ERRORS)]
    assert run.data.metrics["result/test_error"] == 0.75
    assert run.data.tags["recommended"] == "l1"


@pytest.mark.filterwarnings("ignore")
def test_trackio_holds_settings_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    trackio = pytest.importorskip("trackio")
    follow(Trackio("metrics", embed=False), tmp_path / "001")
    (run,) = trackio.Api().runs("metrics")
    assert run.name == "001" and run.config["tasks"] == "['lenet-digits@1']"
    logs = importlib.import_module("trackio.sqlite_storage").SQLiteStorage.get_logs(
        "metrics", "001"
    )
    curve = [(entry["step"], entry["least/a@1"]) for entry in logs if "least/a@1" in entry]
    assert curve == [*enumerate(ERRORS)]
    assert logs[-1]["result/test_error"] == 0.75 and logs[-1]["result/recommended"] == "l1"
