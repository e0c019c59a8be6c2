"""Formulas on grouped layers, beside plain computations on the filters of each group."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.language.axes import Signature
from gp_prune.language.interpreter import Interpreter, evaluate
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives, operator
from gp_prune.language.record import LayerRecord
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.statistics import Batch, collect, prunable_layers

Array = NDArray[np.float64]


class Net(nn.Module):
    """A grouped, a depthwise, a multiplying depthwise and a grouped transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.grouped = nn.Conv2d(6, 9, 3, padding=1, groups=3)
        self.norm = nn.BatchNorm2d(9)
        self.depthwise = nn.Conv2d(9, 9, 3, groups=9)
        self.twice = nn.Conv2d(9, 18, (1, 2), groups=9)
        self.up = nn.ConvTranspose2d(18, 4, 2, groups=2)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        x = functional.relu(self.norm(self.grouped(self.first(x).relu())))
        x = self.twice(self.depthwise(x).relu()).relu()
        return self.out(self.up(x).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def records() -> dict[str, LayerRecord]:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = Net().double().eval()
        x = torch.randn(36, 3, 6, 6).double()
    y = torch.arange(36) % 3
    needs = frozenset().union(*(Metric.load(name).needs for name in bundled_metrics()))
    with torch.random.fork_rng():
        return collect(
            model, None, [Batch(x, y, y)], needs=needs, loss=functional.cross_entropy, outgoing={}
        )


GROUPED = ("grouped", "depthwise", "twice", "up")


def own(record: LayerRecord, field: str) -> Array:
    """(o, i / groups, k): the entries of each channel's own group."""
    dense = getattr(record, field).numpy()
    outputs, inputs = dense.shape[0] // record.groups, dense.shape[1] // record.groups
    rows = []
    for channel, row in enumerate(dense):
        group = channel // outputs
        rows.append(row[group * inputs : (group + 1) * inputs])
    return np.stack(rows)


def read(record: LayerRecord, field: str) -> Array:
    """(o, i / groups, k): what each channel reads of numbers per input."""
    values = getattr(record, field).numpy()
    inputs = len(values) // record.groups
    outputs = len(record.weight) // record.groups
    groups = [channel // outputs for channel in range(len(record.weight))]
    return np.stack([values[g * inputs : (g + 1) * inputs] for g in groups])


def by_input(record: LayerRecord, values: Array, function: Callable[[Array], Array]) -> Array:
    """Reduce (o, i / groups, k) over the channels that read each input."""
    parts = np.split(values, record.groups)
    return np.asarray(np.concatenate([function(part) for part in parts]))


def distances(filters: Array) -> Array:
    flat = filters.reshape(len(filters), -1)
    return np.asarray(np.sqrt(((flat[:, None] - flat[None]) ** 2).sum(-1)))


def geo_median(record: LayerRecord) -> Array:
    filters = own(record, "weight")
    medoid = filters[distances(filters).sum(1).argmin()]
    return np.asarray(np.sqrt(((filters - medoid) ** 2).sum((1, 2))))


def pruner_zero(record: LayerRecord) -> Array:
    size = np.sqrt(own(record, "sample_fisher"))
    scaled = (size - size.min()) / (size.max() - size.min())
    return np.asarray((own(record, "weight") ** 2 * scaled).sum((1, 2)))


def ria(record: LayerRecord) -> Array:
    weight = np.abs(own(record, "weight"))
    column = by_input(record, weight, lambda part: part.sum(0))
    share = weight / read(dataclasses.replace(record, input_norm=torch.from_numpy(column)),
                          "input_norm") + weight / weight.sum((1, 2), keepdims=True)  # fmt: skip
    return np.asarray((share * np.sqrt(read(record, "input_norm"))).sum((1, 2)))


FORMULAS: dict[str, Callable[[LayerRecord], Any]] = {
    "sum[p](pairwise_distance(W))": lambda r: distances(own(r, "weight")).sum(1),
    "l2[i,k](sub(W, medoid(W)))": geo_median,
    "sum[i,k](mul(square(W), min_max[o,i,k](sqrt(Gn2))))": pruner_zero,
    str(Metric.load("ria").expression): ria,
    "mean[i,k](W)": lambda r: own(r, "weight").mean((1, 2)),
    "var[i,k](W)": lambda r: own(r, "weight").var((1, 2)),
    "std[i,k](G)": lambda r: own(r, "weight_grad").std((1, 2)),
    "min[i,k](abs(W))": lambda r: np.abs(own(r, "weight")).min((1, 2)),
    "max[i,k](neg(abs(W)))": lambda r: -np.abs(own(r, "weight")).min((1, 2)),
    "sum[i,k](exp(W))": lambda r: np.exp(own(r, "weight")).sum((1, 2)),
    "mul(b, mean[o,i,k](W))": lambda r: r.bias.numpy() * own(r, "weight").mean(),
    "mul(b, std[o,i,k](W))": lambda r: r.bias.numpy() * own(r, "weight").std(),
    "mean[i,k](mul(W, Xn))": lambda r: (own(r, "weight") * read(r, "input_norm")).mean((1, 2)),
    "max[i,k](add(W, Xn))": lambda r: (own(r, "weight") + read(r, "input_norm")).max((1, 2)),
    "max[i,k](mul(W, mean[n,s](X)))": lambda r: (
        own(r, "weight") * read(r, "inputs").mean((2, 3))[..., None]
    ).max((1, 2)),
    "mul(b, sum[i](max[o,k](W)))": lambda r: (
        r.bias.numpy() * by_input(r, own(r, "weight"), lambda part: part.max((0, 2))).sum()
    ),
    "mul(b, sum[i,k](var[o](W)))": lambda r: (
        r.bias.numpy() * by_input(r, own(r, "weight"), lambda part: part.var(0)).sum()
    ),
    "mean[k](sum[i](W))": lambda r: own(r, "weight").sum(1).mean(1),
    "mean[i](max[k](W))": lambda r: own(r, "weight").max(2).mean(1),
    "mean[i,k](mul(b, Xn))": lambda r: r.bias.numpy() * r.input_norm.mean().item(),  # type: ignore[union-attr]
    "mean[i,k](z_score[o](W))": lambda r: np.concatenate([
        ((part - part.mean(0)) / np.where(part.std(0) > 1e-12, part.std(0), np.inf)).mean((1, 2))
        for part in np.split(own(r, "weight"), r.groups)
    ]),
}  # fmt: skip


@pytest.mark.parametrize("layer", GROUPED)
@pytest.mark.parametrize("text", FORMULAS)
def test_zeros_between_groups_take_no_part(
    text: str, layer: str, records: dict[str, LayerRecord]
) -> None:
    found = Metric.parse(text).scores(records[layer]).numpy()
    np.testing.assert_allclose(found, FORMULAS[text](records[layer]), rtol=1e-9, atol=1e-12)


# Noise has other numbers; RIA sums over the channels that read an input: see the formulas above.
OTHERWISE = {"random", "ria", "ria_weight"}


@pytest.mark.parametrize("name", sorted(bundled_metrics().keys() - OTHERWISE))
def test_a_layer_of_one_group_is_no_special_case(
    name: str, records: dict[str, LayerRecord]
) -> None:
    """The depthwise layer has the scores of its filters in a layer that reads one input each.

    What a formula reads of an input is the same for all of them here.
    """
    metric = Metric.load(name)
    record = records["depthwise"]
    one = {
        field.name: torch.from_numpy(own(record, field.name))
        for field in dataclasses.fields(record)
        if field.name
        in (
            "weight",
            "weight_grad",
            "fisher",
            "sample_fisher",
            "hessian_grad",
            "synflow_grad",
            "noise",
        )
    }
    same: Any = {
        "input_norm": torch.ones_like(record.require("input_norm")),
        "inverse_factor": torch.ones_like(record.require("inverse_factor")),
        "inputs": record.require("inputs")[:1].expand_as(record.require("inputs")),
    }
    first: Any = {field: value[:1] for field, value in same.items()}
    found = metric.scores(dataclasses.replace(record, **same))
    plain: Any = {**one, **first, "groups": 1}
    expected = metric.scores(dataclasses.replace(record, **plain))
    if metric.granularity == "weight":
        diagonal = torch.arange(len(expected))
        outside = found.clone()
        outside[diagonal, diagonal] = 0
        assert not outside.any()
        found, expected = found[diagonal, diagonal], expected[:, 0]
    torch.testing.assert_close(found, expected)


def test_layers_without_groups_are_evaluated_as_ever(records: dict[str, LayerRecord]) -> None:
    assert {name: r.groups for name, r in records.items() if name not in GROUPED} == {
        "first": 1, "out": 1,
    }  # fmt: skip
    assert [records[name].groups for name in GROUPED] == [3, 9, 9, 2]
    assert set(prunable_layers(Net())) == set(records)


@operator(
    "scaled", shape=Signature("oik", "ik", to="oik"), meaning="weights times sizes of inputs",
    symbol=lambda call: call.argument(0) * call.argument(1),
)  # fmt: skip
def scaled(weight: Tensor, size: Tensor) -> Tensor:
    return weight * size


@pytest.mark.parametrize("layer", GROUPED)
def test_functions_of_a_user_are_no_special_case(
    layer: str, records: dict[str, LayerRecord]
) -> None:
    """One of fixed types that reads numbers by input gets zeros between groups, and loses them."""
    record, primitives = records[layer], builtin_primitives().extended([scaled])
    found = Metric.parse("mean[i,k](scaled(W, Xn))", primitives=primitives).scores(record)
    expected = (own(record, "weight") * read(record, "input_norm")).mean((1, 2))
    torch.testing.assert_close(found, torch.from_numpy(expected))


def test_remembered_values_serve_every_formula(records: dict[str, LayerRecord]) -> None:
    texts = ["abs(W)", "mean[i,k](abs(W))", "mul(abs(W), Xn)", "abs(W)"]
    for layer in GROUPED:
        interpreter = Interpreter(records[layer])
        for text in texts:
            tree = parse(text, builtin_primitives())
            assert torch.equal(interpreter.evaluate(tree), evaluate(tree, records[layer]))
        assert torch.equal(
            evaluate(parse("abs(W)", builtin_primitives()), records[layer]),
            records[layer].weight.abs(),
        )
