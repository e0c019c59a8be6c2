from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import gp_prune
from gp_prune.apply.prune import prune
from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import DegenerateScores
from gp_prune.statistics import Batch


def flops(model: nn.Module, inputs: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(inputs)
    return int(counter.get_total_flops())


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.state_dict())


def test_public_name_is_the_same_function() -> None:
    assert gp_prune.prune is prune


def test_l1_keeps_the_filters_of_largest_norm(perceptron: nn.Module) -> None:
    inputs = torch.rand(3, 6)
    weight = perceptron.get_parameter("a.weight").detach()
    pruned = prune(perceptron, "l1", inputs, keep_channels=0.5)
    best = sorted(weight.abs().sum(1).argsort(descending=True)[:5].tolist())
    assert torch.equal(pruned.model.get_parameter("a.weight"), weight[best])


def test_compact_and_mask_compute_the_same(residual: nn.Module, images: torch.Tensor) -> None:
    small = prune(residual, "l2", images, keep_channels=0.6)
    masked = prune(residual, "l2", images, keep_channels=0.6, mode="mask")
    assert small.plan == masked.plan
    with torch.no_grad():
        torch.testing.assert_close(small.model(images), masked.model(images))
    assert small.after == masked.after


@given(keep=st.floats(0.05, 1.0), kind=st.sampled_from(["channels", "macs", "params"]))
def test_reported_cost_is_that_of_the_network(keep: float, kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Flatten())
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape).cos() + number)
    inputs = torch.ones(2, 2, 6, 6)
    budget: dict[str, Any] = {f"keep_{kind}": keep}
    pruned = prune(model, "l1", inputs, **budget)
    assert pruned.before.macs == flops(model, inputs) // 2 // 2
    assert pruned.after.macs == flops(pruned.model, inputs) // 2 // 2
    assert pruned.after.params == sum(p.numel() for p in pruned.model.parameters())
    assert pruned.asked.keep == keep
    assert pruned.achieved.macs == pytest.approx(pruned.after.macs / pruned.before.macs)


@pytest.mark.parametrize("metric", ["l1", "magnitude"])
def test_rows_add_up_to_the_totals(residual: nn.Module, images: torch.Tensor, metric: str) -> None:
    budget: dict[str, Any] = {"keep_params": 0.4}
    pruned = prune(residual, metric, images, **budget)
    for field, total in (
        ("macs", pruned.before.macs),
        ("macs_kept", pruned.after.macs),
        ("params", pruned.before.params),
        ("params_kept", pruned.after.params),
    ):
        assert sum(getattr(row, field) for row in pruned.rows) == total
    assert [row.layer for row in pruned.rows[:-1]] == ["first", "second", "third", "output"]


