"""What people really give: each ends in a right result or in one clear sentence."""

from __future__ import annotations

import copy
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn import functional

from gp_prune.apply.data import calibration, check_samples
from gp_prune.apply.models import LoadedModel
from gp_prune.apply.prune import prune
from gp_prune.apply.result import PrunedModel
from gp_prune.apply.saving import load_pruned, save_pruned
from gp_prune.errors import UserError

Pairs = list[tuple[torch.Tensor, torch.Tensor]]


def same(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    state = model.state_dict()
    return list(state) == list(before) and all(
        torch.equal(value, before[name]) or bool(torch.isnan(value).any())
        for name, value in state.items()
    )


class Answers(nn.Module):
    """Returns a dictionary."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.inner(x)
        return {"logits": logits, "classes": logits.argmax(1)}


@pytest.mark.parametrize("metric", ["l1", "taylor_bn", "mean_activation"])
@pytest.mark.parametrize("mode", ["compact", "mask"])
def test_a_model_that_returns_a_dictionary(
    residual: nn.Module, images: torch.Tensor, batches: Pairs, metric: str, mode: str
) -> None:
    def loss(output: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(output["logits"], target)

    found = prune(
        Answers(residual), metric, images, data=batches, loss=loss, keep_macs=0.5, mode=mode
    )
    plain = prune(
        residual,
        metric,
        images,
        data=batches,
        loss=functional.cross_entropy,
        keep_macs=0.5,
        mode=mode,
    )
    with torch.no_grad():
        torch.testing.assert_close(found.model(images)["logits"], plain.model(images))


def test_a_loss_that_cannot_take_the_dictionary(
    residual: nn.Module, images: torch.Tensor, batches: Pairs
) -> None:
    model, random = Answers(residual).train(), torch.get_rng_state()
    with pytest.raises(TypeError):  # the user's own function, and the user's own error
        prune(
            model, "taylor_bn", images, data=batches, loss=functional.cross_entropy, keep_macs=0.5
        )
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("metric", ["l1", "taylor_bn"])
def test_a_frozen_model(
    residual: nn.Module, images: torch.Tensor, batches: Pairs, metric: str
) -> None:
    options: dict[str, Any] = {"data": batches, "loss": functional.cross_entropy, "keep_macs": 0.5}
    expected = prune(residual, metric, images, **options)
    frozen = copy.deepcopy(residual).requires_grad_(False)
    found = prune(frozen, metric, images, **options)
    assert found.plan == expected.plan
    assert not any(p.requires_grad for p in (*frozen.parameters(), *found.model.parameters()))
    with torch.inference_mode():
        assert prune(frozen, metric, images, **options).plan == expected.plan


@pytest.mark.parametrize("steps", [1, 3])
def test_a_model_in_training_mode(
    residual: nn.Module, images: torch.Tensor, batches: Pairs, steps: int
) -> None:
    options: dict[str, Any] = {"data": batches, "keep_macs": 0.5, "steps": steps}
    expected = prune(residual, "mean_activation", images, **options)
    before = copy.deepcopy(residual.state_dict())
    residual.train()
    residual.get_submodule("norm2").eval()
    found = prune(residual, "mean_activation", images, **options)
    assert found.plan == expected.plan
    assert same(residual, before)  # the batch norms did not learn
    for model in (residual, found.model):
        assert {n for n, m in model.named_modules() if not m.training} == {"norm2"}


class Shared(nn.Module):
    """A layer that runs twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.twice = nn.Linear(4, 6), nn.Linear(6, 6)
        self.again, self.output = self.twice, nn.Linear(6, 3)
        self.wide = nn.Linear(6, 8)
        self.back = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x).relu()
        x = self.again(self.twice(x).relu()).relu()
        output: torch.Tensor = self.output(self.back(self.wide(x).relu()))
        return output


