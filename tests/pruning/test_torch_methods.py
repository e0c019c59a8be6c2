"""Our pruning method: raw scores, exact counts, and masks that go together with torch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.pruning import (
    Architecture,
    Budget,
    ChannelPlan,
    Pattern,
    compact,
    mask,
    select_weights,
    unmask,
)
from gp_prune.pruning.torch_methods import ImportanceScores, MetricUnstructured

RAW = Conventions(scope="layer", normaliser="none")


def linear(rows: int = 3, columns: int = 4) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Linear(columns, rows)


def random_scores(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(
    values=st.lists(st.integers(-3, 3), min_size=12, max_size=12),
    earlier=st.lists(st.booleans(), min_size=12, max_size=12),
    amount=st.one_of(st.integers(0, 12), st.floats(0, 1)),
)
def test_removes_the_lowest_of_what_remains(
    values: list[int], earlier: list[bool], amount: Any
) -> None:
    layer = linear()
    remaining = [q for q in range(12) if earlier[q]]
    prune.custom_from_mask(layer, "weight", torch.tensor(earlier).reshape(3, 4))  # type: ignore[no-untyped-call]
    scores = torch.tensor(values, dtype=torch.float64).reshape(3, 4)
    count = round(amount * len(remaining)) if isinstance(amount, float) else amount
    ranks = len({values[q] for q in remaining}) > 1 or count in (0, len(remaining))
    if count > len(remaining) or not ranks:
        with pytest.raises(UserError, match=r"weights remain; give|equal, so they rank nothing"):
            MetricUnstructured.apply(layer, "weight", amount, importance_scores=scores)
        return
    MetricUnstructured.apply(layer, "weight", amount, importance_scores=scores)
    worst = sorted(remaining, key=lambda q: (values[q], q))
    stays = sorted(worst[count:])
    assert layer.weight_mask.flatten().nonzero().flatten().tolist() == stays
    assert isinstance(next(iter(layer._forward_pre_hooks.values())), prune.PruningContainer)


def test_negative_scores_are_less_than_positive_ones() -> None:
    layer = linear(1, 4)
    scores = torch.tensor([[-10.0, -1.0, 2.0, 3.0]])
    MetricUnstructured.apply(layer, "weight", 2, importance_scores=scores)
    assert layer.weight_mask.tolist() == [[0, 0, 1, 1]]
    theirs = linear(1, 4)
    prune.l1_unstructured(theirs, "weight", 2, importance_scores=scores)  # type: ignore[no-untyped-call]
    assert theirs.weight_mask.tolist() == [[1, 0, 0, 1]]  # what this method is here to avoid


@given(seed=st.integers(0, 50), amount=st.floats(0.05, 0.9))
def test_order_of_the_weights_does_not_matter(seed: int, amount: Any) -> None:
    scores = random_scores(seed, 24)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed + 1))
    method, ones = MetricUnstructured(amount), torch.ones(24)
    mask_first = method.compute_mask(scores, ones)[order]
    assert torch.equal(mask_first, method.compute_mask(scores[order], ones))


def test_equals_a_weight_plan() -> None:
    model, scores = nn.Sequential(linear(6, 5)), random_scores(1, 6, 5)
    plan = select_weights(model, ["0"], {"0": scores[:, :, None]}, RAW, Budget("params", 0.4))
    MetricUnstructured.apply(model[0], "weight", 0.6, importance_scores=scores)
    assert torch.equal(model[0].weight_mask != 0, plan.masks(model)["0", "weight"])  # type: ignore[arg-type]


def test_repeated_shares_are_of_what_remains() -> None:
    layer, scores = linear(8, 8), random_scores(0, 8, 8)
    for left in (32, 16, 8):
        MetricUnstructured.apply(layer, "weight", 0.5, importance_scores=scores)
        assert int(layer.weight_mask.sum()) == left
    best = scores.flatten().argsort(descending=True)[:8]
    assert layer.weight_mask.flatten().nonzero().flatten().tolist() == sorted(best.tolist())


@pytest.mark.parametrize("first", [prune.l1_unstructured, prune.random_unstructured])
def test_together_with_methods_of_torch_in_both_orders(first: Callable[..., Any]) -> None:
    layer, scores = linear(5, 8), random_scores(2, 5, 8)
    first(layer, "weight", 10)
    before = layer.weight_mask.clone()
    MetricUnstructured.apply(layer, "weight", 15, importance_scores=scores)
    assert int(layer.weight_mask.sum()) == 15
    assert not layer.weight_mask[before == 0].any()
    first(layer, "weight", 5)
    assert int(layer.weight_mask.sum()) == 10


def test_removal_keeps_the_zeros() -> None:
    layer, inputs = linear(), torch.ones(2, 4)
    MetricUnstructured.apply(layer, "weight", 5, importance_scores=random_scores(3, 3, 4))
    masked = layer(inputs)
    gone = layer.weight_mask == 0
    prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    assert not layer.weight[gone].any()
    assert torch.equal(layer(inputs), masked)


def test_state_dict_carries_the_mask() -> None:
    layer, inputs = linear(), torch.ones(2, 4)
    MetricUnstructured.apply(layer, "weight", 0.5, importance_scores=random_scores(3, 3, 4))
    other = nn.Linear(4, 3)
    MetricUnstructured.apply(other, "weight", 0, importance_scores=torch.zeros(3, 4))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(inputs), layer(inputs))
    assert torch.equal(other.weight_mask, layer.weight_mask)  # type: ignore[arg-type]


def test_a_masked_layer_can_be_copied_and_trained() -> None:
    layer = linear()
    MetricUnstructured.apply(layer, "weight", 0.5, importance_scores=random_scores(3, 3, 4))
    twin = copy.deepcopy(layer)
    optimiser = torch.optim.SGD(twin.parameters(), lr=0.5)
    twin(torch.ones(2, 4)).square().sum().backward()
    optimiser.step()
    twin(torch.ones(2, 4))
    assert not twin.weight[layer.weight_mask == 0].any()


class TestRefused:
    @pytest.mark.parametrize("amount", [-1, -0.5, 1.5, float("nan"), True, "half", None])
    def test_amounts(self, amount: Any) -> None:
        with pytest.raises(UserError, match="amount is"):
            MetricUnstructured(amount)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("masked", [False, True])
    def test_scores_that_are_not_finite(self, bad: float, masked: bool) -> None:
        layer = linear()
        if masked:
            prune.l1_unstructured(layer, "weight", 4)  # type: ignore[no-untyped-call]
        before = copy.deepcopy(layer.state_dict())
        scores = random_scores(0, 3, 4)
        scores[layer.weight != 0] = bad
        with pytest.raises(UserError, match="importance scores are NaN or infinite"):
            MetricUnstructured.apply(layer, "weight", 2, importance_scores=scores)
        assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
        assert prune.is_pruned(layer) is masked

    def test_scores_of_pruned_weights_may_be_anything(self) -> None:
        layer, scores = linear(), random_scores(0, 3, 4)
        prune.custom_from_mask(layer, "weight", torch.eye(3, 4))  # type: ignore[no-untyped-call]
        scores[0, 1] = torch.nan
        MetricUnstructured.apply(layer, "weight", 1, importance_scores=scores)
        assert int(layer.weight_mask.sum()) == 2

    def test_scores_of_another_shape(self) -> None:
        with pytest.raises(UserError, match=r"has shape \(3, 4\), its importance scores \(4, 3\)"):
            MetricUnstructured.apply(
                linear(), "weight", 1, importance_scores=random_scores(0, 4, 3)
            )

    def test_the_weights_themselves(self) -> None:
        layer = linear()
        with pytest.raises(UserError, match="pass importance_scores"):
            prune.global_unstructured([(layer, "weight")], MetricUnstructured, amount=0.5)
        assert not prune.is_pruned(layer)

    def test_parameters_without_scores(self) -> None:
        layer = linear()
        scores = ImportanceScores({(layer, "weight"): random_scores(0, 3, 4)})
        both = [(layer, "weight"), (layer, "bias")]
        with pytest.raises(UserError, match="parameter 'bias' of Linear has no importance scores"):
            prune.global_unstructured(
                both, MetricUnstructured, importance_scores=scores, amount=0.5
            )


class TestComposedMasks:
    """``mask`` on top of masks: what either of them removes is zero."""

    def test_weights_on_weights(self) -> None:
        model: Any = nn.Sequential(linear(4, 8))
        plans = [
            select_weights(
                model, ["0"], {"0": random_scores(seed, 4, 8, 1)}, RAW, Budget("params", 0.6)
            )
            for seed in (0, 1)
        ]
        kept = [plan.masks(model)["0", "weight"] for plan in plans]
        original = model[0].weight.detach().clone()
        for plan in plans:
            mask(model, plan)
        assert torch.equal(model[0].weight_mask != 0, kept[0] & kept[1])
        assert torch.equal(model[0].weight_orig, original)
        copy.deepcopy(model)
        unmask(model)
        assert torch.equal(model[0].weight, original * (kept[0] & kept[1]))

    def test_a_pattern_on_a_mask_of_torch(self) -> None:
        model: Any = nn.Sequential(linear(4, 8))
        plan = select_weights(
            model, ["0"], {"0": random_scores(0, 4, 8, 1)}, RAW, pattern=Pattern(2, 4)
        )
        kept = plan.masks(model)["0", "weight"]
        prune.l1_unstructured(model[0], "weight", 0.25)  # type: ignore[no-untyped-call]
        before = model[0].weight_mask != 0
        mask(model, plan)
        assert torch.equal(model[0].weight_mask != 0, before & kept)

    def test_channels_on_weights_compute_what_the_smaller_network_computes(
        self,
        fresh: Callable[..., Any],
        network: Callable[[str], Any],
        random_plan: Callable[[Architecture, int], ChannelPlan],
        weight_scores: Callable[[nn.Module, Architecture], dict[str, Tensor]],
    ) -> None:
        inputs, architecture = network("cnn-relu")[1:]
        model = fresh("cnn-relu").double().eval()
        scores = weight_scores(model, architecture)
        weights = select_weights(model, architecture, scores, RAW, Budget("params", 0.7))
        channels = random_plan(architecture, 0)
        mask(model, weights)
        with pytest.raises(UserError, match="unmask"):
            compact(model, channels, architecture)
        small = copy.deepcopy(model)
        unmask(small)
        small = compact(small, channels, architecture)
        mask(model, channels, architecture)
        with torch.no_grad():
            torch.testing.assert_close(model(inputs), small(inputs))

    def test_a_plan_of_another_network_changes_nothing(self) -> None:
        model: Any = nn.Sequential(linear(4, 8))
        plan = select_weights(
            model, ["0"], {"0": random_scores(0, 4, 8, 1)}, RAW, Budget("params", 0.5)
        )
        other = nn.Sequential(linear(4, 4))
        prune.l1_unstructured(other[0], "weight", 3)  # type: ignore[no-untyped-call]
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(UserError, match="use the network that the plan was made for"):
            mask(other, plan)
        assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
