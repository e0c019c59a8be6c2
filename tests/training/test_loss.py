from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.statistics import Batch
from gp_prune.tasks import Split
from gp_prune.tasks.task import error
from gp_prune.training.loss import Evaluation, evaluate, squared_errors, wrong_classes


def classifier() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).train()


def samples(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 6, generator=generator), torch.arange(count) % 3


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any))
def test_errors_do_not_depend_on_the_batches(sizes: list[int]) -> None:
    inputs, labels = samples(sum(sizes))
    model = classifier()
    flags, random = [m.training for m in model.modules()], torch.get_rng_state()
    cut = list(zip(inputs.split(sizes), labels.split(sizes), strict=True))
    by_label = evaluate(model, [Batch(x, None, y) for x, y in cut], wrong_classes)
    by_target = evaluate(model, [Batch(x, y) for x, y in cut], wrong_classes)
    assert by_label == by_target == Evaluation(by_label.error, sum(sizes))
    assert by_label.error == error("classification", model, Split(inputs, labels, labels))
    aims = torch.zeros(len(inputs), 3)
    squares = evaluate(model, [Batch(x, torch.zeros(len(x), 3)) for x, _ in cut], squared_errors)
    assert squares.error == pytest.approx(
        error("reconstruction", model, Split(inputs, aims, labels)), rel=1e-6
    )
    assert [m.training for m in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert model[0].num_batches_tracked == 0


class Wrapped(nn.Module):
    """Takes a named argument and gives its logits in a dictionary, a tuple or an object."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body, self.kind = classifier(), kind

    def forward(self, *, x: Tensor) -> object:
        logits = self.body(x)
        if self.kind == "dict":
            return {"loss": 0.0, "logits": logits}
        if self.kind == "tuple":
            return (logits, x)
        return torch.return_types.max((logits, x)) if self.kind == "object" else {"other": logits}


@pytest.mark.parametrize("kind", ["dict", "tuple", "object"])
def test_the_main_output_of_any_network(kind: str) -> None:
    inputs, labels = samples(12)
    expected = evaluate(classifier(), [Batch(inputs, labels)], wrong_classes)
    assert evaluate(Wrapped(kind), [Batch({"x": inputs}, labels)], wrong_classes) == expected
    found = evaluate(
        Wrapped(kind), [Batch(inputs, labels)], wrong_classes, forward_fn=lambda m, x: m(x=x)
    )
    assert found == expected


def test_what_cannot_be_judged_is_one_sentence() -> None:
    inputs, labels = samples(12)
    maps = nn.Sequential(nn.Unflatten(1, (2, 3)))
    cases = [
        (classifier(), [], wrong_classes, "no sample"),
        (classifier(), [Batch(inputs)], wrong_classes, "no class labels"),
        (classifier(), [Batch(inputs, labels.float())], wrong_classes, "no class labels"),
        (classifier(), [Batch(inputs, labels[:5])], wrong_classes, "no class labels"),
        (maps, [Batch(inputs, labels)], wrong_classes, r"shape \(12, 2, 3\)"),
        (classifier(), [Batch(inputs, inputs)], squared_errors, r"the target \(12, 6\)"),
        (classifier(), [Batch(inputs)], squared_errors, "the target NoneType"),
        (Wrapped("none"), [Batch({"x": inputs}, labels)], wrong_classes, "a dict without 'logits'"),
    ]
    for model, batches, measure, words in cases:
        with pytest.raises(UserError, match=words) as caught:
            evaluate(model, batches, measure)
        assert "\n" not in str(caught.value)
