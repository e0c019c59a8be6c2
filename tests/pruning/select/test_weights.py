"""Unstructured plans: only weights that exist are ranked, in exact number."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
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
    DegenerateScores,
    PackedMask,
    WeightPlan,
    mask,
    measure,
    select_channels,
    select_weights,
    unmask,
)
from gp_prune.pruning.select.channels import count_removed
from gp_prune.pruning.select.weights import mark_lowest, select_existing
from gp_prune.statistics.layers import to_dense

GLOBAL = Conventions(scope="global", normaliser="none")
LOCAL = Conventions(scope="layer", normaliser="none")
ROW = Conventions(scope="row", normaliser="none")
FIFTH = Budget("params", 0.2)


class Tiny(nn.Module):
    """Three layers of 6, 2 and 1 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 2), nn.Linear(2, 1), nn.Linear(1, 1)


@given(
    values=st.lists(st.integers(0, 4), min_size=9, max_size=9),
    keep=st.floats(0.01, 1),
    scope=st.sampled_from(["layer", "global"]),
)
def test_selection_equals_brute_force(values: list[int], keep: float, scope: str) -> None:
    parts = {"a": values[:6], "b": values[6:8], "c": values[8:]}
    shapes = {"a": (2, 3, 1), "b": (1, 2, 1), "c": (1, 1, 1)}
    scores = {n: torch.tensor(v, dtype=torch.float64).reshape(shapes[n]) for n, v in parts.items()}
    conventions = GLOBAL if scope == "global" else LOCAL
    try:
        plan = select_weights(Tiny(), "abc", scores, conventions, Budget("params", keep))
    except DegenerateScores as error:
        assert len(set(parts[error.layer])) == 1
        return
    ranked = sorted((v, n, q) for n, part in parts.items() for q, v in enumerate(part))
    stays = {n: [1] * len(part) for n, part in parts.items()}
    if scope == "global":
        wanted = min(count_removed(9, keep), 6)
    for _, n, q in ranked:
        if scope == "layer":
            size = len(parts[n])
            if size - sum(stays[n]) < count_removed(size, keep):
                stays[n][q] = 0
        elif wanted and sum(stays[n]) > 1:
            stays[n][q] = 0
            wanted -= 1
    assert {n: m.unpack().ravel().astype(int).tolist() for n, m in plan.kept.items()} == stays
    assert plan.achieved.params == pytest.approx(sum(map(sum, stays.values())) / 9)
    assert plan.achieved.macs is None


