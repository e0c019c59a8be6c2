"""SynFlow's gradient, against a copy of the model that is made positive by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics import Batch, collect
from gp_prune.statistics.layers import to_dense

FLOW = {"synflow"}


def plain_flow(model: nn.Module, *shape: int) -> dict[str, Tensor]:
    """Layer -> gradient, by the steps of the paper's code on a copy."""
    positive: Any = copy.deepcopy(model).double().eval()
    for value in positive.state_dict().values():
        value.abs_()
    positive(torch.ones(1, *shape, dtype=torch.float64)).sum().backward()
    return {
        name: to_dense(module.weight.grad, module)
        for name, module in positive.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        and module.weight.grad is not None
    }


def test_every_kind_of_layer(mixture: nn.Module, whole: Batch) -> None:
    expected = plain_flow(mixture, 2, 6, 6)
    records = collect(mixture, None, [whole], needs=FLOW)
    assert records.keys() == expected.keys()
    for name, record in records.items():
        assert bool(expected[name].any())
        torch.testing.assert_close(record.synflow_grad, expected[name])


def deep() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(4, 4) for _ in range(40)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=20)
    return nn.Sequential(*(step for layer in layers for step in (layer, nn.ReLU())))


def test_float64_does_not_overflow() -> None:
    model = deep()
    record = collect(model, None, (), needs=FLOW, example_inputs=torch.zeros(1, 4))["0"]
    assert float(record.require("synflow_grad").max()) > 1e50  # more than float32 can hold
    torch.testing.assert_close(record.synflow_grad, plain_flow(model, 4)["0"])


def test_flow_is_conserved() -> None:
    """Without biases, weights times gradients add up to R in every layer (Tanaka et al.)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Conv2d(3, 4, 2, groups=1, bias=False),
            nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 2, bias=False),
        )  # fmt: skip
    records = collect(model, None, (), needs=FLOW, example_inputs=torch.zeros(2, 1, 5, 5))
    totals = [float((r.weight.abs() * r.require("synflow_grad")).sum()) for r in records.values()]
    assert totals == pytest.approx([totals[0]] * 3)
    assert all(bool((record.require("synflow_grad") >= 0).all()) for record in records.values())


def test_inputs_of_several_kinds() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.fc = nn.Linear(3, 2)

        def forward(self, tokens: Tensor, scale: Tensor) -> dict[str, list[Tensor]]:
            return {"a": [self.fc(self.embed(tokens)) * scale]}

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tagger()
    inputs = {"tokens": torch.tensor([[1, 4], [0, 0]]), "scale": torch.zeros(2, 1, 1)}
    record = collect(model, None, (), needs=FLOW, example_inputs=inputs)["fc"]
    row = model.embed.weight.detach().double().abs()[[1, 4]].sum(0)
    torch.testing.assert_close(record.require("synflow_grad")[:, :, 0], row.expand(2, 3))


def test_a_model_that_cannot_run_in_float64_is_refused() -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Any:
            return self.fc(x.float())

    with pytest.raises(UserError, match="does not run in float64"):
        collect(Narrow(), None, (), needs=FLOW, example_inputs=torch.zeros(1, 2))


def test_a_flow_without_bounds_is_refused() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
    for layer in model:
        nn.init.constant_(layer.get_parameter("weight"), 1e30)
    with pytest.raises(UserError, match=r"the sum of the positive network's outputs is inf"):
        collect(model, None, (), needs=FLOW, example_inputs=torch.zeros(1, 2))