@pytest.mark.parametrize("metric", ["l1", "mean_activation", "taylor_weights"])
def test_a_layer_shared_twice(metric: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Shared()
        x, y = torch.rand(6, 4), torch.arange(6) % 3
    options: dict[str, Any] = {"data": [(x, y)], "loss": functional.cross_entropy}
    small = prune(model, metric, x, keep_channels=0.5, **options)
    masked = prune(model, metric, x, keep_channels=0.5, mode="mask", **options)
    assert small.model.get_submodule("again") is small.model.get_submodule("twice")
    with torch.no_grad():
        torch.testing.assert_close(small.model(x), masked.model(x))
        save_pruned(small, tmp_path / "out")
        assert torch.equal(load_pruned(tmp_path / "out", model)(x), small.model(x))
    assert small.after.params < small.before.params


@pytest.mark.parametrize("model", [nn.Sequential(nn.ReLU()), nn.Sequential(nn.BatchNorm1d(4))])
@pytest.mark.parametrize("metric", ["l1", "magnitude"])
def test_a_model_with_no_prunable_layer(model: nn.Module, metric: str) -> None:
    with pytest.raises(UserError) as caught:
        prune(model, metric, torch.rand(2, 4), keep_params=0.5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("metric", ["l1", "magnitude", "mean_activation", "taylor_bn"])
def test_weights_that_are_not_finite(
    residual: nn.Module, images: torch.Tensor, batches: Pairs, metric: str, value: float
) -> None:
    with torch.no_grad():
        residual.get_parameter("second.weight")[1, 0, 0, 0] = value
    before = copy.deepcopy(residual.state_dict())
    with pytest.raises(UserError) as caught:
        prune(
            residual, metric, images, keep_params=0.5, data=batches, loss=functional.cross_entropy
        )
    assert "\n" not in str(caught.value)
    assert same(residual, before)


@pytest.mark.parametrize("keep", [0, -1, 1.5, math.nan, "half", None, True])
@pytest.mark.parametrize("kind", ["channels", "macs", "params", "latency"])
def test_shares_out_of_range(
    residual: nn.Module, images: torch.Tensor, kind: str, keep: Any
) -> None:
    with pytest.raises(UserError) as caught:
        prune(residual, "l1", images, **{f"keep_{kind}": keep})
    assert "\n" not in str(caught.value) and kind in str(caught.value)


@pytest.mark.parametrize("kind", ["channels", "macs", "params"])
@pytest.mark.parametrize("keep", [1, 1.0])
def test_a_share_of_one_keeps_everything(
    residual: nn.Module, images: torch.Tensor, kind: str, keep: float
) -> None:
    pruned = prune(residual, "l1", images, **cast("dict[str, Any]", {f"keep_{kind}": keep}))
    assert same(pruned.model, residual.state_dict())
    assert pruned.met and pruned.model is not residual


def test_folders_without_images(residual: nn.Module, tmp_path: Path) -> None:
    loaded = LoadedModel("mine", residual, torch.rand(1, 3, 8, 8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "classes" / "cat").mkdir(parents=True)
    (tmp_path / "classes" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "broken" / "cat").mkdir(parents=True)
    (tmp_path / "broken" / "cat" / "a.png").write_bytes(b"no image")
    for name, words in (("empty", "no images"), ("classes", "no images"), ("broken", "a.png")):
        with pytest.raises(UserError, match=words) as caught:
            calibration(loaded, str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("samples", [0, -3])
def test_number_of_samples(residual: nn.Module, samples: int) -> None:
    loaded = LoadedModel("mine", residual, torch.rand(1, 3, 8, 8))
    for check in (
        lambda: check_samples(samples),
        lambda: calibration(loaded, None, samples=samples),
    ):
        with pytest.raises(UserError, match=f"number of samples is {samples}"):
            check()


@pytest.fixture
def pruned(residual: nn.Module, images: torch.Tensor) -> PrunedModel:
    return prune(residual, "l1", images, keep_macs=0.5)


@pytest.mark.parametrize("after", range(9))
def test_a_disk_that_fills_up(
    pruned: PrunedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The write number ``after`` fails; the folder that was there before is whole."""
    folder = tmp_path / "out"
    save_pruned(pruned, folder, model="earlier")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    real, calls = os.fsync, []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > after:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr("gp_prune.base.files.os.fsync", fsync)
    if after >= 2 * len(before):  # of each file and of the folder with its name
        save_pruned(pruned, folder, model="later")
        return
    with pytest.raises(UserError, match="No space left") as caught:
        save_pruned(pruned, folder, model="later")
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(UserError, match="No space left"):
        save_pruned(pruned, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB, where one can be made."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        made = subprocess.run(command, capture_output=True, timeout=600)
    except OSError:
        pytest.skip("there is no mount here")
    if made.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=600)


def test_a_real_disk_of_one_megabyte(pruned: PrunedModel, small_disk: Path) -> None:
    folder = small_disk / "out"
    save_pruned(pruned, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with torch.random.fork_rng():
        large = nn.Sequential(nn.Linear(600, 600), nn.ReLU(), nn.Linear(600, 10))
    too_much = prune(large, "l1", torch.rand(1, 600), keep_channels=0.9)
    for target in (folder, small_disk / "new"):
        with pytest.raises(UserError, match="No space left") as caught:
            save_pruned(too_much, target)
        assert "\n" not in str(caught.value)
        assert [path.name for path in small_disk.iterdir()] == ["out"]
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
