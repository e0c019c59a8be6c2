"""Block after block: the masks are those of a loop in plain torch that prunes as it goes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gp_prune import Metric, prune
from gp_prune.apply import scoring, sequential
from gp_prune.apply.blocks import Chain, find_stack
from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.pruning import WeightPlan
from gp_prune.statistics import Batch
from gp_prune.tasks.language_models import LanguageModel, Size

SIZE = Size(width=16, depth=3, heads=4, groups=2, hidden=24)
TOKENS = torch.randint(0, 50, (12, 10), generator=torch.Generator().manual_seed(1))


class Crossing(nn.Module):
    """Blocks that do not follow one another: each also reads what the one before the last gave."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        before = x
        for block in self.blocks:
            x, before = block(x + before), x
        return x


def llama(*, llama: bool = True) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(SIZE, llama=llama, vocabulary=50, length=10).double().eval()


def linear_layers(module: nn.Module, prefix: str) -> dict[str, nn.Linear]:
    found = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    return {f"{prefix}.{name}" if name else prefix: layer for name, layer in found.items()}


def keep_highest(scores: Tensor, rule: str | float) -> Tensor:
    """Mark what stays of scores (o, i), in each row or each block of four."""
    if rule == "2:4":
        blocks = scores.reshape(scores.shape[0], -1, 4)
        marks = torch.zeros_like(blocks).scatter_(2, blocks.topk(2).indices, 1.0)
        return marks.reshape(scores.shape).bool()
    assert isinstance(rule, float)
    gone = int(scores.shape[1] * (1 - rule) + 0.5)
    lowest = scores.argsort(dim=1, stable=True)[:, :gone]
    return torch.ones_like(scores).scatter_(1, lowest, 0.0).bool()


def add_squares(
    squares: dict[str, Tensor], name: str, module: nn.Module, given: Any, output: Any
) -> None:
    """Sum the squares of the inputs of a layer, over samples and positions."""
    found = given[0].flatten(0, -2).square().sum(0)
    squares[name] = squares[name] + found if name in squares else found


def reference(
    model: nn.Module, stages: list[str], inputs: Tensor, rule: str | float
) -> dict[str, Tensor]:
    """Prune by Wanda, one stage after the other, and return the masks; ``model`` is changed."""
    masks: dict[str, Tensor] = {}
    for stage in stages:
        layers = linear_layers(model.get_submodule(stage), stage)
        squares: dict[str, Tensor] = {}
        hooks = [
            layer.register_forward_hook(partial(add_squares, squares, name))
            for name, layer in layers.items()
        ]
        with torch.no_grad():
            model(inputs)
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            masks[name] = keep_highest(layer.weight.detach().abs() * squares[name].sqrt(), rule)
        for name, layer in layers.items():
            layer.weight.data *= masks[name]
    return masks


def masks_of(plan: Any) -> dict[str, Tensor]:
    assert isinstance(plan, WeightPlan)
    return {name: torch.from_numpy(kept.unpack()) for name, kept in plan.kept.items()}


def check(
    build: Callable[[], nn.Module],
    stages: list[str],
    inputs: Tensor,
    rule: str | float,
    **more: Any,
) -> nn.Module:
    """Compare what `prune` keeps with the loop; return the pruned network."""
    budget = {"pattern": rule} if isinstance(rule, str) else {"keep_params": rule}
    batches = [Batch(inputs[start : start + 5]) for start in range(0, len(inputs), 5)]
    model = build()
    pruned = prune(
        model, "wanda_weight", inputs[:2], data=batches, sequential=True, **budget, **more
    )  # fmt: skip
    wanted = reference(build(), stages, inputs, rule)
    found = masks_of(pruned.plan)
    assert found.keys() == wanted.keys()
    for name, mask in wanted.items():
        assert torch.equal(found[name], mask), name
        weight = pruned.model.get_submodule(name).weight
        assert isinstance(weight, Tensor) and torch.equal(weight.ne(0), mask)
    assert pruned.report()["sequential"] is True
    once = prune(model, "wanda_weight", inputs[:2], data=batches, **budget, **more)
    apart = [not torch.equal(mask, found[name]) for name, mask in masks_of(once.plan).items()]
    assert any(apart)  # the order decides
    return pruned.model


@pytest.mark.parametrize("rule", [0.5, 0.3, "2:4"])
@pytest.mark.parametrize("kind", [True, False])
def test_language_models_are_pruned_block_after_block(
    rule: str | float, kind: bool, chains: list[bool]
) -> None:
    stages = [f"layers.{number}" for number in range(SIZE.depth)]
    check(lambda: llama(llama=kind), stages, TOKENS, rule, ignore=["head"])
    assert chains == [True]


def test_layers_outside_of_the_blocks_come_in_their_order() -> None:
    stages = [*(f"layers.{number}" for number in range(SIZE.depth)), "head"]
    check(llama, stages, TOKENS, 0.5)


