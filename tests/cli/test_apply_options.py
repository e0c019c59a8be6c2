"""What ``gp-prune apply`` does besides one cut: tuning, timing, exporting, drawing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from PIL import Image

import gp_prune
from gp_prune.apply.models import load_model
from gp_prune.cli import apply_run
from gp_prune.report.progress import SILENT_S, measuring
from gp_prune.training.samples import take

Run = Callable[..., Result]

MODULE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    )
    nn.init.uniform_(model[1].weight)
    return model.eval(), torch.zeros(2, 1, 8, 8)
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(MODULE)
    return f"{tmp_path}/own.py:build"


def report_of(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_fine_tuning_on_a_data_set(run: Run, spec: str, tmp_path: Path) -> None:
    """The saved network is the tuned one, and its error is the one in the report."""
    report = report_of(
        run("apply", "l1", spec, "--data", "digits", "--epochs", 5, "--optimiser", "adamw", "--lr",
            0.02, "--tuning-samples", 600, "--out", tmp_path / "out", "--json")
    )  # fmt: skip
    quality = report["quality"]
    assert (quality["kind"], quality["split"]) == ("error", "validation")
    assert quality["tuned"] < quality["pruned"]
    assert quality["recalibrated"] is not None
    assert len(quality["fine_tuning"]["history"]["epochs"]) == 5
    loaded = load_model(spec)
    small = gp_prune.load_pruned(tmp_path / "out", loaded.model)
    data = gp_prune.apply.data.tuning_data(loaded, "digits", samples=600)
    batch = take(data.read_report(), torch.arange(quality["samples"]))
    with torch.no_grad():
        wrong = small(batch.inputs).argmax(1).ne(batch.labels)
    assert float(wrong.double().mean()) == pytest.approx(quality["tuned"])


def test_a_task_is_judged_on_its_test_samples(run: Run, task_cache: Path) -> None:
    options = ("--cache-dir", task_cache, "--json", "--quiet")
    report = report_of(run("apply", "l1", "lenet-digits", *options))
    assert report["quality"]["split"] == "test"
    assert report["quality"]["dense"] < report["quality"]["pruned"]
    assert report["quality"]["tuned"] is None
    assert report_of(run("apply", "l1", "lenet-digits", *options, "--no-judge"))["quality"] is None


def test_fine_tuning_goes_on_from_its_checkpoint(run: Run, spec: str, tmp_path: Path) -> None:
    def tuned(folder: str, *options: object) -> Any:
        return report_of(
            run("apply", "l1", spec, "--data", "digits", "--epochs", 2, "--tuning-samples", 200,
                "--checkpoint", tmp_path / folder, "--json", *options)
        )["quality"]  # fmt: skip

    first = tuned("kept")
    again = run("apply", "l1", spec, "--data", "digits", "--epochs", 2, "--tuning-samples", 200,
                "--checkpoint", tmp_path / "kept")  # fmt: skip
    assert again.exit_code == 0, again.stderr
    assert "epoch 2/2" not in again.stderr  # both were there already
    assert tuned("kept") == first == tuned("other")


def test_a_network_that_returns_a_dictionary(run: Run, tmp_path: Path) -> None:
    """Its entry ``logits`` is what labels are compared with, in scoring and in tuning."""
    wrapped = (
        MODULE.replace("return model.eval(),", "return Named(model).eval(),")
        + """
