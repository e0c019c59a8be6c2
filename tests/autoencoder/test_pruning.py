"""Pruning events: exact numbers, held masks, the same sparsity for all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as sized
from hypothesis import strategies as st

from gp_prune import Metric
from gp_prune.autoencoder.data import FlatSamples
from gp_prune.autoencoder.networks import AutoencoderLayout, Pair, create_pair, module
from gp_prune.autoencoder.pruning import (
    PruningOperator,
    count_matched_weights,
    find_live_nodes,
    measure_sparsity,
    prune,
    round_share,
)
from gp_prune.autoencoder.schedule import draw_events, draw_events_to
from gp_prune.autoencoder.training import LOSSES
from gp_prune.errors import UserError
from gp_prune.metric.mutation import MetricMutation, random_mutation

LAYOUT = AutoencoderLayout((12, 20, 15, 4), (4, 15, 20, 12), True)
METRICS = {
    "node": ["conjunctive_activation", "activation_variance", "class_map_energy", "l1",
             "taylor_weights"],
    "weight": ["magnitude", "wanda_weight", "snip_weight"],
}  # fmt: skip
TRAIN = FlatSamples(
    (torch.rand(50, 12, generator=torch.Generator().manual_seed(0)) < 0.6).float(),
    labels=torch.arange(50) % 3,
)

operators = st.sampled_from(
    [("random", "node"), ("random", "weight")]
    + [(name, unit) for unit, names in METRICS.items() for name in names]
)


def operator(name: str, unit: str, amount: float = 0.1, regrow: bool = False) -> PruningOperator:
    mutation = (
        random_mutation(amount)
        if name == "random"
        else MetricMutation(Metric.load(name), 0.1, amount)
    )
    return PruningOperator(mutation, unit, 20, regrow)


def cut(pair: Pair, how: PruningOperator, seed: int = 0, stays: float | None = None) -> None:
    prune(pair, LAYOUT, how, TRAIN, LOSSES["l1"], seed, stays)


def live_weights(pair: Pair) -> list[int]:
    return [int(layer.weight.sum()) for half in pair for layer in half.layers(half.mask)]


@sized(max_examples=30)
@given(which=operators, amount=st.floats(0.01, 0.9), events=st.integers(1, 6))
def test_every_operator_removes_the_amount_of_every_layer_exactly(
    which: tuple[str, str], amount: float, events: int
) -> None:
    pair = create_pair(LAYOUT, 1)
    sizes = [20 * 12, 15 * 20, 4 * 15, 15 * 4, 20 * 15, 12 * 20]
    for number in range(1, events + 1):
        cut(pair, operator(*which, amount), seed=number)
        left = (1 - amount) ** number
        if which[1] == "node":
            alive = [int(nodes.sum()) for half in pair for nodes in find_live_nodes(half)]
            assert alive == [round_share(size, left) for size in (20, 15, 15, 20)]
        else:
            assert live_weights(pair) == [round_share(size, left) for size in sizes]
        assert pair.encoder.events == pair.decoder.events == number


@sized(max_examples=30)
@given(which=operators, stays=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_all_operators_end_with_as_many_weights_in_every_layer(
    which: tuple[str, str], stays: float, seed: int
) -> None:
    pair = create_pair(LAYOUT, seed)
    cut(pair, operator(*which), seed, stays)
    wanted = count_matched_weights(LAYOUT.encoder, stays) + count_matched_weights(
        LAYOUT.decoder, stays
    )
    assert live_weights(pair) == wanted
    assert measure_sparsity(pair) == pytest.approx(1 - sum(wanted) / (2 * (240 + 300 + 60)))
    before = [half.mask.clone() for half in pair]
    cut(pair, operator(*which), seed + 1, stays)  # it is there already
    assert all(torch.equal(half.mask, mask) for half, mask in zip(pair, before, strict=True))


@sized(max_examples=20)
@given(which=operators, amount=st.floats(0.05, 0.8), seed=st.integers(0, 99))
def test_code_and_output_are_kept_and_dead_nodes_have_no_weights(
    which: tuple[str, str], amount: float, seed: int
) -> None:
    pair = create_pair(LAYOUT, seed)
    cut(pair, operator(*which, amount), seed)
    for half in pair:
        layers, masks = half.layers(), half.layers(half.mask)
        assert masks[-1].bias.all()
        for place, alive in enumerate(find_live_nodes(half)):
            assert alive.any()
            assert not layers[place].weight[~alive].any()
            assert not layers[place].bias[~alive].any()
            assert not layers[place + 1].weight[:, ~alive].any()


def test_at_temperature_zero_the_least_nodes_go() -> None:
    pair = create_pair(LAYOUT, 3)
    sums = [layer.weight.abs().sum(1) for layer in pair.encoder.layers()]
    mutation = MetricMutation(Metric.load("l1"), 0.0, 0.25)
    cut(pair, PruningOperator(mutation, "node", 20, False))
    for alive, scores in zip(find_live_nodes(pair.encoder), sums, strict=False):
        assert scores[~alive].max() < scores[alive].min()


def first_activations(pair: Pair) -> torch.Tensor:
    """What the first hidden layer gives for all training samples, (n, nodes)."""
    layer = pair.encoder.layers()[0]
    return (TRAIN.inputs @ layer.weight.t() + layer.bias).relu()


def test_the_variance_operator_takes_the_nodes_that_vary_least() -> None:
    pair = create_pair(LAYOUT, 5)
    spread = first_activations(pair).std(0)
    mutation = MetricMutation(Metric.load("activation_variance"), 0.0, 0.25)
    cut(pair, PruningOperator(mutation, "node", 50, False))
    alive = find_live_nodes(pair.encoder)[0]
    assert spread[~alive].max() <= spread[alive].min()


def test_the_conjunctive_operator_takes_the_nodes_that_are_low_on_every_sample() -> None:
    pair = create_pair(LAYOUT, 5)
    layer = pair.encoder.layers()[0]
    layer.bias[[2, 7, 11]] = torch.tensor([-9.0, -9.0, -9.0])
    values = first_activations(pair)
    low, high = values.min(1, keepdim=True).values, values.max(1, keepdim=True).values
    always_low = ((values - low) / (high - low) < 0.1).all(0)
    assert 3 <= int(always_low.sum()) <= 5
    mutation = MetricMutation(Metric.load("conjunctive_activation"), 0.0, 0.25)
    cut(pair, PruningOperator(mutation, "node", 50, False))
    alive = find_live_nodes(pair.encoder)[0]
    assert int((~alive).sum()) == 5
    assert not alive[always_low].any()


def test_with_regrowth_weights_are_zero_once_and_nothing_is_masked() -> None:
    pair = create_pair(LAYOUT, 3)
    for number in range(3):
        cut(pair, operator("random", "node", 0.25, regrow=True), number)
        assert all(half.mask.all() for half in pair)
    zero = [int((layer.weight == 0).all(1).sum()) for layer in pair.encoder.layers()[:2]]
    assert 5 <= zero[0] <= 15 and 3 < zero[1] <= 12


def test_the_measured_network_is_the_one_that_is_trained() -> None:
    pair = create_pair(LAYOUT, 3)
    net = module(pair, LAYOUT)
    assert [name for name, part in net.named_children() if hasattr(part, "weight")] == [
        "encoder1", "encoder2", "latent", "decoder1", "decoder2", "output",
    ]  # fmt: skip
    pair.encoder.weights.zero_()
    assert not net.get_parameter("encoder1.weight").any()


def test_scores_that_are_not_finite_are_said_of_metric_and_layer() -> None:
    metric = Metric.parse("sum[i,k](div(W, sub(W, W)))", name="mine")
    how = PruningOperator(MetricMutation(metric), "node", 20, False)
    scores = torch.full((20,), float("nan"))
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(UserError, match="metric 'mine' does not rank the units of layer 'encoder1'"),
    ):
        patch.setattr(Metric, "scores", lambda self, record: scores[: len(record.weight)])
        cut(create_pair(LAYOUT, 1), how)


def test_labels_that_are_missing_are_missed() -> None:
    with pytest.raises(UserError, match="labels"):
        prune(
            create_pair(LAYOUT, 0), LAYOUT, operator("class_map_energy", "node"),
            FlatSamples(TRAIN.inputs), LOSSES["l1"], 0, None,
        )  # fmt: skip


chances = st.lists(st.floats(0, 1), min_size=1, max_size=40).map(tuple)


@given(chances=chances, cells=st.integers(1, 6), seed=st.integers(0, 9))
def test_events_of_cells(chances: tuple[float, ...], cells: int, seed: int) -> None:
    events = draw_events(chances, cells, seed)
    assert len(events.happens) == len(chances) and events.stays is None
    for chance, row in zip(chances, events.happens, strict=True):
        assert len(row) == cells
        assert not (chance == 0 and any(row)) and not (chance == 1 and not all(row))
    assert events == draw_events(chances, cells, seed)
    assert events.count == sum(map(sum, events.happens))


@given(chances=chances, target=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_events_to_a_sparsity_end_there(
    chances: tuple[float, ...], target: float, seed: int
) -> None:
    if not any(chances):
        with pytest.raises(UserError, match="never prunes"):
            draw_events_to(target, chances, 3, seed)
        return
    events = draw_events_to(target, chances, 3, seed)
    assert events.stays is not None
    assert events.count
    assert all(len(set(row)) == 1 for row in events.happens)
    last = max(t for t, row in enumerate(events.happens) if row[0])
    assert events.stays[last] == pytest.approx(1 - target)
    assert sorted(events.stays, reverse=True) == list(events.stays)
    alone = draw_events_to(target, chances, 1, seed)
    assert [row[0] for row in alone.happens] == [row[0] for row in events.happens]
