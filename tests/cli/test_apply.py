from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from torch import nn

import gp_prune
from gp_prune.apply.models import load_model

Run = Callable[..., Result]

MODULE = """
import torch
from torch import nn

def build():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    )
    nn.init.uniform_(model[1].weight)
    return model, torch.zeros(1, 3, 12, 12)

def few_outputs():
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Flatten(), nn.Linear(216, 4))
    return model, torch.zeros(1, 1, 8, 8)
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(MODULE)
    return f"{tmp_path}/own.py:build"


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("resnet18", 0.02),
        pytest.param("mobilenet_v2", 0.02, marks=pytest.mark.slow),
        pytest.param("vgg16_bn", 0.02, marks=pytest.mark.slow),
    ],
)
def test_half_of_the_macs_of_torchvision_models(
    run: Run, tmp_path: Path, name: str, limit: float
) -> None:
    """Prune, save, load on a network with other weights: the same outputs, half of the MACs."""
    model = f"torchvision:{name}"
    result = run(
        "apply", "l1", model, "--keep-macs", 0.5, "--input-shape", "3,64,64", "--out",
        tmp_path / "out", "--json", "--quiet", "--seed", 3,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    report = json.loads(result.stdout)
    assert abs(report["after"]["macs"] / report["before"]["macs"] - 0.5) <= limit
    loaded = load_model(model, input_shape=(3, 64, 64), seed=3)
    other = load_model(model, input_shape=(3, 64, 64), seed=4)
    small = gp_prune.load_pruned(tmp_path / "out", other.model)
    again = gp_prune.prune(loaded.model, "l1", loaded.example_inputs, keep_macs=0.5)
    with torch.no_grad():
        outputs = [net(loaded.example_inputs) for net in (small, again.model)]
    assert torch.equal(*outputs)
    assert again.plan.digest() == report["plan_digest"]
    assert sum(p.numel() for p in small.parameters()) == report["after"]["params"]


def test_table(run: Run, spec: str) -> None:
    result = run("apply", "l1", spec)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        "layer", "channels", "kept", "MACs", "kept", "params", "kept", "ties", "kept", "whole"
    ]  # fmt: skip
    assert lines[1].split()[:3] == ["0", "16", "8"]
    assert lines[2].split()[:3] == ["3", "24", "12"]
    assert "network output" in lines[3]
    assert any(line.startswith("asked") and "50.0 % of the channels" in line for line in lines)
    assert all(len(line) <= 120 and line == line.rstrip() for line in lines)
    assert "gp-prune: scoring 2 layers with l1" in result.stderr


def test_quiet_is_silent_on_stderr(run: Run, spec: str) -> None:
    result = run("apply", "l1", spec, "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout


def test_json_is_one_object(run: Run, spec: str, tmp_path: Path) -> None:
    result = run("apply", "wanda", spec, "--keep-params", 0.6, "--data", "digits", "--samples", 40,
                 "--scope", "global", "--out", tmp_path / "out", "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["asked"] == {"kind": "params", "keep": 0.6}
    assert report["conventions"]["scope"] == "global"
    assert report["data"] == "digits"
    assert report["saved"] == str(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    # The printed time counts saving, too.
    assert saved.pop("seconds") <= report["seconds"]
    assert saved == {key: report[key] for key in saved}


def test_gradients_on_a_data_set(run: Run, spec: str) -> None:
    result = run(
        "apply", "taylor_bn", spec, "--data", "digits", "--samples", 32, "--keep-macs", 0.5
    )
    assert result.exit_code == 0, result.stderr
    assert "data         digits" in result.stdout


def test_masking_says_that_it_is_not_faster(run: Run, spec: str) -> None:
    for metric in ("l1", "magnitude"):
        result = run("apply", metric, spec, "--mode", "mask")
        assert result.exit_code == 0, result.stderr
        assert "not faster" in result.stdout
    assert json.loads(run("apply", "magnitude", spec, "--json").stdout)["mode"] == "mask"


def test_metric_file_and_own_primitives(run: Run, spec: str, tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text(
        "import torch\n"
        "from gp_prune.language.primitive import Elementwise, operator\n"
        "@operator('double', shape=Elementwise(1), meaning='2 x', symbol=lambda x: 2 * x)\n"
        "def double(x):\n    return 2 * x\n"
    )
    from gp_prune.language.primitive import primitive_set

    metric = gp_prune.Metric.parse(
        "double(sum[i,k](abs(W)))",
        name="twice",
        conventions=gp_prune.Metric.load("l1").conventions,
        primitives=primitive_set(tmp_path / "more.py"),
    )
    metric.save(tmp_path / "twice.json")
    options = ("--primitives", tmp_path / "more.py")
    result = run("apply", tmp_path / "twice.json", spec, *options, "--json")
    assert result.exit_code == 0, result.stderr
    plain = json.loads(run("apply", "l1", spec, "--json").stdout)
    assert json.loads(result.stdout)["plan_digest"] == plain["plan_digest"]
    assert run("apply", tmp_path / "twice.json", spec).exit_code == 2
    assert "twice" in run("show", tmp_path / "twice.json", *options).stdout


def test_unused_data_is_said(run: Run, spec: str) -> None:
    assert "--data is not read" in run("apply", "l1", spec, "--data", "digits").stderr


@pytest.mark.parametrize("metric", ["taylor_weights", "wanda_weight"])
def test_tasks_bring_their_data(run: Run, task_cache: Path, metric: str) -> None:
    options = ("--cache-dir", task_cache, "--json", "--samples", 64)
    result = run("apply", metric, "lenet-digits", *options)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["data"] == "lenet-digits, training split"
    assert report["met"]


@pytest.mark.slow
def test_interface_of_a_task_is_kept(run: Run, task_cache: Path) -> None:
    options = ("--cache-dir", task_cache, "--json")
    result = run("apply", "taylor_weights", "autoencoder-digits", *options)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["interface"] == ["latent"]
    latent = next(row for row in report["layers"] if row["layer"] == "latent")
    assert latent["channels"] == latent["channels_kept"] == 12


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    path = tmp_path / "damaged.json"
    gp_prune.Metric.load("l1").save(path)
    path.write_text(path.read_text().replace("abs", "neg"))
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["l11", "{spec}"], ["unknown metric 'l11'", "did you mean 'l1'"]),
        (["nowhere/m.json", "{spec}"], ["nowhere/m.json", "No such file"]),
        (["sum[i,k](absolute(W))", "{spec}"], ["unknown operator 'absolute'", "at position 9"]),
        (["{tmp}/damaged.json", "{spec}"], ["damaged.json", "refused"]),
        (["l1", "torchvision:resnet19"], ["'resnet19'", "'torchvision:resnet18'"]),
        (["l1", "resnet18"], ["did you mean 'torchvision:resnet18'"]),
        (["l1", "{tmp}/none.py:build"], ["none.py' does not exist"]),
        (["l1", "{spec}x"], ["no function 'buildx'"]),
        (["l1"], ["Missing argument 'MODEL'", "gp-prune apply --help"]),
        (
            ["l1", "{spec}", "--pruning-ratio", "1.5"],
            ["pruning_ratio (--pruning-ratio) is 1.5", "less than 1"],
        ),
        (["l1", "{spec}", "--pruning-ratio", "0"], ["(--pruning-ratio) is 0.0", "greater than 0"]),
        (["l1", "{spec}", "--pruning-ratio", "nan"], ["(--pruning-ratio) is nan"]),
        (["l1", "{spec}", "--pruning-ratio", "half"], ["'half' is not a valid float"]),
        (["l1", "{spec}", "--keep-macs", "0"], ["keep_macs (--keep-macs) is 0.0"]),
        (["l1", "{spec}", "--keep-params", "inf"], ["(--keep-params) is inf", "at most 1"]),
        (
            ["l1", "{spec}", "--keep-macs", "0.5", "--pruning-ratio", "0.5"],
            ["not --pruning-ratio and --keep-macs together"],
        ),
        (["taylor_bn", "{spec}"], ["'taylor_bn' needs", "Ggamma", "--data"]),
        (["apoz", "{spec}"], ["'apoz' needs", "(for A)", "--data"]),
        (["magnitude", "{spec}", "--mode", "compact"], ["single weights", "mode 'mask'"]),
        (["apoz", "{spec}", "--data", "digitz"], ["unknown data 'digitz'"]),
        (["apoz", "{spec}", "--data", "{tmp}/empty"], ["no images in folders of classes"]),
        (["apoz", "{spec}", "--data", "mnist", "--data-root", "{tmp}"], ["mnist", "--data-root"]),
        (["apoz", "{spec}", "--data", "digits", "--samples", "0"], ["samples is 0"]),
        (["taylor_weights", "{few}", "--data", "digits"], ["labels up to 9", "4 outputs"]),
        (["l1", "{spec}", "--input-shape", "3,12"], ["own example inputs"]),
        (["l1", "torchvision:alexnet", "--input-shape", "3,x"], ["3,64,64"]),
        (["l1", "torchvision:alexnet", "--input-shape", "3,99999,99999"], ["100,000,000"]),
        (["l1", "torchvision:alexnet", "--input-shape", f"3,{'9' * 5000}"], ["3,64,64"]),
        (["l1", "lenet-digits", "--steps", "1000000"], ["--steps", "from 1 to 1000"]),
        (["l1", "lenet-digits", "--samples", "9" * 400], ["--samples", "at most 1,000,000,000"]),
        (["l1", "lenet-digits", "--epochs", "1", "--lr", "1e300"], ["learning_rate", "1e+09"]),
        (["/dev/zero", "lenet-digits"], ["/dev/zero", "a pipe or a device"]),
        (
            ["l1", "torchvision:alexnet", "--input-shape", "3,8,8"],
            ["(1, 3, 8, 8)", "--input-shape"],
        ),
        (["l1", "lenet-digits", "--input-shape", "1,8,8"], ["task with its own"]),
        (["l1", "{spec}", "--ignore", "nowhere"], ["'nowhere'"]),
        (["l1", "{spec}", "--out", "{tmp}"], ["not of a pruned network", "name a new folder"]),
        (["l1", "{spec}", "--primitives", "nowhere.py"], ["nowhere.py", "does not exist"]),
        (["l1", "{spec}", "--colour"], ["--colour", "--help"]),
        (["l1", "{spec}", "--mode", "shrink"], ["'shrink'", "compact"]),
    ],
)
def test_wrong_input_is_one_sentence(
    run: Run, spec: str, tmp_path: Path, damaged: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    few = spec.replace("build", "few_outputs")
    filled = [a.format(spec=spec, tmp=tmp_path, few=few) for a in arguments]
    result = run("apply", *filled, "--quiet")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("gp-prune: error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_missing_device(run: Run, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run("apply", "l1", spec, "--device", "cuda")
    assert result.exit_code == 2
    assert "--device cpu" in result.stderr


def test_the_hint_after_saving_works(run: Run, spec: str, tmp_path: Path) -> None:
    result = run("apply", "l1", spec, "--out", tmp_path / "small")
    assert f"gp_prune.load_pruned('{tmp_path / 'small'}', model)" in result.stdout
    model = load_model(spec).model
    assert isinstance(gp_prune.load_pruned(tmp_path / "small", model), nn.Sequential)
