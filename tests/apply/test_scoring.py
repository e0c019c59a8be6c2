"""Scores that are measured once prune as the metric itself does, and data is limited as it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gp_prune import (
    AutoencodeSettings,
    FineTuning,
    GeneticSettings,
    LayerScores,
    Metric,
    SearchConfig,
    load_task,
    own_data,
    prune,
    score_layers,
)
from gp_prune.apply.batches import as_batches
from gp_prune.errors import DegenerateScores, UserError
from gp_prune.statistics import Batch
from gp_prune.statistics.coverage import CoverageWarning
from gp_prune.statistics.running import tensors_of

Pairs = list[tuple[torch.Tensor, torch.Tensor]]
Budgets = dict[str, Any]
CROSS_ENTROPY = functional.cross_entropy


@pytest.fixture
def encoder() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    return nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 3)).eval()


@pytest.mark.parametrize(
    ("metric", "budgets"),
    [
        ("l1", [{"keep_macs": 0.5}, {"pruning_ratio": 0.3, "round_to": 4}]),
        ("taylor_bn", [{"keep_params": 0.4, "mode": "mask"}, {"keep_macs": 0.8}]),
        ("group_taylor", [{"keep_channels": 0.5, "interface": ("first",)}, {"keep_macs": 0.3}]),
        ("mean_activation", [{"keep_macs": 0.5, "ignore": ["thir*"]}, {"keep_macs": 0.6}]),
        ("wanda_weight", [{"keep_params": 0.5, "ignore": ["output"]}, {"pattern": "2:4"}]),
        ("random", [{"keep_macs": 0.5}, {"keep_channels": 0.25}]),
    ],
)
def test_scores_prune_as_their_metric_does(
    residual: nn.Module, images: torch.Tensor, batches: Pairs, metric: str, budgets: list[Budgets]
) -> None:
    measured: dict[str, Any] = {"data": batches, "loss": CROSS_ENTROPY}
    scores = score_layers(residual, metric, **measured)
    for budget in budgets:
        once = prune(residual, scores, images, **budget)
        again = prune(residual, metric, images, **budget, **measured)
        assert once.plan.digest() == again.plan.digest()
        assert (once.metric, once.metric_digest) == (again.metric, again.metric_digest)
        assert once.rows == again.rows


@pytest.mark.parametrize("options", [{}, {"cut_residual": True}])
def test_scores_of_attention_and_below_norms(encoder: nn.Module, options: Budgets) -> None:
    inputs = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    scores = score_layers(encoder, "l1", example_inputs=inputs)
    once = prune(encoder, scores, inputs, keep_macs=0.6, **options)
    assert (
        once.plan.digest() == prune(encoder, "l1", inputs, keep_macs=0.6, **options).plan.digest()
    )


def test_scores_say_what_they_are(residual: nn.Module, batches: Pairs) -> None:
    scores = score_layers(residual, Metric.load("l2"), batches)
    assert isinstance(scores, LayerScores) and set(scores.scores) == {"first", "second", "third"}
    assert repr(scores) == "<LayerScores of 3 layers by 'l2'>"
    third = dict(residual.named_parameters())["third.weight"].detach()
    expected = third.double().flatten(1).norm(dim=1)
    torch.testing.assert_close(scores.scores["third"], expected)


def test_scores_of_other_weights_are_refused(residual: nn.Module, images: torch.Tensor) -> None:
    scores = score_layers(residual, "l1", example_inputs=images)
    with torch.no_grad():
        next(residual.parameters()).view(-1)[0] += 1
    with pytest.raises(UserError, match="scores of metric 'l1' belong to other weights than the"):
        prune(residual, scores, images, keep_macs=0.5)
    with pytest.raises(UserError, match="other weights"):
        prune(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), scores, images, keep_macs=0.5)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_networks_of_any_precision_are_told_apart(perceptron: nn.Module, kind: torch.dtype) -> None:
    model, inputs = perceptron.to(kind), torch.ones(2, 6, dtype=kind)
    scores = score_layers(model, "l1", example_inputs=inputs)
    assert prune(model, scores, inputs, keep_macs=0.5).met
    with pytest.raises(UserError, match="other weights"):
        prune(model.to(torch.float32), scores, inputs.to(torch.float32), keep_macs=0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": [torch.ones(2, 3, 10, 10)]}, "data is for scoring, and the layers are scored"),
        ({"loss": CROSS_ENTROPY}, "loss is for scoring"),
        ({"samples": 3}, "samples is for scoring"),
        ({"max_memory": "1GB"}, "max_memory is for scoring"),
        ({"steps": 2}, "steps is 2, and each step scores what the one before left"),
    ],
)
def test_options_of_scoring_are_refused_beside_scores(
    residual: nn.Module, images: torch.Tensor, options: Budgets, words: str
) -> None:
    scores = score_layers(residual, "l1", example_inputs=images)
    with pytest.raises(UserError, match=words):
        prune(residual, scores, images, keep_macs=0.5, **options)


@pytest.mark.parametrize("call", ["prune", "score_layers"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "resnet18"}, "the model is the text 'resnet18'; give a torch.nn.Module"),
        ({"model": None}, "the model is a value of type NoneType; give"),
        ({"metric": 5}, "the metric is of type int; give a Metric, the name of a bundled one"),
        ({"metric": None}, "the metric is of type NoneType"),
        ({"device": "nonsense"}, "device 'nonsense' is not available here; use 'cpu'"),
        ({"device": "meta"}, "device 'meta' is not available here"),
        ({"device": 1.5}, "device '1.5' is not available here"),
        ({"seed": -1}, "seed.* is -1; it must be a whole number from 0 to 9223372036854775807"),
        ({"seed": 10**23}, "seed.* is 10{23}; it must be a whole number"),
        ({"seed": "a"}, "seed.* is 'a'; it must be a whole number"),
        ({"samples": 0}, "samples.* is 0; it must be a whole number, at least 1"),
        ({"samples": 2.5}, "samples.* is 2.5; it must be a whole number"),
        ({"samples": True}, "samples.* is True; it must be a whole number"),
        ({"max_memory": "2"}, "max_memory.* is '2', which has no unit"),
        ({"max_memory": 0}, "max_memory.* is 0; it must be at least 1 byte"),
        ({"max_memory": 1.5}, "max_memory.* is 1.5; give a size with its unit"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    residual: nn.Module, images: torch.Tensor, batches: Pairs, call: str, options: Budgets,
    words: str,
) -> None:  # fmt: skip
    given: Budgets = {"model": residual, "metric": "l1", "data": batches, **options}
    with pytest.raises(UserError, match=words):
        if call == "prune":
            prune(**given, example_inputs=images, keep_macs=0.5)
        else:
            score_layers(**given, example_inputs=images)


def test_nothing_to_run_the_network_on(residual: nn.Module) -> None:
    with pytest.raises(UserError, match="give data or example_inputs"):
        score_layers(residual, "l1")


def stream(pairs: Pairs) -> Iterator[Batch]:
    return (Batch(inputs, target) for inputs, target in pairs)


@pytest.mark.parametrize("samples", [1, 6, 8, 12, 100, None])
@pytest.mark.parametrize("form", ["list", "loader", "iterator", "pair"])
def test_the_first_samples_of_batches(batches: Pairs, form: str, samples: int | None) -> None:
    inputs, target = (torch.cat(part) for part in zip(*batches, strict=True))
    loader = DataLoader(TensorDataset(inputs, target), batch_size=5)
    data = {
        "list": batches,
        "loader": loader,
        "iterator": stream(batches),
        "pair": (inputs, target),
    }
    found = list(as_batches(data[form], samples=samples, seed=3))
    assert torch.equal(torch.cat([tensors_of(b.inputs)[0] for b in found]), inputs[:samples])
    assert torch.equal(torch.cat([batch.target for batch in found]), target[:samples])


def test_samples_of_a_data_set_are_a_choice_by_seed() -> None:
    data = TensorDataset(torch.arange(50.0)[:, None], torch.arange(50))
    chosen = {
        seed: torch.cat([b.target for b in as_batches(data, samples=20, seed=seed)])
        for seed in (0, 0, 1)
    }
    assert all(len(set(numbers.tolist())) == 20 for numbers in chosen.values())
    assert not torch.equal(chosen[0], chosen[1])
    again = torch.cat([b.target for b in as_batches(data, samples=20, seed=0)])
    assert torch.equal(chosen[0], again)
    whole = torch.cat([b.target for b in as_batches(data, samples=50, seed=0)])
    assert torch.equal(whole, torch.arange(50))


def test_samples_decide_the_scores(
    residual: nn.Module, images: torch.Tensor, batches: Pairs
) -> None:
    few = [(inputs[:2], target[:2]) for inputs, target in batches[:1]]
    options: Budgets = {"loss": CROSS_ENTROPY, "keep_macs": 0.5}
    limited = prune(residual, "taylor_bn", images, data=batches, samples=2, **options)
    same = prune(residual, "taylor_bn", images, data=few, **options)
    assert limited.plan.digest() == same.plan.digest()
    scores = score_layers(residual, "taylor_bn", batches, samples=2, loss=CROSS_ENTROPY)
    other = score_layers(residual, "taylor_bn", few, loss=CROSS_ENTROPY)
    for name, values in scores.scores.items():
        torch.testing.assert_close(values, other.scores[name])


def test_a_limit_of_memory_is_told_where_it_is_met(
    residual: nn.Module, images: torch.Tensor, batches: Pairs
) -> None:
    """A formula that needs all samples at once sees a part; what is merged sees everything."""
    options: Budgets = {"data": batches, "loss": CROSS_ENTROPY}
    whole = prune(residual, "di", images, **options, keep_macs=0.5)
    assert whole.report()["measured"] == "12 samples, all positions"
    with pytest.warns(CoverageWarning, match=r"of 12 samples and .*more with --max-memory") as told:
        part = prune(residual, "di", images, **options, max_memory="2kB", keep_macs=0.5)
    assert len(told) == 1 and part.remarks[-1] == str(told[0].message)
    assert part.report()["max_memory"] == 2000
    with pytest.warns(CoverageWarning) as again:
        scores = score_layers(residual, "di", **options, max_memory=2000)
    assert str(again[0].message) == str(told[0].message)
    assert prune(residual, scores, images, keep_macs=0.5).remarks == part.remarks
    merged = prune(residual, "taylor_gate", images, **options, max_memory="2kB", keep_macs=0.5)
    everything = prune(residual, "taylor_gate", images, **options, keep_macs=0.5)
    assert merged.plan.digest() == everything.plan.digest() and merged.remarks == ()


def test_scores_that_are_equal_because_of_the_limit_say_so(
    residual: nn.Module, images: torch.Tensor, batches: Pairs
) -> None:
    with pytest.raises(DegenerateScores, match=r"note that .* not fit 1B of memory; allow"):
        prune(
            residual, "di", images, data=batches, loss=CROSS_ENTROPY, keep_macs=0.5, max_memory="1B"
        )


@pytest.mark.parametrize("seed", [-1, 10**23, "a", 1.0, True])
def test_every_seed_has_one_rule(residual: nn.Module, images: torch.Tensor, seed: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: prune(residual, "l1", images, keep_macs=0.5, seed=seed),
        lambda: score_layers(residual, "l1", example_inputs=images, seed=seed),
        lambda: Metric.load("l1").as_importance(residual, images, seed=seed),
        lambda: Metric.load("magnitude").importance_scores(residual, None, images, seed=seed),
        lambda: own_data((torch.zeros(20, 3, 10, 10), torch.arange(20) % 5), seed=seed),
        lambda: load_task("lenet-digits", seed=seed),
        lambda: FineTuning(epochs=1, seed=seed),
        lambda: SearchConfig(seed=seed),
        lambda: GeneticSettings(seed=seed),
        lambda: AutoencodeSettings(seed=seed),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"seed.* is .*; it must be a whole number from 0 to 9"):
            call()


def test_importances_keep_to_samples_and_memory(residual: nn.Module, batches: Pairs) -> None:
    options: Budgets = {"data": batches, "loss": CROSS_ENTROPY}
    metric = Metric.load("wanda_weight")
    few = metric.importance_scores(residual, **options, samples=3)
    same = metric.importance_scores(residual, data=[batches[0][0][:3]], loss=CROSS_ENTROPY)
    for key, values in few.items():
        torch.testing.assert_close(values, same[key])
    with pytest.raises(UserError, match="max_memory is '3', which has no unit"):
        metric.importance_scores(residual, **options, max_memory="3")
    with pytest.raises(UserError, match="samples is 0; it must be"):
        metric.importance_scores(residual, **options, samples=0)