class Named(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return {"logits": self.inner(x)}
"""
    )
    (tmp_path / "named.py").write_text(wrapped)
    report = report_of(
        run("apply", "taylor_weights", f"{tmp_path}/named.py:build", "--data", "digits",
            "--epochs", 1, "--tuning-samples", 200, "--json")
    )  # fmt: skip
    assert report["quality"]["tuned"] is not None


def test_everything_that_is_written(run: Run, spec: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    names = {"--onnx": "small.onnx", "--export": "small.pt2", "--plot": "small.png"}
    files = [part for option, name in names.items() for part in (option, tmp_path / name)]
    result = run("apply", "l1", spec, "--time", *files)
    assert result.exit_code == 0, result.stderr
    assert "latency (ms)" in result.stdout
    for name in ("small.onnx", "small.pt2"):
        assert f"Exported to {tmp_path / name}" in result.stdout
    assert f"Drawn in {tmp_path / 'small.png'}." in result.stdout
    Image.open(tmp_path / "small.png").verify()
    exported = torch.export.load(tmp_path / "small.pt2").module()
    pruned = gp_prune.prune(
        load_model(spec).model, "l1", torch.zeros(2, 1, 8, 8), keep_channels=0.5
    )
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(exported(x), pruned.model(x))


@pytest.mark.parametrize("option", ["--onnx", "--export", "--plot"])
def test_a_file_that_is_there_stays_and_no_folder_is_made(
    run: Run, spec: str, tmp_path: Path, option: str
) -> None:
    ending = {"--onnx": ".onnx", "--export": ".pt2", "--plot": ".png"}[option]
    path = tmp_path / f"mine{ending}"
    path.write_text("mine")
    refused = run("apply", "l1", spec, option, path)
    assert refused.exit_code == 2 and refused.stdout == ""
    assert f"{option} is {str(path)!r}, which exists; replace it with --force" in refused.stderr
    assert path.read_text() == "mine"
    for parent in ("none", "none/deeper"):
        refused = run("apply", "l1", spec, option, tmp_path / parent / path.name, "--force")
        assert refused.exit_code == 2
        assert f"there is no folder {str(tmp_path / parent)!r}; make it" in refused.stderr
        assert not (tmp_path / "none").exists()
    (tmp_path / f"folder{ending}").mkdir()
    assert "is a folder" in run("apply", "l1", spec, option, tmp_path / f"folder{ending}").stderr
    link = tmp_path / f"link{ending}"
    link.symlink_to(tmp_path / "nowhere")
    assert "which exists" in run("apply", "l1", spec, option, link).stderr


def test_a_plot_is_replaced_where_that_is_wanted(run: Run, spec: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.svg"
    path.write_text("mine")
    assert run("apply", "l1", spec, "--plot", path, "--force").exit_code == 0
    assert "<svg" in path.read_text()


@pytest.mark.parametrize("hangs", ["at import", "build", "forward"])
def test_a_model_that_hangs_is_one_sentence(run: Run, tmp_path: Path, hangs: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(f"""
import time, torch
from torch import nn
def stop(where):
    if where == {hangs!r}:
        time.sleep(600)
class Net(nn.Sequential):
    def forward(self, x):
        stop("forward")
        return super().forward(x)
def build():
    stop("build")
    return Net(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 4)
stop("at import")
""")
    result = run("apply", "l1", f"{file}:build", "--model-timeout", 1.5, "--quiet")
    assert result.exit_code == 2
    (sentence,) = result.stderr.splitlines()
    title = "a forward pass of" if hangs == "forward" else "the function"
    assert f"{title} {f'{file}:build'!r} took more than 1.5 s; mend it" in sentence
    assert "--model-timeout" in sentence


def test_rounding_ignoring_and_steps(run: Run, spec: str) -> None:
    report = report_of(
        run("apply", "l1", spec, "--round-to", 8, "--steps", 2, "--ignore", "3", "--json")
    )
    kept = {row["layer"]: row["channels_kept"] for row in report["layers"]}
    assert kept["0"] == 8 and kept["3"] == 24
    assert report["ignore"] == ["3"]
    assert len(report["steps"]) == 2


def test_a_pattern_of_weights(run: Run, spec: str) -> None:
    report = report_of(run("apply", "magnitude", spec, "--pattern", "2:4", "--json"))
    last = next(row for row in report["layers"] if row["layer"] == "7")
    assert last["params"] - last["params_kept"] == 120


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--epochs", "0"], ["--epochs is 0", "at least 1"]),
        (["--epochs", "2"], ["need data", "--data"]),
        (["--judge"], ["need data", "--data"]),
        (["--checkpoint", "kept"], ["--checkpoint", "--epochs"]),
        (["--distill", "0.5"], ["--distill", "--epochs"]),
        (["--weight-decay", "0.1"], ["--weight-decay", "--epochs"]),
        (["--epochs", "1", "--no-judge"], ["--no-judge"]),
        (["--epochs", "1", "--lr", "-1"], ["learning_rate", "-1"]),
        (["--epochs", "1", "--optimiser", "adam"], ["'adam'", "one of sgd, adamw"]),
        (["--epochs", "1", "--distill", "2"], ["distill", "at least 0 and at most 1"]),
        (["--pattern", "2:4"], ["ranks channels", "pattern 2:4"]),
        (["--pattern", "2:4", "--keep-macs", "0.5"], ["not --keep-macs and --pattern together"]),
        (
            ["--keep-params", "0.5", "--keep-latency", "0.5", "--pruning-ratio", "0.1"],
            ["give one budget, not --pruning-ratio and --keep-params and --keep-latency together"],
        ),
        (["--seed", "99999999999999999999999"], ["seed (--seed) is 99999999999999999999999; it"]),
        (["--seed", "-1"], ["seed (--seed) is -1", "from 0 to 9223372036854775807"]),
        (["--max-memory", "2"], ["max_memory (--max-memory) is '2', which has no unit"]),
        (["--max-memory", "0GB"], ["(--max-memory) is '0GB'; it must be at least 1 byte"]),
        (["--max-memory", "-1GB"], ["(--max-memory) is '-1GB'; it must be at least 1 byte"]),
        (["--max-memory", "much"], ["(--max-memory) is 'much', which is no size"]),
        (["--pattern", "4"], ["'4'"]),
        (["--keep-latency", "2"], ["(--keep-latency) is 2.0", "at most 1"]),
        (["--round-to", "0"], ["0"]),
        (["--steps", "0"], ["steps (--steps) is 0"]),
        (["--samples", "0"], ["samples is 0"]),
        (["--onnx", "small.pt"], ["--onnx", ".onnx"]),
        (["--export", "small.onnx"], ["--export", ".pt2 or .ts"]),
        (["--plot", "small.jpg"], ["--plot", ".png or .svg"]),
        (["--scope", "row"], ["row", "channels"]),
        (["--round-to", "-8"], ["round_to (--round-to) is -8", "at least 1"]),
        (["--tuning-samples", "0"], ["--tuning-samples is 0", "at least 1"]),
        (["--batch-size", "0"], ["--batch-size is 0"]),
        (["--optimiser", "adamw"], ["--optimiser", "--epochs"]),
        (["--temperature", "2"], ["--temperature", "--epochs"]),
        (["--data", "digits", "--epochs", "1", "--temperature", "2"], ["--distill"]),
        (["--tuning-samples", "50"], ["--tuning-samples", "--judge"]),
        (["--no-recalibrate"], ["--no-recalibrate", "--judge"]),
        (["--download"], ["--download is about --data"]),
        (["--data-root", "sets"], ["--data-root is about --data"]),
        (["--samples", "9"], ["--samples is about --data"]),
        (["--cache-dir", "cache"], ["--cache-dir", "is none"]),
        (["--data", "{folder}", "--download"], ["--download is for data sets (digits"]),
        (["--data", "{folder}", "--data-root", "x"], ["--data-root is for data sets"]),
        (["--force"], ["--force", "--out"]),
        (["--pattern", "2:4", "--scope", "layer"], ["--pattern", "--scope"]),
        (["--allocation", "global", "--scope", "layer"], ["--allocation", "--scope"]),
        (["--allocation", "nowhere"], ["--allocation", "residual-whole"]),
        (["--pattern", "4:2"], ["'4:2' would keep 4 of only 2 weights", "did you mean '2:4'?"]),
        (
            [
                "--out",
                "{folder}/x",
                "--checkpoint",
                "{folder}/x",
                "--data",
                "digits",
                "--epochs",
                "1",
            ],
            ["--out and --checkpoint", "two folders"],
        ),
    ],
)
def test_wrong_options_are_one_sentence(
    run: Run, spec: str, options: list[str], words: list[str]
) -> None:
    folder = Path(spec.rpartition(":")[0]).parent
    filled = [option.format(folder=folder) for option in options]
    result = run("apply", "l1", spec, *filled, "--quiet")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("gp-prune: error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["l1", "--round-to", "0"],
        ["l1", "--scope", "row"],
        ["magnitude", "--round-to", "8"],
        ["magnitude", "--cut-residual"],
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_loaded(
    run: Run, spec: str, options: list[str]
) -> None:
    metric, *others = options
    result = run("apply", metric, spec, *others)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1  # no line of progress before the error
    assert result.stderr.startswith("gp-prune: error: ")


@pytest.mark.parametrize("options", [["l1", "--epochs", "1"], ["l1", "--judge"], ["taylor_bn"]])
def test_data_that_is_missing_is_told_as_soon_as_it_is_known(
    run: Run, spec: str, options: list[str]
) -> None:
    metric, *others = options
    # A function may return a task, which has data, so it has to be called first.
    result = run("apply", metric, spec, *others)
    assert result.exit_code == 2
    loading, error = result.stderr.splitlines()
    assert loading.startswith("gp-prune: loading ") and error.startswith("gp-prune: error: ")
    # These networks bring none in any case.
    result = run("apply", metric, "torchvision:resnet18", *others)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("gp-prune: error: ")


def test_an_earlier_output_stays_unless_it_is_to_go(run: Run, spec: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("apply", "l1", spec, "--out", out).exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    refused = run("apply", "l2", spec, "--out", out)
    assert refused.exit_code == 2
    assert "holds an earlier pruned network" in refused.stderr and "--force" in refused.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert run("apply", "l2", spec, "--out", out, "--force").exit_code == 0
    assert json.loads((out / "report.json").read_text())["metric"] == "l2"
    (out / "mine.txt").write_text("mine")
    assert "'mine.txt'" in run("apply", "l1", spec, "--out", out, "--force").stderr


def test_a_checkpoint_goes_into_a_folder_of_its_own(run: Run, spec: str, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "photo.jpg").write_text("mine")
    options = ("--data", "digits", "--epochs", 1, "--tuning-samples", 100)
    result = run("apply", "l1", spec, *options, "--checkpoint", tmp_path / "kept")
    assert result.exit_code == 2
    assert "holds 'photo.jpg', which is not of a fine-tuning" in result.stderr
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["photo.jpg"]
    assert run("apply", "l1", spec, *options, "--checkpoint", tmp_path / "new").exit_code == 0
    (tmp_path / "new" / "photo.jpg").write_text("mine")
    assert (
        "photo.jpg" in run("apply", "l1", spec, *options, "--checkpoint", tmp_path / "new").stderr
    )


def test_samples_that_nothing_is_measured_on(run: Run, spec: str) -> None:
    told = run("apply", "l1", spec, "--data", "digits", "--samples", 9).stderr
    assert "l1 measures nothing, so --data and --samples are not read" in told


def test_long_passes_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with measuring(quiet=False, clock=lambda: now[0]) as done:
        done(1, 9)
        now[0] += SILENT_S
        done(2, 9)
        done(3, 9)
        now[0] += SILENT_S
        done(4, None)
    assert capsys.readouterr().err.splitlines() == [
        "gp-prune: measured 2 of 9 batches", "gp-prune: measured 4 batches"
    ]  # fmt: skip
    with measuring(quiet=True, clock=lambda: now[0]) as done:
        now[0] += SILENT_S
        done(1, 9)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [("--ratio", "--pruning-ratio"), ("--macs", "--keep-macs"), ("--params", "--keep-params")],
)
def test_old_names_of_budgets_still_work(run: Run, spec: str, old: str, new: str) -> None:
    result = run("apply", "l1", spec, old, 0.5, "--json", "--quiet")
    assert result.stderr == f"gp-prune: {old} is now {new}; the old name works until 0.2\n"
    expected = run("apply", "l1", spec, new, 0.5, "--json", "--quiet")
    assert expected.stderr == ""
    assert report_of(result)["plan_digest"] == report_of(expected)["plan_digest"]
    assert f"  {old} " not in run("apply", "--help").stdout


def test_a_budget_by_its_old_and_its_new_name(run: Run, spec: str) -> None:
    result = run("apply", "l1", spec, "--macs", 0.5, "--keep-macs", 0.5)
    assert result.exit_code == 2
    assert "not --macs and --keep-macs together" in result.stderr


def test_a_network_with_more_outputs_than_classes_is_told(
    run: Run, spec: str, tmp_path: Path
) -> None:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(30):
            image = Image.new("L", (8, 8), 100 * number + index)
            image.save(tmp_path / "images" / name / f"{index}.png")
    options = ("--data", tmp_path / "images", "--json", "--judge")
    told = " ".join(report_of(run("apply", "l1", spec, *options))["remarks"])
    assert "The network has 10 outputs and" in told and "has 2 classes" in told
    told = " ".join(report_of(run("apply", "taylor_bn", spec, *options[:3]))["remarks"])
    assert told.count("has 2 classes") == 1
    told = " ".join(
        report_of(run("apply", "taylor_bn", spec, "--data", "digits", "--json"))["remarks"]
    )
    assert "classes" not in told


def test_floors_and_shares_on_the_command_line(run: Run, spec: str) -> None:
    options = ("--keep-share", "0=0.75", "--min-share", 0.5, "--keep-channels", 0.6, "--json")
    report = report_of(run("apply", "l1", spec, "--scope", "isomorphic", *options))
    kept = {row["layer"]: row["channels_kept"] for row in report["layers"]}
    assert (kept["0"], kept["3"]) == (12, 12)
    assert report["keep_share"] == {"0": 0.75} and report["min_share"] == 0.5
    for text in ("0", "=1", "0=many", ""):
        result = run("apply", "l1", spec, "--keep-share", text)
        assert result.exit_code == 2 and f"--keep-share is {text!r}" in result.stderr


def test_the_time_counts_all_that_is_done(
    run: Run, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*args: Any, **options: Any) -> float:
        time.sleep(0.3)
        return 0.0

    monkeypatch.setattr(apply_run, "export_torch", slow)
    report = report_of(run("apply", "l1", spec, "--export", tmp_path / "x.pt2", "--json"))
    assert report["seconds"] >= 0.3


def test_long_epochs_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with measuring(quiet=False, clock=lambda: now[0]) as done:
        now[0] += SILENT_S
        done(3, 9, trained=True)
    assert capsys.readouterr().err == "gp-prune: trained on 3 of 9 batches\n"


@pytest.mark.slow
def test_a_fixed_number_of_samples_is_told(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)\n"
        "    def forward(self, x):\n        return self.b(self.a(x.reshape(2, 4)))\n"
        "def build():\n    return Net(), torch.rand(2, 4)\n"
    )
    result = run("apply", "l1", f"{tmp_path}/own.py:build", "--onnx", tmp_path / "x.onnx")
    assert "gp-prune: '" in result.stderr and "takes batches of 2 samples alone" in result.stderr
