"""Layers that run in training mode only, networks that need a function to run, sizes kept apart."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune._compat import TorchvisionWarning, import_torchvision
from gp_prune.errors import UserError
from gp_prune.pruning import (
    Architecture,
    Budget,
    ChannelPlan,
    compact,
    consumers,
    latency,
    mask,
    measure,
    predict,
    trace,
)
from gp_prune.pruning.graph.observer import TraceWarning
from gp_prune.pruning.plan.channels import Achieved
from gp_prune.statistics.running import tensors_of

IMAGES = torch.zeros(2, 3, 6, 6)


def plan_of(**removed: tuple[int, ...]) -> ChannelPlan:
    return ChannelPlan(removed, Budget("channels", 0.5), Achieved(0.5, 0.5, 0.5))


class WithHead(nn.Module):
    """A trunk with an auxiliary head that runs in training mode only."""

    def __init__(self, targets: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
        self.rest = nn.Sequential(nn.Conv2d(6, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1))
        self.side = nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        self.targets = targets

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        h = functional.dropout(self.stem(x), 0.5, training=self.training)
        if not self.training:
            return self.rest(h)  # type: ignore[no-any-return]
        if self.targets:
            assert target is not None
        return self.rest(h), self.side(h)


class TestAuxiliaryHead:
    def test_it_follows_the_channels_it_reads(self) -> None:
        model = WithHead()
        architecture = trace(model, IMAGES)
        sides = {(slot.module, slot.side) for slot in architecture.by_name["stem.0"].slots}
        assert ("side.0", "in") in sides
        assert {group.name: group.fixed for group in architecture.groups if group.fixed} == {
            "side.0": "layer 'side.0' runs in training mode only",
            "rest.2": "network output",
            "side.2": "network output",
        }
        smaller: Any = compact(model, plan_of(**{"stem.0": (1, 2), "rest.0": (0,)}), architecture)
        outputs = smaller.train()(torch.randn(2, 3, 6, 6))
        sum(output.square().sum() for output in outputs).backward()
        assert all(parameter.grad is not None for parameter in smaller.parameters())

    def test_costs_count_its_parameters_but_no_macs(self) -> None:
        model = WithHead()
        architecture = trace(model, IMAGES)
        assert architecture.dense_costs == measure(model, IMAGES)[:2]
        smaller: Any = compact(model, plan_of(**{"stem.0": (1, 2)}), architecture)
        assert predict(architecture, {"stem.0": 4}) == measure(smaller, IMAGES)[:2]

    def test_it_is_neither_scored_nor_read(self) -> None:
        architecture = trace(WithHead(), IMAGES)
        assert architecture.scored_layers == ("stem.0", "rest.0")
        assert architecture.prunable_layers == ("stem.0", "rest.0", "rest.2")
        assert [reader.module for reader in consumers(architecture)["stem.0"]] == ["rest.0"]

    def test_the_model_is_left_alone(self) -> None:
        model = WithHead().eval()
        model.side.train()
        flags = {name: module.training for name, module in model.named_modules()}
        trace(model, IMAGES)
        assert {name: module.training for name, module in model.named_modules()} == flags
        assert model.stem[1].num_batches_tracked == 0

    def test_one_that_cannot_run_is_left_out(self) -> None:
        """In training mode this network wants a target, which the example inputs lack."""
        with pytest.warns(TraceWarning, match=r"\(side.0, side.2\) are not followed"):
            architecture = trace(WithHead(targets=True), IMAGES)
        sides = {slot.module for group in architecture.groups for slot in group.slots}
        assert sides == {"stem.0", "stem.1", "rest.0", "rest.2"}


class Scaled(nn.Module):
    """Runs on a dictionary and a factor, and returns nested containers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, batch: dict[str, Tensor], *, factor: float) -> dict[str, object]:
        h = torch.sigmoid(self.first(batch["x"] * factor))
        return {"logits": self.second(h), "rest": [{"mean": h.mean(1)}, None]}


def run_scaled(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, object]:
    return model(batch, factor=2.0)  # type: ignore[no-any-return]


