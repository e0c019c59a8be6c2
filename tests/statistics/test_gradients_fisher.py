"""Mean squared gradients of small batches, against an ordinary backward pass for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.metric.metric import Metric
from gp_prune.statistics import Batch, collect
from gp_prune.statistics.batches import batch_size, split_batch
from gp_prune.statistics.layers import dense_weight, prunable_layers, to_dense

Squares = dict[str, dict[str, Tensor]]


def squares_of(model: Any, rows: list[slice], whole: Batch) -> Squares:
    """Layer -> field -> mean over some samples each, by ordinary backward passes."""
    found: dict[str, dict[str, Any]] = {name: {} for name in prunable_layers(model)}
    inputs: Any = whole.inputs
    norms = {"conv": model.norm}
    for some in rows:
        model.zero_grad()
        functional.cross_entropy(model(inputs[some]), whole.target[some]).backward()  # type: ignore[no-untyped-call]
        for name, layer in prunable_layers(model).items():
            weight, slope = dense_weight(layer), to_dense(layer.weight.grad, layer)  # type: ignore[arg-type]
            norm = norms.get(name)
            by_filter = (weight * slope).sum((1, 2))
            by_scale = by_filter if norm is None else norm.weight.grad
            owner: Any = layer if norm is None else norm
            by_shift = torch.zeros_like(by_scale) if owner.bias is None else owner.bias.grad
            for field, value in (
                ("fisher", slope**2),
                ("filter_square", by_filter**2),
                ("gamma_square", by_scale**2),
                ("beta_square", by_shift**2),
                ("gamma_beta_product", by_scale * by_shift),
            ):
                share = len(inputs[some]) / len(inputs)
                found[name][field] = found[name].get(field, 0) + share * value
    return found


def assert_equal(records: dict[str, Any], expected: Squares) -> None:
    assert records.keys() == expected.keys()
    for name, fields in expected.items():
        for field, value in fields.items():
            assert bool(value.any()) or field in ("beta_square", "gamma_beta_product")
            torch.testing.assert_close(getattr(records[name], field), value, msg=f"{name} {field}")


@pytest.mark.parametrize("cuts", [(), (3, 4), (16,), (1, 40, 41, 66), tuple(range(70))])
def test_gradients_are_squared_per_32_samples_whatever_the_batches(
    mixture: Any, cuts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(70, 2, 6, 6, generator=generator).double()
    y = torch.randint(0, 3, (70,), generator=generator)
    expected = squares_of(mixture, [slice(0, 32), slice(32, 64), slice(64, 70)], Batch(x, y))
    batches = [Batch(*b) for b in zip(x.tensor_split(cuts), y.tensor_split(cuts), strict=True)]
    options: Any = {"needs": {"fisher"}, "loss": functional.cross_entropy}
    assert_equal(collect(mixture, None, batches, **options), expected)
    monkeypatch.setattr("gp_prune.statistics.surroundings.GRAPH_BYTES", 2**17)  # in small parts
    assert_equal(collect(mixture, None, batches, **options), expected)


def test_the_mini_batch_gate_of_molchanov_is_his_batch_norm(mixture: Any, whole: Batch) -> None:
    """A gate of 1 after the batch norm has the gradient that taylor_bn squares."""
    gate = torch.ones(mixture.norm.num_features).double().requires_grad_()
    hook = mixture.norm.register_forward_hook(
        lambda module, args, output: output * gate[:, None, None]
    )
    loss = functional.cross_entropy(mixture(whole.inputs), whole.target)
    (slope,) = torch.autograd.grad(loss, [gate])
    hook.remove()
    options: Any = {"needs": {"fisher"}, "loss": functional.cross_entropy}
    record = collect(mixture, ["conv"], [whole], **options)["conv"]
    torch.testing.assert_close(Metric.load("taylor_bn").scores(record), slope**2)


def test_a_layer_that_runs_twice_adds_up_before_squaring() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(2, 2, bias=False).double()
        x = torch.randn(4, 2).double()
    model = nn.Sequential(layer, nn.Tanh(), layer)
    loss = lambda output, target: (output - target).square().mean()  # noqa: E731
    record = collect(model, None, [Batch(x, x)], needs={"fisher"}, loss=loss)["0"]
    (grad,) = torch.autograd.grad(loss(model(x), x), [layer.weight])  # type: ignore[no-untyped-call]
    torch.testing.assert_close(record.require("fisher")[:, :, 0], grad.square())


@pytest.mark.parametrize("kind", ["tensor", "tuple", "dictionary"])
def test_cutting_keeps_every_sample(kind: str) -> None:
    values = torch.arange(9)
    kinds: dict[str, Any] = {
        "tensor": values,
        "tuple": (values, -values),
        "dictionary": {"a": values},
    }
    inputs = kinds[kind]
    whole = (Batch(inputs, values * 2, values), Batch(inputs))
    found = [part for batch in whole for part in split_batch(batch, 4)]
    assert [batch_size(batch.inputs) for batch in found] == [3, 3, 3] * 2
    first = [b.inputs if isinstance(b.inputs, Tensor) else next(iter(_values(b))) for b in found]
    assert torch.cat(first).tolist() == values.tolist() * 2
    labels: list[Any] = [batch.labels for batch in found[:3]]
    assert torch.cat(labels).tolist() == values.tolist()
    assert torch.cat([batch.target for batch in found[:3]]).tolist() == (values * 2).tolist()
    assert found[3].labels is None and found[3].target is None


def _values(batch: Batch) -> list[Tensor]:
    return list(batch.inputs.values() if isinstance(batch.inputs, dict) else batch.inputs)
