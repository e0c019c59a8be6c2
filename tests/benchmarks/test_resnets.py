from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import resnets
import torch
from torch import Tensor, nn

from gp_prune import prune
from gp_prune.pruning import measure, trace


def random_resnet(name: str) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = resnets.NETWORKS[name]()
    return model, inputs


@pytest.mark.parametrize(
    ("name", "depth", "params", "macs"),
    # 0.27 M and 0.85 M parameters, 41 M and 125 M multiply-accumulates: He et al. 2016, Table 6.
    [("resnet20", 20, 269_722, 40_551_040), ("resnet56", 56, 853_018, 125_485_696)],
)
def test_the_networks_have_the_published_size(
    name: str, depth: int, params: int, macs: int
) -> None:
    model, inputs = random_resnet(name)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    cost = measure(model, inputs)
    assert (cost.params, cost.macs) == (params, macs)
    assert model(inputs.expand(3, -1, -1, -1)).shape == (3, 10)


def test_the_modules_have_the_names_of_the_published_weights() -> None:
    model, _ = random_resnet("resnet20")
    names = set(model.state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "linear.weight", "linear.bias", *(f"bn1.{n}" for n in norm)}
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            for part in (1, 2):
                place = f"layer{stage}.{block}"
                expected |= {f"{place}.conv{part}.weight", *(f"{place}.bn{part}.{n}" for n in norm)}
    assert names == expected


def test_a_shortcut_takes_every_second_pixel_and_surrounds_it_with_zeros() -> None:
    block = resnets.Block(4, 8).eval()
    nn.init.zeros_(block.bn2.weight)
    images = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = block(images)
    assert output.shape == (2, 8, 3, 3)
    assert torch.equal(output[:, 2:6], images[:, :, ::2, ::2])
    assert not output[:, :2].any()
    assert not output[:, 6:].any()


def test_a_block_without_change_of_width_adds_its_input() -> None:
    block = resnets.Block(4, 4).eval()
    nn.init.zeros_(block.bn2.weight)
    images = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(block(images), images)


@pytest.mark.parametrize("wrapped", [False, True])
def test_published_weights_load_with_and_without_prefix(tmp_path: Path, wrapped: bool) -> None:
    model, _ = random_resnet("resnet20")
    content: dict[str, object] = dict(model.state_dict())
    if wrapped:
        entries = {f"module.{name}": value for name, value in content.items()}
        content = {"best_prec1": 91.7, "state_dict": entries}
    torch.save(content, tmp_path / "weights.th")
    other, inputs = resnets.resnet20()
    resnets.load_published(other, tmp_path / "weights.th")
    images = inputs + torch.linspace(0, 1, 32)
    assert torch.equal(other(images), model(images))


def test_weights_of_another_network_and_pickled_objects_are_refused(tmp_path: Path) -> None:
    model, _ = random_resnet("resnet20")
    torch.save(model.state_dict(), tmp_path / "weights.th")
    with pytest.raises(RuntimeError, match=r"layer1\.3"):
        resnets.load_published(resnets.resnet56()[0], tmp_path / "weights.th")
    torch.save({"state_dict": Path("anything")}, tmp_path / "object.th")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        resnets.load_published(model, tmp_path / "object.th")


def test_images_are_normalised_channel_by_channel() -> None:
    images = torch.tensor(resnets.MEAN).reshape(1, 3, 1, 1).expand(2, 3, 4, 4)
    torch.testing.assert_close(resnets.normalised(images), torch.zeros(2, 3, 4, 4))
    brighter = images + torch.tensor(resnets.DEVIATION).reshape(1, 3, 1, 1)
    torch.testing.assert_close(resnets.normalised(brighter), torch.ones(2, 3, 4, 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_the_residual_stream_is_cut_to_any_budget(name: str) -> None:
    model, inputs = random_resnet(name)
    inputs = torch.randn(2, *inputs.shape[1:], generator=torch.Generator().manual_seed(0))
    fixed = [group.name for group in trace(model, inputs).groups if group.fixed]
    assert fixed == ["linear"]  # the output of the network
    for keep in (0.5, 0.15):
        pruned = prune(model, "l1", inputs, keep_macs=keep)
        assert pruned.achieved.macs == pytest.approx(keep, abs=0.02)
        assert pruned.model.get_parameter("conv1.weight").shape[0] < 16
        masked = prune(model, "l1", inputs, keep_macs=keep, mode="mask")
        torch.testing.assert_close(pruned.model(inputs), masked.model(inputs), rtol=1e-4, atol=1e-4)