ROW_LAYERS: dict[str, Callable[[], Any]] = {
    "linear": lambda: nn.Linear(6, 4),
    "conv": lambda: nn.Conv2d(3, 4, (2, 3)),
    "grouped": lambda: nn.Conv1d(4, 6, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(3, 4, 2),
    "grouped transposed": lambda: nn.ConvTranspose1d(4, 6, 3, groups=2),
}


@given(
    kind=st.sampled_from(sorted(ROW_LAYERS)),
    keep=st.floats(0.01, 1),
    seed=st.integers(0, 9),
    levels=st.sampled_from([3, 1000]),
)
def test_scope_row_cuts_every_output_channel_alike(
    kind: str, keep: float, seed: int, levels: int
) -> None:
    layer = ROW_LAYERS[kind]()
    weight = layer.weight
    # Every weight by its own number, so that the dense form tells which one stands where.
    numbers = torch.arange(1.0, weight.numel() + 1, dtype=torch.float64).reshape(weight.shape)
    dense = to_dense(numbers, layer)
    levels_of = torch.randint(0, levels, dense.shape, generator=torch.Generator().manual_seed(seed))
    scores = levels_of.double()
    plan = select_weights(nn.Sequential(layer), ["0"], {"0": scores}, ROW, Budget("params", keep))
    stays = torch.from_numpy(plan.kept["0"].unpack())
    for row, row_scores in zip(dense, scores, strict=True):
        own = sorted(int(number) for number in row[row > 0])
        value = {int(n): float(s) for n, s in zip(row[row > 0], row_scores[row > 0], strict=True)}
        worst = sorted(own, key=lambda number: (value[number], number))
        gone = set(worst[: count_removed(len(own), keep)])
        assert {n for n in own if not stays.flatten()[n - 1]} == gone
    assert plan.achieved.params == pytest.approx(float(stays.float().mean()))


@given(seed=st.integers(0, 20))
def test_scope_row_does_not_see_the_scale_of_a_row(seed: int) -> None:
    model = nn.Sequential(nn.Linear(9, 5))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(5, 9, 1, generator=generator, dtype=torch.float64)
    scaled = scores * torch.tensor([1e-3, 1, 7, 1e4, 2.0])[:, None, None]
    plans = [
        select_weights(model, ["0"], {"0": s}, ROW, Budget("params", 0.4)) for s in (scores, scaled)
    ]
    assert plans[0].digest() == plans[1].digest()


def test_scope_row_meets_a_budget_of_macs(
    network: Callable[[str], Any],
    weight_scores: Callable[[nn.Module, Architecture], dict[str, Tensor]],
) -> None:
    model, _, architecture = network("lenet")
    scores = weight_scores(model, architecture)
    plan = select_weights(model, architecture, scores, ROW, Budget("macs", 0.5))
    assert plan.achieved.macs == pytest.approx(0.5, abs=0.03)


def test_scope_row_is_not_for_channels(
    network: Callable[[str], Any], channel_scores: Callable[..., dict[str, Tensor]]
) -> None:
    architecture = network("lenet").architecture
    with pytest.raises(UserError, match="scope 'row' ranks the weights within an output channel"):
        select_channels(architecture, channel_scores(architecture), ROW, Budget("channels", 0.5))


def test_ignored_layers_keep_all_weights(
    network: Callable[[str], Any],
    weight_scores: Callable[[nn.Module, Architecture], dict[str, Tensor]],
) -> None:
    model, _, architecture = network("lenet")
    scores = weight_scores(model, architecture)
    first = architecture.prunable_layers[0]
    del scores[first]
    plan = select_weights(
        model, architecture, scores, GLOBAL, Budget("params", 0.5), ignore=[first]
    )
    assert first not in plan.kept
    assert plan.achieved.params == pytest.approx(0.5, abs=1e-3)


@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=12), data=st.data())
def test_lowest_is_a_stable_ranking(values: list[int], data: Any) -> None:
    count = data.draw(st.integers(0, len(values)))
    expected = sorted(range(len(values)), key=lambda q: (values[q], q))[:count]
    marked = mark_lowest(np.array([values], dtype=float), count)[0]
    assert np.flatnonzero(marked).tolist() == sorted(expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_existing_weights_of_grouped_layers(kind: Any, groups: int) -> None:
    layer = kind(8, 12, 1, groups=groups, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, layer.weight.numel() + 1).reshape(layer.weight.shape))
        # What the layer does to each unit input channel is its dense matrix.
        dense = layer(torch.eye(8, dtype=torch.float64)[:, :, None])[:, :, 0].T
    found = select_existing(dense[:, :, None].numpy(), layer)
    assert found.tolist() == layer.weight.detach().ravel().tolist()


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, (2, 3)), nn.Linear(3, 4)])
def test_existing_weights_of_plain_layers(layer: Any) -> None:
    dense = layer.weight.detach().reshape(4, 3, -1).numpy()
    assert np.array_equal(select_existing(dense, layer), layer.weight.detach().numpy().ravel())


def test_existing_weights_of_a_transposed_layer() -> None:
    layer = nn.ConvTranspose2d(3, 4, (2, 3))
    dense = layer.weight.detach().transpose(0, 1).reshape(4, 3, 6).numpy()
    assert np.array_equal(select_existing(dense, layer), layer.weight.detach().numpy().ravel())


@pytest.mark.parametrize("name", ["cnn-relu", "conv-autoencoder", "partly-grouped", "depthwise"])
@pytest.mark.parametrize("conventions", [GLOBAL, LOCAL])
def test_masked_network_has_exactly_the_weights_asked_for(
    name: str,
    conventions: Conventions,
    fresh: Callable[..., Any],
    network: Callable[[str], Any],
    weight_scores: Callable[[nn.Module, Architecture], dict[str, Tensor]],
) -> None:
    inputs, architecture = network(name)[1:]
    model = fresh(name).double()
    plan = select_weights(
        model, architecture, weight_scores(model, architecture), conventions, FIFTH
    )
    weights = {n: model.get_submodule(n).weight.numel() for n in architecture.prunable_layers}
    total = sum(weights.values())
    if conventions is GLOBAL:
        kept = total - count_removed(total, 0.2)
    else:
        kept = sum(n - count_removed(n, 0.2) for n in weights.values())
    assert plan.achieved.params == kept / total
    mask(model, plan)
    assert prune.is_pruned(model)
    unmask(model)
    found = sum(
        int(torch.count_nonzero(model.get_submodule(n).weight))
        for n in architecture.prunable_layers
    )
    assert found == kept
    assert measure(model, inputs).params == architecture.dense_costs[1]


def test_macs_of_a_sparse_network(network: Callable[[str], Any]) -> None:
    model, _, architecture = network("lenet")
    scores = {}
    for name in architecture.prunable_layers:
        weight = model.get_submodule(name).weight
        values = torch.arange(weight.numel(), dtype=torch.float64)
        scores[name] = values.reshape(weight.shape[0], weight.shape[1], -1)
    plan = select_weights(model, architecture, scores, LOCAL, Budget("params", 0.5))
    # Each convolution weight is used at 784 and 100 positions.
    macs = 784 * 75 + 100 * 1200 + 4800 + 216 + 90
    assert plan.achieved.macs == pytest.approx(macs / architecture.dense_costs[0])


