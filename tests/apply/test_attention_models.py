"""Transformers through the whole of ``prune``: heads and hidden units go, the rest stays."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from gp_prune import prune
from gp_prune.apply.models import load_model
from gp_prune.apply.saving import load_pruned, save_pruned
from gp_prune.pruning import ChannelPlan, compact, mask
from gp_prune.pruning.attention.heads import open_attention
from gp_prune.pruning.graph.architecture import HEADS


def encoder() -> nn.Module:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch says why it will not nest tensors
        torch.manual_seed(2)
        layer = nn.TransformerEncoderLayer(24, 4, 40, batch_first=True)
        return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(24, 3)).eval()


INPUTS = torch.randn(3, 6, 24, generator=torch.Generator().manual_seed(1))


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(INPUTS, torch.randn(3, 6, 3, generator=generator)) for _ in range(2)]


@pytest.mark.parametrize("metric", ["l1", "taylor_2017"])
@pytest.mark.parametrize("mode", ["compact", "mask"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_transformer_can_be_pruned_saved_and_loaded(
    metric: str, mode: str, steps: int, tmp_path: Path
) -> None:
    model = encoder()
    pruned = prune(
        model, metric, INPUTS, data=data(), loss=nn.functional.mse_loss, keep_macs=0.5, mode=mode,
        steps=steps,
    )  # fmt: skip
    assert abs(pruned.achieved.macs - 0.5) < 0.03
    heads = [group for group in pruned.architecture.free if group.slots[0].side == HEADS]
    assert [group.size for group in heads] == [4, 4]
    rows = {row.layer: row for row in pruned.rows}
    assert rows["0.layers.0.self_attn"].channels == 4
    assert rows["0.layers.0.self_attn.q_proj"].channels == 24
    save_pruned(pruned, tmp_path / "out")
    again = load_pruned(tmp_path / "out", encoder())
    assert torch.equal(again(INPUTS), pruned.model(INPUTS))
    opened = open_attention(model)
    assert isinstance(pruned.plan, ChannelPlan)
    smaller = compact(opened, pruned.plan, pruned.architecture)
    mask(opened, pruned.plan, pruned.architecture)
    torch.testing.assert_close(opened(INPUTS), smaller(INPUTS), rtol=1e-4, atol=1e-5)


def test_single_weights_of_attention() -> None:
    pruned = prune(encoder(), "magnitude", INPUTS, keep_params=0.5)
    assert "0.layers.0.self_attn.q_proj" in {row.layer for row in pruned.rows}
    assert abs(pruned.achieved.params - 0.5) < 0.03


def test_a_metric_that_needs_second_derivatives() -> None:
    pruned = prune(
        encoder(), "grasp", INPUTS, data=data(), loss=nn.functional.mse_loss, keep_macs=0.5
    )
    assert abs(pruned.achieved.macs - 0.5) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_t", "vit_b_16", "swin_v2_t", "maxvit_t"])
def test_torchvisions_transformers(name: str, tmp_path: Path) -> None:
    loaded = load_model(f"torchvision:{name}")
    inputs = loaded.example_inputs
    with torch.no_grad():  # torchvision's head is zero before training
        for parameter in loaded.model.parameters():
            parameter.add_(torch.full_like(parameter, 1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Torch-Pruning says how deep it went
        pruned = prune(loaded.model, "l1", inputs, keep_macs=0.5)
    assert abs(pruned.achieved.macs - 0.5) < 0.03
    heads = [group for group in pruned.architecture.free if group.slots[0].side == HEADS]
    assert len(heads) == (12 if name in ("swin_t", "vit_b_16") else 0)
    save_pruned(pruned, tmp_path / "out")
    with torch.no_grad():
        small = pruned.model(inputs)
        assert torch.equal(load_pruned(tmp_path / "out", loaded.model).eval()(inputs), small)
        opened = open_attention(loaded.model)
        mask(opened, pruned.plan, pruned.architecture)
        large = opened(inputs)
    assert float((small - large).abs().max()) <= 1e-4 * float(large.abs().max())
    pruned.model.train()
    pruned.model(torch.cat([inputs, inputs])).sum().backward()