class TestForwardFunction:
    batch = {"x": torch.ones(3, 4), "y": torch.ones(3, 2)}  # noqa: RUF012

    def test_trace_and_measure(self) -> None:
        model = Scaled()
        architecture = trace(model, self.batch, forward_fn=run_scaled)
        assert {group.name: group.fixed for group in architecture.groups} == {
            "first": "network output",
            "second": "network output",
        }
        cost = measure(model, self.batch, forward_fn=run_scaled)
        assert cost == (4 * 6 + 6 * 3, 4 * 6 + 6 + 6 * 3 + 3, 4 * 6 + 6 + 6 * 3 + 3)
        assert latency(model, self.batch, repeats=2, forward_fn=run_scaled).batch == 3

    def test_without_it_the_error_is_the_models_own(self) -> None:
        with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
            trace(Scaled(), self.batch)

    def test_groups_may_be_cut(self) -> None:
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

        def forward(model: nn.Module, batch: dict[str, Tensor]) -> list[object]:
            return [{"out": model(batch["x"])}]

        architecture = trace(model, self.batch, forward_fn=forward)
        assert [group.name for group in architecture.free] == ["0"]
        assert architecture == trace(model, self.batch["x"])


class Folded(nn.Module):
    """Keeps a number of channels for its own view, beside other numbers of the same value."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 6
        self.pixels = 6
        self.first, self.second = nn.Linear(5, 36), nn.Conv1d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).view(-1, self.width, self.pixels)).mean(2)  # type: ignore[no-any-return]


class TestSizesInAttributes:
    inputs = torch.randn(2, 5, dtype=torch.float64)

    def test_the_right_one_shrinks(self) -> None:
        model = Folded().double()
        architecture = trace(model, self.inputs)
        group = architecture.by_name["first"]
        assert [(slot.module, slot.side) for slot in group.slots] == [
            ("first", "out"), ("second", "in"), ("width", "size"),
        ]  # fmt: skip
        plan = plan_of(first=(0, 4))
        smaller, masked = compact(model, plan, architecture), copy.deepcopy(model)
        mask(masked, plan, architecture)
        assert (smaller.width, smaller.pixels, model.width) == (4, 6, 6)  # type: ignore[comparison-overlap]
        torch.testing.assert_close(smaller(self.inputs), masked(self.inputs))
        assert predict(architecture, {"first": 4}) == measure(smaller, self.inputs)[:2]

    def test_json_and_another_network(self) -> None:
        architecture = trace(Folded().double(), self.inputs)
        again = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
        assert again == architecture
        once = compact(Folded(), plan_of(first=(0, 4)), again)
        with pytest.raises(UserError, match="entries on side"):
            compact(once, plan_of(first=(0,)), again)
        other = Folded()
        del other.width
        with pytest.raises(UserError, match="no number 'width'"):
            compact(other, plan_of(first=(0,)), again)


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.again = self.inner

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.again(torch.sigmoid(self.inner(torch.sigmoid(self.first(x))))))
        return self.last(h)  # type: ignore[no-any-return]


def test_a_layer_under_two_names_stays_one() -> None:
    model, inputs = Twice().double(), torch.randn(3, 4, dtype=torch.float64)
    architecture = trace(model, inputs)
    assert architecture.by_name["first"].producers == ("first", "inner")
    plan = plan_of(first=(0, 2))
    smaller, masked = compact(model, plan, architecture), copy.deepcopy(model)
    mask(masked, plan, architecture)
    assert smaller.inner is smaller.again
    torch.testing.assert_close(smaller(inputs), masked(inputs))
    assert predict(architecture, {"first": 4}) == measure(smaller, inputs)[:2]


def test_googlenet_trains_after_a_cut(
    random_plan: Callable[[Architecture, int], ChannelPlan],
) -> None:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", TorchvisionWarning)
        torch.manual_seed(0)
        model = import_torchvision().models.googlenet(num_classes=5, init_weights=False)
        inputs = torch.randn(2, 3, 32, 32)
        architecture = trace(model, inputs)
        smaller: Any = compact(model, random_plan(architecture, 0), architecture).train()
        outputs = tensors_of(smaller(inputs))
    assert len(outputs) == 3
    torch.stack([output.square().mean() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in smaller.parameters())
