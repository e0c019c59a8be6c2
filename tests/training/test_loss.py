from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.errors import UserError
from gp_prune.statistics import Batch
from gp_prune.training import FineTuning, fine_tune
from gp_prune.training.loss import (
    Evaluation,
    distance,
    evaluate,
    main_output,
    squared_errors,
    wrong_classes,
)


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
    cut = list(zip(torch.split(inputs, sizes), torch.split(labels, sizes), strict=True))
    by_label = evaluate(model, [Batch(x, None, y) for x, y in cut], wrong_classes)
    by_target = evaluate(model, [Batch(x, y) for x, y in cut], wrong_classes)
    assert by_label == by_target == Evaluation(by_label.error, sum(sizes))
    with torch.no_grad():
        outputs = copy.deepcopy(model).eval()(inputs)
    assert by_label.error == int((outputs.argmax(1) != labels).sum()) / len(labels)
    squares = evaluate(model, [Batch(x, torch.zeros(len(x), 3)) for x, _ in cut], squared_errors)
    assert squares.error == pytest.approx(float(outputs.double().square().mean()), rel=1e-6)
    assert [m.training for m in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert model.get_buffer("0.num_batches_tracked") == 0


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
        (
            Wrapped("none"),
            [Batch({"x": inputs}, labels)],
            wrong_classes,
            "of type dict without 'logits'",
        ),
    ]
    for model, batches, measure, words in cases:
        with pytest.raises(UserError, match=words) as caught:
            evaluate(model, batches, measure)
        assert "\n" not in str(caught.value)


SEEDS = st.integers(0, 2**31)


def logits(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=SEEDS, temperature=st.floats(0.5, 9), places=st.integers(1, 3))
def test_classes_are_compared_by_their_softened_shares(
    seed: int, temperature: float, places: int
) -> None:
    output, taught = logits(seed, 5, 4, places), logits(seed + 1, 5, 4, places)
    p, q = ((x / temperature).exp() for x in (taught, output))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
    target = torch.zeros(5, places, dtype=torch.long)
    torch.testing.assert_close(distance(output, taught, target, temperature), expected)
    assert distance(output, output, target, temperature).abs() < 1e-12
    assert distance(output, taught, target, temperature) > 0


def test_tokens_are_compared_by_their_softened_shares_at_each_position() -> None:
    output, taught = logits(0, 5, 4, 7), logits(1, 5, 4, 7)
    target = torch.zeros(5, 4, dtype=torch.long)
    # Every position of a sequence is a sample of its own.
    expected = distance(output.flatten(0, 1), taught.flatten(0, 1), target.flatten(), 3.0)
    torch.testing.assert_close(distance(output, taught, target, 3.0), expected)


def test_other_targets_are_compared_by_squares() -> None:
    output, taught = logits(0, 3, 2), logits(1, 3, 2)
    expected = (output - taught).square().mean()
    torch.testing.assert_close(distance(output, taught, torch.zeros(3, 2), 4.0), expected)


def test_outputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="same shape"):
        distance(logits(0, 3, 2), logits(0, 3, 4), torch.zeros(3), 4.0)
    with pytest.raises(UserError, match="of type float without 'logits'"):
        main_output(3.0)
    with pytest.raises(UserError, match="of type list without"):
        main_output([])


def perceptron(seed: int, outputs: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs))


@pytest.mark.parametrize("outputs", [3, 4])
def test_with_the_whole_share_the_target_does_not_count(outputs: int) -> None:
    """A student that learns from the teacher alone comes nearer to it, whatever the target is."""
    inputs = logits(0, 60, 4).float()
    teacher = perceptron(1, outputs)
    classes = outputs == 3
    found = []
    for seed in (2, 3):
        wrong = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(seed))
        target = wrong if classes else torch.zeros(60, 4) + seed
        student = perceptron(0, outputs)
        before = functional.mse_loss(student(inputs).softmax(1), teacher(inputs).softmax(1))
        loss = functional.cross_entropy if classes else functional.mse_loss
        how = FineTuning(epochs=60, distill=1.0, learning_rate=0.05, temperature=2.0)
        fine_tune(student, (inputs, target), loss, how, teacher=teacher)
        after = functional.mse_loss(student(inputs).softmax(1), teacher(inputs).softmax(1))
        assert after < before / 4
        found.append(student.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_half_a_share_is_the_mean_of_both_losses() -> None:
    inputs, target = logits(0, 16, 4).float(), torch.arange(16) % 3
    teacher, student = perceptron(1, 3), perceptron(0, 3)
    how = FineTuning(epochs=1, distill=0.25, temperature=3.0, learning_rate=1e-9)
    output = student(inputs)
    expected = 0.75 * functional.cross_entropy(output, target) + 0.25 * distance(
        output, teacher(inputs), target, 3.0
    )
    history = fine_tune(
        copy.deepcopy(student), (inputs, target), functional.cross_entropy, how, teacher=teacher
    )
    assert history.epochs[0].loss == pytest.approx(float(expected.detach()), rel=1e-5)
