from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from gp_prune import prune
from gp_prune.apply import models
from gp_prune.apply.models import build_timm_model, import_timm, load_model
from gp_prune.errors import UserError

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed"
)
# timm itself, and what it imports, may warn about names that will go.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


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
    with pytest.raises(UserError, match="pip install timm") as caught:
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
        return model


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
    assert torch.equal(load_model("timm:tiny").model[0].weight, loaded.model[0].weight)


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
@pytest.mark.slow
def test_models_of_the_installed_timm_can_be_pruned() -> None:
    loaded = load_model("timm:test_vit")
    assert tuple(loaded.example_inputs.shape) == (1, 3, 160, 160)
    pruned = prune(loaded.model, "l1", loaded.example_inputs, keep_macs=0.6)
    assert abs(pruned.achieved.macs - 0.6) < 0.03
    with pytest.raises(UserError, match="did you mean"):
        load_model("timm:resnet18_x")
