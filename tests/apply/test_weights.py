"""State dicts as people have them: checkpoints, prefixes, missing counters, own weights."""

from __future__ import annotations

import importlib.util
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from gp_prune import load_pruned, prune, save_pruned
from gp_prune._compat import import_torchvision
from gp_prune.apply.models import load_model
from gp_prune.errors import UserError
from gp_prune.training.weights import load_weights

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed"
)


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 2))


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda model: model.state_dict(), ""),
        (lambda model: nn.DataParallel(model).state_dict(), "without the prefix 'module.'"),
        (lambda model: Wrapped(model).state_dict(), "without the prefix 'model.'"),
        (
            lambda model: {f"_orig_mod.{k}": v for k, v in model.state_dict().items()},
            "without the prefix '_orig_mod.'",
        ),
        (
            lambda model: nn.DataParallel(Wrapped(model)).state_dict(),
            "without the prefix 'module.model.'",
        ),
        (lambda model: {"state_dict": model.state_dict(), "epoch": 3}, "entry 'state_dict'"),
        (lambda model: {"net": model.state_dict(), "acc": 0.9}, "entry 'net'"),
        (
            lambda model: {
                "epoch": 1, "optimizer": torch.optim.Adam(model.parameters()).state_dict(),
                "model": nn.DataParallel(model).state_dict(),
            },
            "entry 'model' without the prefix 'module.'",
        ),
        (
            lambda model: {"model": {"state_dict": model.state_dict()}},
            "entry 'model.state_dict'",
        ),
        (
            lambda model: {
                k: v for k, v in model.state_dict().items() if "num_batches_tracked" not in k
            },
            "",
        ),
        (
            lambda model: {f"0._orig_mod.{k[2:]}" if k[0] == "0" else k: v
                           for k, v in model.state_dict().items()},
            "without the prefix '_orig_mod.'",
        ),
    ],
)  # fmt: skip
def test_checkpoints_and_prefixes(tmp_path: Path, make: Any, said: str) -> None:
    trained, fresh = network(1), network(2)
    torch.save(make(trained), tmp_path / "w.pt")
    assert load_weights(fresh, tmp_path / "w.pt") == said
    assert same(trained, fresh)


def test_a_network_with_such_a_name_keeps_it(tmp_path: Path) -> None:
    trained, fresh = Wrapped(network(1)), Wrapped(network(2))
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "w.safetensors")
    assert load_weights(fresh, tmp_path / "w.safetensors") == "" and same(trained, fresh)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3}, "holds no state dict, neither by itself nor as state_dict, "),
        ({"state_dict": {"a": 3}}, "holds no state dict"),
        ([torch.zeros(2)], "holds no state dict"),
        ({"module.other.weight": torch.zeros(2)}, "lacks '0.weight'"),
    ],
)
def test_checkpoints_without_the_weights(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match=words):
        load_weights(network(), tmp_path / "w.pt")


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    spec = f"{tmp_path}/own.py:build"
    (tmp_path / "own.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(4, 6))\n"
    )
    state = nn.DataParallel(nn.Sequential(nn.Linear(4, 6))).state_dict()
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    loaded = load_model(spec, input_shape=(4,), weights=tmp_path / "w.pt")
    assert loaded.origin.endswith("w.pt, entry 'state_dict' without the prefix 'module.'")
    with pytest.raises(UserError, match=r"'.*own.py:build' is none of them; give a file"):
        load_model(spec, weights="DEFAULT")


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1"])
def test_torchvision_weights_from_a_filled_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    models = import_torchvision().models
    spec, known = "torchvision:squeezenet1_1", models.get_model_weights("squeezenet1_1")
    trained = load_model(spec, seed=5).model
    file = tmp_path / "hub" / "checkpoints" / known.DEFAULT.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(trained.state_dict(), file)
    loaded = load_model(spec, weights=name)
    assert same(loaded.model, trained)
    assert loaded.origin == "pretrained weights IMAGENET1K_V1 of torchvision"
    assert loaded.imagenet and tuple(loaded.example_inputs.shape) == (1, 3, 224, 224)
    file.write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"squeezenet1_1-\w+.pth' are damaged .*; remove the file"):
        load_model(spec, weights=name)
    torch.save(nn.Linear(2, 2), file)
    with pytest.raises(UserError, match="are damaged"):
        load_model(spec, weights=name)


def test_weights_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", fail)
    with pytest.raises(UserError, match=r"from https://.*\(OSError: no route to host\); download"):
        load_model("torchvision:squeezenet1_1", weights="DEFAULT")
    with pytest.raises(UserError, match="no weights 'IMAGENET22K' for 'squeezenet1_1'"):
        load_model("torchvision:squeezenet1_1", weights="IMAGENET22K")


@needs_timm
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_timm_weights_from_a_filled_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = importlib.import_module("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.file_download, "HF_HUB_CACHE", str(tmp_path), raising=False)

    def fail(*args: Any, **options: Any) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    trained = load_model("timm:test_resnet", seed=5).model
    with pytest.raises(UserError, match=r"huggingface.co/timm/test_resnet.* no route to host"):
        load_model("timm:test_resnet", weights="DEFAULT")
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    safetensors.torch.save_file(trained.state_dict(), snapshot / "model.safetensors")
    loaded = load_model("timm:test_resnet", weights="DEFAULT")
    assert same(loaded.model, trained)
    assert loaded.origin == "pretrained weights r160_in1k of timm"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mode", ["compact", "mask"])
def test_a_saved_network_keeps_its_type(tmp_path: Path, dtype: torch.dtype, mode: str) -> None:
    small = prune(network(), "l1", torch.zeros(1, 3, 3, 3), keep_channels=0.5, mode=mode)
    small.model.to(dtype)
    save_pruned(small, tmp_path / "out")
    again = load_pruned(tmp_path / "out", network(3))
    assert {p.dtype for p in again.parameters()} == {dtype}
    x = torch.randn(2, 3, 3, 3).to(dtype)
    assert torch.equal(again.eval()(x), small.model.eval()(x))


def test_a_saved_network_of_several_types(tmp_path: Path) -> None:
    small = prune(network(), "l1", torch.zeros(1, 3, 3, 3), keep_channels=0.5)
    small.model.get_submodule("3").double()
    save_pruned(small, tmp_path / "out")
    again = load_pruned(tmp_path / "out", network(3))
    types = [[v.dtype for v in model.state_dict().values()] for model in (small.model, again)]
    assert types[0] == types[1] and len(set(types[0])) == 3