def test_blocks_that_do_not_follow_one_another() -> None:
    def build() -> nn.Module:
        torch.manual_seed(3)
        return Crossing().double().eval()

    inputs = torch.randn(40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = build()
    assert find_stack(model) == ("blocks.0", "blocks.1", "blocks.2")
    assert not Chain(model, find_stack(model), None, 0).begin([Batch(inputs)])
    check(build, ["blocks.0", "blocks.1", "blocks.2"], inputs, 0.5)


def test_without_blocks_it_is_layer_after_layer() -> None:
    def build() -> nn.Module:
        torch.manual_seed(3)
        steps = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4)
        return nn.Sequential(*steps).double().eval()

    inputs = torch.randn(40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    check(build, ["0", "2", "4"], inputs, 0.5)


def test_gradients_are_those_of_the_whole_network_so_far() -> None:
    """SNIP, whose gradients pass through all blocks, against a loop in plain torch."""
    model, target = llama(), TOKENS.roll(-1, 1)

    def loss(output: Tensor, wanted: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output.flatten(0, 1), wanted.flatten())

    pruned = prune(
        model, Metric.parse("abs(W * G)"), TOKENS[:2], data=[Batch(TOKENS, target)], loss=loss,
        keep_params=0.5, sequential=True, ignore=["head"], conventions=Conventions("row", "none"),
    )  # fmt: skip
    network, found = llama(), masks_of(pruned.plan)
    for number in range(SIZE.depth):
        network.zero_grad()
        loss(network(TOKENS), target).backward()  # type: ignore[no-untyped-call]
        layers = linear_layers(network.layers[number], f"layers.{number}")
        for name, layer in layers.items():
            assert layer.weight.grad is not None
            mask = keep_highest((layer.weight * layer.weight.grad).detach().abs(), 0.5)
            assert torch.equal(found[name], mask), name
        for name, layer in layers.items():
            layer.weight.data *= found[name]


def test_in_place_the_network_itself_has_the_zeros() -> None:
    model = llama()
    kept = {name: parameter for name, parameter in model.named_parameters()}
    given: dict[str, Any] = {"data": [Batch(TOKENS)], "keep_params": 0.5, "ignore": ["head"]}
    copied = prune(model, "wanda_weight", TOKENS[:2], sequential=True, **given)
    assert copied.model is not model and all(
        bool((p != 0).all()) for p in model.layers.parameters()
    )
    pruned = prune(model, "wanda_weight", TOKENS[:2], sequential=True, in_place=True, **given)
    assert pruned.model is model and pruned.plan == copied.plan
    assert all(parameter is kept[name] for name, parameter in model.named_parameters())
    with torch.no_grad():
        assert torch.equal(model(TOKENS), copied.model(TOKENS))
    assert pruned.after == copied.after and pruned.achieved == copied.achieved
    once = llama()
    plain = prune(once, "wanda_weight", TOKENS[:2], in_place=True, **given)
    assert (
        plain.model is once
        and plain.plan == prune(llama(), "wanda_weight", TOKENS[:2], **given).plan
    )


def test_statistics_of_one_block_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []
    measure = scoring.measure_each

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(tuple(kwargs["layers"]))
        return measure(*args, **kwargs)

    monkeypatch.setattr(sequential, "measure_each", counted)
    given: dict[str, Any] = {"data": [Batch(TOKENS)], "ignore": ["head"]}
    prune(llama(), "wanda_weight", TOKENS[:2], keep_params=0.5, sequential=True, **given)
    assert [len(layers) for layers in seen] == [7] * SIZE.depth
    assert [{name.split(".")[1] for name in layers} for layers in seen] == [{"0"}, {"1"}, {"2"}]


@pytest.mark.parametrize(
    ("metric", "options", "words"),
    [
        ("l1", {"keep_params": 0.5}, "ranks channels, and sequential"),
        ("magnitude", {"keep_params": 0.5}, "scope 'global' ranks all of them together"),
        ("wanda_weight", {"keep_macs": 0.5}, "the budget is one of macs"),
        ("wanda_weight", {"keep_params": 0.5, "steps": 2}, "goes through the blocks once"),
    ],
)
def test_what_cannot_be_chosen_in_order_is_one_sentence(
    metric: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        prune(llama(), metric, TOKENS[:2], data=[Batch(TOKENS)], sequential=True, **options)


def test_shared_weights_are_refused() -> None:
    model = llama()
    model.layers[1].mlp.up_proj.weight = model.layers[0].mlp.up_proj.weight  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"'layers.0.mlp.up_proj' and 'layers.1.mlp.up_proj' share"):
        prune(
            model, "wanda_weight", TOKENS[:2], data=[Batch(TOKENS)], sequential=True,
            keep_params=0.5, ignore=["head"],
        )  # fmt: skip
