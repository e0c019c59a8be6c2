"""Compare the formulas that rank weights of language models with the published procedures.

What is computed here follows the published code step by step, on a hook of every linear layer: it
reads tokens as rows, adds up batch by batch, and knows nothing of axes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget, select_weights
from gp_prune.statistics import Batch, collect, prunable_layers
from gp_prune.tasks.language_models import LanguageModel, Size
from gp_prune.training.loss import token_loss

SEQUENCES, LENGTH = 12, 10
SIZE = Size(width=16, depth=2, heads=4, groups=2, hidden=24)


@pytest.fixture(scope="module", params=[True, False], ids=["llama", "gpt"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(3)
    return LanguageModel(SIZE, llama=request.param, vocabulary=20, length=LENGTH).eval()


@pytest.fixture(scope="module")
def sequences() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 20, (SEQUENCES, LENGTH + 1), generator=generator)


@pytest.fixture(scope="module")
def published(model: LanguageModel, sequences: Tensor) -> dict[str, dict[str, Tensor]]:
    """Layer -> name of a formula -> scores (o, i), one sequence after the other."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    rows: dict[str, Tensor] = {}
    energy = {n: torch.zeros(m.in_features, dtype=torch.float64) for n, m in layers.items()}
    gram = {n: torch.zeros(m.in_features, m.in_features).double() for n, m in layers.items()}
    squares = {n: torch.zeros_like(m.weight, dtype=torch.float64) for n, m in layers.items()}

    def remember(name: str) -> object:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows[name] = args[0].detach().reshape(-1, args[0].shape[-1]).double()

        return hook

    hooks = [m.register_forward_pre_hook(remember(n)) for n, m in layers.items()]  # type: ignore[arg-type]
    for sequence in sequences:
        model.zero_grad()
        logits = model(sequence[None, :-1])
        functional.cross_entropy(logits[0], sequence[1:]).backward()  # type: ignore[no-untyped-call]
        for name, layer in layers.items():
            assert layer.weight.grad is not None
            energy[name] += rows[name].square().sum(0) / SEQUENCES
            gram[name] += 2 / SEQUENCES * rows[name].T @ rows[name]
            squares[name] += (layer.weight.grad.double() * 100).square()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    scores: dict[str, dict[str, Tensor]] = {}
    for name, layer in layers.items():
        weight = layer.weight.detach().double()
        size, gradient = weight.abs(), squares[name].sqrt()
        damped = gram[name] + 0.01 * gram[name].diag().mean() * torch.eye(len(gram[name])).double()
        factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True).diag()
        share = size / size.sum(0) + size / size.sum(1).reshape(-1, 1)
        spread = (gradient - gradient.min()) / (gradient.max() - gradient.min())
        scores[name] = {
            "wanda_weight": size * energy[name].sqrt().reshape(1, -1),
            "ria_weight": share * energy[name].sqrt() ** 0.5,
            "pruner_zero_weight": weight.square() * spread,
            "sparsegpt_weight": weight.square() / factor.square(),
        }
    return scores


@pytest.fixture(scope="module")
def ours(model: LanguageModel, sequences: Tensor) -> dict[str, Mapping[str, Tensor]]:
    """Name of a formula -> layer -> scores (o, i)."""
    names = ("wanda_weight", "ria_weight", "pruner_zero_weight", "sparsegpt_weight")
    found: dict[str, Mapping[str, Tensor]] = {}
    for name in names:
        expression = Metric.load(name).expression
        parts = (sequences[:5], sequences[5:10], sequences[10:])
        batches = [Batch(part[:, :-1], part[:, 1:]) for part in parts]
        records = collect(model, None, batches, expressions=[expression], loss=token_loss)
        metric = Metric.load(name)
        found[name] = {n: metric.scores(record)[:, :, 0] for n, record in records.items()}
    return found


@pytest.mark.parametrize(
    "name", ["wanda_weight", "ria_weight", "pruner_zero_weight", "sparsegpt_weight"]
)
def test_scores_are_those_of_the_published_code(
    name: str,
    published: dict[str, dict[str, Tensor]],
    ours: dict[str, Mapping[str, Tensor]],
) -> None:
    assert len(published) > 10
    for layer, scores in published.items():
        theirs, mine = scores[name], ours[name][layer]
        # The code divides sums by the number of sequences: the same factor for all weights.
        factor = theirs.mean() / mine.mean()
        torch.testing.assert_close(
            mine * factor, theirs, rtol=1e-5, atol=1e-5 * float(theirs.max())
        )


def test_wanda_keeps_the_weights_that_its_code_keeps(
    model: LanguageModel,
    published: dict[str, dict[str, Tensor]],
    ours: dict[str, Mapping[str, Tensor]],
) -> None:
    layers = [*prunable_layers(model)]
    scores = {n: s.unsqueeze(-1).numpy() for n, s in ours["wanda_weight"].items()}
    conventions = Metric.load("wanda_weight").conventions
    plan = select_weights(model, layers, scores, conventions, Budget("params", 0.5))
    for name in layers:
        order = published[name]["wanda_weight"].sort(dim=-1, stable=True).indices
        removed = torch.zeros(order.shape, dtype=torch.bool)
        removed.scatter_(1, order[:, : int(order.shape[1] * 0.5)], True)
        np.testing.assert_array_equal(plan.kept[name].unpack(), ~removed.numpy())