def test_the_model_is_not_changed(
    residual: nn.Module, images: torch.Tensor, batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    residual.train()
    residual.get_submodule("third").requires_grad_(False)
    before = state_of(residual)
    flags = [p.requires_grad for p in residual.parameters()]
    random = torch.get_rng_state()
    prune(residual, "taylor_bn", images, data=batches, loss=functional.cross_entropy, keep_macs=0.5)
    assert torch.equal(torch.get_rng_state(), random)
    assert [p.requires_grad for p in residual.parameters()] == flags
    assert all(module.training for module in residual.modules())
    assert all(p.grad is None for p in residual.parameters())
    for name, tensor in residual.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_weight_metric_masks_the_smallest_weights(perceptron: nn.Module) -> None:
    inputs = torch.rand(1, 6)
    pruned = prune(perceptron, "magnitude", inputs, keep_params=0.25)
    weights = [m.weight.detach() for m in perceptron.modules() if isinstance(m, nn.Linear)]
    limit = torch.cat([w.abs().flatten() for w in weights]).sort().values
    border = limit[math.floor(0.75 * len(limit))]
    for name in "abc":
        masked: Any = pruned.model.get_submodule(name)
        dense = perceptron.get_parameter(f"{name}.weight")
        assert torch.equal(masked.weight, dense * (dense.abs() >= border))
    assert pruned.mode == "mask"
    assert pruned.achieved.weights == pytest.approx(0.25, abs=0.01)
    assert pruned.achieved.channels is None
    assert pruned.after.nonzero == pruned.after.params


def test_same_seed_same_plan(residual: nn.Module, images: torch.Tensor) -> None:
    plans = [prune(residual, "random", images, keep_macs=0.5, seed=s).plan for s in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_interface_layers_are_kept_whole(residual: nn.Module, images: torch.Tensor) -> None:
    pruned = prune(residual, "l1", images, keep_channels=0.5, interface=["third"])
    row = {row.layer: row for row in pruned.rows}["third"]
    assert row.channels == row.channels_kept == 12
    assert "interface" in row.fixed


def test_conventions_can_be_replaced(residual: nn.Module, images: torch.Tensor) -> None:
    one = prune(residual, "l1", images, keep_channels=0.5)
    other = prune(
        residual, "l1", images, keep_channels=0.5, conventions=Conventions("global", "none", "sum")
    )
    assert other.conventions.scope == "global"
    assert one.plan.digest() != other.plan.digest()


def test_data_may_be_batches_pairs_or_inputs(
    residual: nn.Module, images: torch.Tensor, batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    forms = (
        [Batch(x, y, y) for x, y in batches],
        batches,
        [x for x, _ in batches],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batches[0]), batch_size=3),
    )
    plans = [prune(residual, "mean_activation", images, data=d, keep_macs=0.5).plan for d in forms]
    assert plans[0] == plans[1] == plans[2]


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.b(self.a(x * y).relu())
            return output

    inputs = (torch.rand(2, 4), torch.rand(2, 4))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Two()
    for given_inputs in (inputs, list(inputs), {"x": inputs[0], "y": inputs[1]}):
        pruned = prune(model, "l1", given_inputs, keep_channels=0.5)
        assert pruned.rows[0].channels_kept == 3
        assert pruned.input_shapes == ((2, 4), (2, 4))


def test_progress_is_told(residual: nn.Module, images: torch.Tensor) -> None:
    lines: list[str] = []
    prune(residual, "l1", images, keep_macs=0.5, progress=lines.append)
    assert lines[0].startswith("counting")
    assert lines[-1] == "removing channels"


def test_report_is_plain_json(residual: nn.Module, images: torch.Tensor) -> None:
    import json

    report = prune(residual, "l1", images, keep_macs=0.5).report(model="mine")
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["model"] == "mine"
    assert report["asked"] == {"kind": "macs", "keep": 0.5}
    assert report["layers"][0]["layer"] == "first"


def test_unreachable_budget_is_said(residual: nn.Module, images: torch.Tensor) -> None:
    pruned = prune(residual, "l1", images, keep_macs=0.001)
    assert not pruned.met
    assert min(row.channels_kept for row in pruned.rows[:-2]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, ["exactly one", "none"]),
        ({"keep_macs": 0.5, "keep_params": 0.5}, ["exactly one", "keep_macs and keep_params"]),
        ({"keep_macs": 1.5}, ["macs", "1.5"]),
        ({"keep_channels": 0.0}, ["channels", "0.0"]),
        ({"keep_params": math.nan}, ["params", "nan"]),
        ({"keep_macs": 0.5, "mode": "shrink"}, ["'shrink'", "compact, mask"]),
        ({"keep_macs": 0.5, "interface": ["nowhere"]}, ["'nowhere'"]),
    ],
)
def test_wrong_arguments(
    residual: nn.Module, images: torch.Tensor, arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        prune(residual, "l1", images, **arguments)
    assert all(word in str(caught.value) for word in words)


def test_weight_metric_with_compact_or_channels(perceptron: nn.Module) -> None:
    inputs = torch.rand(1, 6)
    with pytest.raises(UserError, match="mode 'mask'"):
        prune(perceptron, "magnitude", inputs, keep_params=0.5, mode="compact")
    with pytest.raises(UserError, match="give keep_params or keep_macs"):
        prune(perceptron, "magnitude", inputs, keep_channels=0.5)


def test_missing_data_names_operands_and_remedy(residual: nn.Module, images: torch.Tensor) -> None:
    with pytest.raises(UserError) as caught:
        prune(residual, "taylor_bn", images, keep_macs=0.5)
    for word in ("taylor_bn", "Ggamma", "Gbeta", "backward pass", "--data"):
        assert word in str(caught.value)


def test_missing_loss(
    residual: nn.Module, images: torch.Tensor, batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    with pytest.raises(UserError, match="loss"):
        prune(residual, "taylor_bn", images, data=batches, keep_macs=0.5)


def test_network_that_does_not_run(residual: nn.Module) -> None:
    with pytest.raises(UserError, match=r"\(1, 4, 8, 8\).*--input-shape"):
        prune(residual, "l1", torch.rand(1, 4, 8, 8), keep_macs=0.5)


def test_constant_scores_name_metric_and_layer(images: torch.Tensor) -> None:
    with torch.random.fork_rng():
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 2)
        )
    with pytest.raises(DegenerateScores, match=r"'0'.*'bn_scale' cannot rank it") as caught:
        prune(model, "bn_scale", images, keep_macs=0.5)
    assert caught.value.reason == "constant"


def test_metric_object(residual: nn.Module, images: torch.Tensor) -> None:
    metric = Metric.parse("sum[i,k](abs(W))", name="mine")
    pruned = prune(residual, metric, images, keep_macs=0.5)
    assert (pruned.metric, pruned.metric_digest) == ("mine", metric.digest)