@pytest.mark.parametrize("conventions", [GLOBAL, LOCAL])
@pytest.mark.parametrize("keep", [0.1, 0.35, 0.8])
def test_a_budget_of_macs_is_met(
    network: Callable[[str], Any],
    weight_scores: Callable[[nn.Module, Architecture], dict[str, Tensor]],
    conventions: Conventions,
    keep: float,
) -> None:
    model, _, architecture = network("lenet")
    scores = weight_scores(model, architecture)
    plan = select_weights(model, architecture, scores, conventions, Budget("macs", keep))
    # One weight is used at most at 784 positions; per layer, one step removes one of each.
    assert plan.achieved.macs == pytest.approx(keep, abs=2 * 784 / architecture.dense_costs[0])
    by_params = select_weights(
        model, architecture, scores, conventions, Budget("params", plan.achieved.params)
    )
    assert by_params.achieved.macs == pytest.approx(plan.achieved.macs, abs=0.01)


def test_round_trip_and_digest(
    fresh: Callable[..., Any],
    network: Callable[[str], Any],
    weight_scores: Callable[[nn.Module, Architecture], dict[str, Tensor]],
) -> None:
    model, architecture = fresh("lenet"), network("lenet").architecture
    scores = weight_scores(model, architecture)
    plan = select_weights(model, architecture, scores, GLOBAL, FIFTH)
    again = WeightPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.digest() == plan.digest()
    other = select_weights(model, architecture, scores, GLOBAL, Budget("params", 0.21))
    assert other.digest() != plan.digest()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 99))
def test_packed_masks(shape: Any, seed: int) -> None:
    kept = np.random.default_rng(seed).random(shape) < 0.5
    packed = PackedMask.pack(kept)
    assert np.array_equal(packed.unpack(), kept)
    assert PackedMask.from_json(packed.to_json(), "a") == packed


class TestRefused:
    @pytest.mark.parametrize("kind", ["channels", "macs"])
    def test_other_budgets(self, kind: str) -> None:
        with pytest.raises(UserError, match=f"'{kind}' here; give a budget of kind 'params'"):
            select_weights(Tiny(), ["a"], {}, GLOBAL, Budget(kind, 0.5))

    def test_missing_scores(self) -> None:
        with pytest.raises(UserError, match="'a' has no scores"):
            select_weights(Tiny(), ["a"], {}, GLOBAL, FIFTH)

    def test_layers(self) -> None:
        with pytest.raises(UserError, match="no layer 'z'"):
            select_weights(Tiny(), ["z"], {}, GLOBAL, FIFTH)
        with pytest.raises(UserError, match="without prunable weights"):
            select_weights(nn.Sequential(nn.ReLU()), ["0"], {}, GLOBAL, FIFTH)
        with pytest.raises(UserError, match="name at least one"):
            select_weights(Tiny(), [], {}, GLOBAL, FIFTH)

    @pytest.mark.parametrize(
        ("scores", "reason"),
        [
            (torch.ones(2, 3, 1), "constant"),
            (torch.full((2, 3, 1), torch.nan), "non-finite"),
            (torch.rand(2, 3), "wrong-shape"),
            (torch.rand(3, 2, 1), "wrong-shape"),
        ],
    )
    def test_degenerate_scores(self, scores: Any, reason: str) -> None:
        with pytest.raises(DegenerateScores) as caught:
            select_weights(Tiny(), ["a"], {"a": scores}, GLOBAL, FIFTH)
        assert (caught.value.reason, caught.value.layer) == (reason, "a")

    def test_masked_model(self) -> None:
        model = Tiny()
        prune.l1_unstructured(model.a, "weight", 1)  # type: ignore[no-untyped-call]
        with pytest.raises(UserError, match="unmask"):
            select_weights(model, ["a"], {"a": torch.rand(2, 3, 1)}, GLOBAL, FIFTH)

    def test_plan_of_another_network(self) -> None:
        scores = {"a": torch.arange(6.0).reshape(2, 3, 1)}
        plan = select_weights(Tiny(), ["a"], scores, GLOBAL, FIFTH)
        other = Tiny()
        other.a = nn.Linear(2, 2)
        with pytest.raises(UserError, match=r"shape \(2, 2\), its mask \(2, 3\)"):
            mask(other, plan)
        assert not prune.is_pruned(other)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"shape": [2, 4]}, "does not fit its digest"),
            ({"shape": [200, 3]}, "do not fill its shape"),
            ({"shape": [0, 3]}, "at least 1"),
            ({"bits": "!"}, "damaged"),
            ({"bits": "AAAA"}, "damaged"),
            ({"extra": 1}, "unknown field 'extra'"),
        ],
    )
    def test_damaged_masks(self, change: Any, message: str) -> None:
        scores = {"a": torch.arange(6.0).reshape(2, 3, 1)}
        data = select_weights(Tiny(), ["a"], scores, GLOBAL, FIFTH).to_json()
        data["kept"]["a"] |= change
        with pytest.raises(UserError, match=message):
            WeightPlan.from_json(data)
