from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from gp_prune import prune
from gp_prune.apply import models
from gp_prune.apply.models import build_timm_model, import_timm, load_model
from gp_prune.errors import UserError

MODULE = """
import torch
from torch import nn
import helper_beside_it

def build():
    return nn.Sequential(nn.Conv2d(1, helper_beside_it.WIDTH, 3), nn.Flatten(), nn.LazyLinear(2))

def plain():
    return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))

def with_inputs():
    return plain(), torch.zeros(1, 4)

def fails():
    return 1 / 0

def leaves():
    raise SystemExit(0)

def wrong():
    return 3

def needs(argument):
    return plain()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(MODULE)
    (tmp_path / "helper_beside_it.py").write_text("WIDTH = 3\n")
    return path


def test_torchvision_model_has_weights_from_the_seed() -> None:
    before = torch.get_rng_state()
    loaded = [load_model("torchvision:squeezenet1_1", seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    first, same, other = (next(each.model.parameters()) for each in loaded)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert tuple(loaded[0].example_inputs.shape) == (1, 3, 224, 224)
    assert torch.equal(loaded[0].example_inputs, loaded[1].example_inputs)
    assert not loaded[0].model.training
    assert loaded[0].origin == "random weights from seed 1"


def test_input_shape() -> None:
    loaded = load_model("torchvision:squeezenet1_1", input_shape=(3, 64, 48))
    assert tuple(loaded.example_inputs.shape) == (1, 3, 64, 48)


def test_function_of_a_file(file: Path) -> None:
    loaded = load_model(f"{file}:with_inputs")
    assert tuple(loaded.example_inputs.shape) == (1, 4)
    again = load_model(f"{file}:plain", input_shape=(4,))
    assert tuple(again.example_inputs.shape) == (1, 4)
    assert torch.equal(
        loaded.model.get_parameter("0.weight"), again.model.get_parameter("0.weight")
    )


def test_file_may_import_its_neighbours(file: Path) -> None:
    import sys

    before = list(sys.path)
    assert load_model(f"{file}:build").model.get_parameter("0.weight").shape[0] == 3
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvision:resnet19", ["no classification model 'resnet19'", "'torchvision:resnet18'"]),
        ("torchvision:", ["no classification model"]),
        ("resnet18", ["unknown model 'resnet18'", "did you mean 'torchvision:resnet18'"]),
        ("lenet-digit", ["did you mean 'lenet-digits'"]),
        ("something else", ["unknown model", "FILE.py:FUNCTION", "torchvision:NAME"]),
        ("{folder}/none.py:build", ["none.py' does not exist"]),
        ("{folder}/own.py", ["names no function", "own.py:FUNCTION"]),
        ("{folder}/own.py:", ["names no function"]),
        ("{folder}/own.py:plan", ["no function 'plan'", "did you mean 'plain'"]),
        ("{folder}/own.py:zzz", ["no function 'zzz'", "it has build, plain"]),
        ("{folder}/own.py:fails", ["'fails'", "ZeroDivisionError: division by zero"]),
        ("{folder}/own.py:leaves", ["'leaves'", "SystemExit"]),
        ("{folder}/own.py:needs", ["'needs'", "must take no arguments"]),
        ("{folder}/own.py:wrong", ["gives a value of type int; ", "torch.nn.Module"]),
    ],
)
def test_wrong_specs(file: Path, spec: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_model(spec.format(folder=file.parent))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_that_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def build(:\n")
    with pytest.raises(UserError, match="does not run: SyntaxError"):
        load_model(f"{tmp_path}/broken.py:build")


def test_input_shape_of_a_function_with_inputs(file: Path) -> None:
    with pytest.raises(UserError, match="own example inputs"):
        load_model(f"{file}:with_inputs", input_shape=(4,))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_from_a_file(file: Path, tmp_path: Path, suffix: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        safetensors.torch.save_file(model.state_dict(), path)
    loaded = load_model(f"{file}:with_inputs", weights=path)
    assert torch.equal(loaded.model.get_parameter("1.weight"), model.get_parameter("1.weight"))
    assert str(path) in loaded.origin


def test_weights_that_do_not_fit(file: Path, tmp_path: Path) -> None:
    spec, path = f"{file}:with_inputs", tmp_path / "w.safetensors"
    with pytest.raises(UserError, match="No such file"):
        load_model(spec, weights=path)
    path.write_bytes(b"not tensors")
    with pytest.raises(UserError, match="damaged"):
        load_model(spec, weights=path)
    for state, words in (
        (nn.Linear(4, 6).state_dict(), r"lacks '0.weight'"),
        (
            nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)).state_dict(),
            r"'0.weight' of shape \(5, 4\)",
        ),
        (
            nn.Sequential(*(nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(2, 2))).state_dict(),
            "has '2\\.",
        ),
    ):
        safetensors.torch.save_file(state, path)
        with pytest.raises(UserError, match=words):
            load_model(spec, weights=path)


def test_torch_file_with_code_is_refused(file: Path, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(UserError, match="more than tensors"):
        load_model(f"{file}:with_inputs", weights=tmp_path / "whole.pt")


needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed"
)
# timm itself, and what it imports, may warn about names that will go.
timm_may_warn = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def no_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "timm":
                raise ModuleNotFoundError("No module named 'timm'", name="timm")

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])


@pytest.mark.usefixtures("no_timm")
def test_without_timm_one_sentence_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r"pip install 'gp-prune\[timm\]'") as caught:
        load_model("timm:resnet18")
    assert "\n" not in str(caught.value)


def test_a_broken_timm_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str, package: str | None = None) -> ModuleType:
        raise ModuleNotFoundError("No module named 'yaml'", name="yaml")

    monkeypatch.setattr(models, "import_torchvision", lambda: None)
    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(ModuleNotFoundError, match="yaml"):
        import_timm()


class FakeTimm(ModuleType):
    """As much of timm as is asked."""

    def list_models(self) -> list[str]:
        return ["resnet18", "tiny"]

    def list_pretrained(self, pattern: str = "*") -> list[str]:
        return ["resnet18.a1", "resnet18.a2"] if pattern != "tiny.*" else []

    def create_model(self, name: str, pretrained: bool) -> nn.Module:
        assert not pretrained
        if name == "resnet18.a2":
            raise RuntimeError("no size\nand more")
        model: Any = nn.Sequential(nn.Conv2d(1, 2, 3))
        if name == "resnet18":
            model.pretrained_cfg = {"input_size": (1, 9, 8), "mean": (0.485, 0.456, 0.406)}
        output: nn.Module = model
        return output


@pytest.fixture
def fake_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm("timm"))


@pytest.mark.usefixtures("fake_timm")
def test_inputs_are_what_timm_says() -> None:
    loaded = load_model("timm:resnet18")
    assert tuple(loaded.example_inputs.shape) == (1, 1, 9, 8)
    assert loaded.imagenet and not loaded.model.training
    assert loaded.origin == "random weights from seed 0"
    other = load_model("timm:resnet18.a1", input_shape=(1, 5, 5))
    assert tuple(other.example_inputs.shape) == (1, 1, 5, 5)
    assert not other.imagenet
    assert build_timm_model("tiny").input_shape is None
    assert torch.equal(
        load_model("timm:tiny").model.get_parameter("0.weight"),
        loaded.model.get_parameter("0.weight"),
    )


@pytest.mark.usefixtures("fake_timm")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet19", "has no model 'resnet19'; did you mean 'timm:resnet18'"),
        ("", "has no model ''; one is"),
        ("hf-hub:someone/model", "has no model"),
        ("resnet18.zz", "'resnet18' has no tag 'zz'; its tags are a1, a2"),
        ("tiny.zz", "'tiny' has no tag 'zz'; give timm:tiny"),
        ("resnet18.a2", r"cannot build 'resnet18.a2' \(no size\)"),
    ],
)
def test_names_that_timm_does_not_know(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_model(f"timm:{name}")
    assert "\n" not in str(caught.value)


@needs_timm
@timm_may_warn
@pytest.mark.slow
def test_models_of_the_installed_timm_can_be_pruned() -> None:
    loaded = load_model("timm:test_vit")
    assert tuple(loaded.example_inputs.shape) == (1, 3, 160, 160)
    pruned = prune(loaded.model, "l1", loaded.example_inputs, keep_macs=0.6)
    assert abs(pruned.achieved.macs - 0.6) < 0.03
    with pytest.raises(UserError, match="did you mean"):
        load_model("timm:resnet18_x")
