"""Formulas evaluated while the data streams by, against the same formulas on whole maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.errors import UserError
from gp_prune.language.axes import CHANNEL, WEIGHT, Axes
from gp_prune.language.expression import Expression
from gp_prune.language.interpreter import evaluate
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives, operand
from gp_prune.language.record import MAP_FIELDS, NEEDS, LayerRecord
from gp_prune.language.rounding import without_rounding
from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.statistics import Batch, Consumer, collect, collect_each
from gp_prune.statistics.coverage import coverage_of, describe_limit
from gp_prune.statistics.sampling import Demand, Sampling, share_memory

READERS = {"conv": (Consumer("depthwise", tuple((q,) for q in range(4))),)}
METRICS = {name: Metric.load(name).expression for name in bundled_metrics()}
NESTED = [
    "mean[n,s](square(sub(A, mean[n,s](A))))",
    "mean[n,s](square(sub(A, mean[n](A))))",
    "mean[n,s](mul(Z, mul(mu, max[n,s](abs(sub(A, mean[o,n,s](A)))))))",
    "sum[n](tail_sum[n](mul(mean[s](A), mu)))",
    "mean[n,s](z_score[o,n](mul(dZ, Z)))",
    "sum[n,s](mul(z_score[n](A), max[n,s](Z)))",
    "mean[n](mul(rk, nl))",
    "std[n](rk)",
    "mul(sum[i,k](mul(W, mean[n,s](X))), b)",
    "mean[n](mul(sum[s](mul(A, mA)), U))",
    "sum[s](std[n](mul(A, sum[i,k](mul(W, R)))))",
]


def tree(text: str) -> Expression:
    return parse(text, builtin_primitives())


def options() -> dict[str, Any]:
    return {"loss": functional.cross_entropy, "outgoing": READERS, "places": {}, "seed": 3}


@pytest.fixture
def whole_records(mixture: nn.Module, whole: Batch) -> dict[str, LayerRecord]:
    return collect(mixture, None, [whole], needs=frozenset(NEEDS), **options())


def assert_values(
    found: dict[str, LayerRecord], expected: dict[str, LayerRecord], trees: list[Expression]
) -> None:
    assert list(found) == list(expected)
    for name, record in found.items():
        assert record.activation is None and record.output_grad is None and record.inputs is None
        for formula in trees:
            torch.testing.assert_close(
                evaluate(formula, record), evaluate(formula, expected[name]),
                rtol=1e-7, atol=1e-9, equal_nan=True, msg=lambda m: f"{formula} on {name}: {m}",  # noqa: B023
            )  # fmt: skip


STREAMED = [
    name
    for name, formula in METRICS.items()
    if formula.needs & {*MAP_FIELDS.values(), "centroids", "kernels"}
]


@pytest.mark.parametrize("name", STREAMED)
def test_every_metric_sees_all_samples_and_positions(
    name: str, mixture: nn.Module, parts: list[Batch], whole_records: dict[str, LayerRecord]
) -> None:
    trees = [METRICS[name]]
    found = collect(mixture, None, parts, expressions=trees, **options())
    assert_values(found, whole_records, trees)


@pytest.mark.parametrize("text", NESTED)
def test_reductions_inside_one_another(
    text: str, mixture: nn.Module, parts: list[Batch], whole_records: dict[str, LayerRecord]
) -> None:
    found = collect(mixture, None, parts, expressions=[tree(text)], **options())
    assert_values(found, whole_records, [tree(text)])


@pytest.mark.parametrize("memory", [None, 270_000])
def test_any_formulas_together(
    memory: int | None,
    mixture: nn.Module,
    parts: list[Batch],
    whole_records: dict[str, LayerRecord],
    random_trees: Callable[..., list[Expression]],
) -> None:
    """With little memory, in several groups of layers, but on no less."""
    trees = [
        *random_trees(CHANNEL, 60, seed=71, most=7),
        *random_trees(WEIGHT, 20, seed=72, most=7),
        *map(tree, NESTED),
    ]
    trees = [t for t in trees if "fisher" not in t.needs]
    passes: set[int | None] = set()
    found = collect(
        mixture, None, parts, expressions=trees, max_memory=memory,
        progress=lambda done, total: passes.add(total), **options(),
    )  # fmt: skip
    assert_values(found, whole_records, trees)
    assert len(passes) == 1
    assert (passes.pop() or 0) // len(parts) >= (4 if memory is None else 8)


@pytest.mark.parametrize("once", [True, False])
def test_batches_are_read_as_often_as_needed(
    once: bool, mixture: nn.Module, parts: list[Batch], whole_records: dict[str, LayerRecord]
) -> None:
    reads: list[int] = []

    class Loader:
        def __iter__(self) -> Iterator[Batch]:
            reads.append(1)
            return iter(parts)

    trees = [tree("mean[n,s](square(sub(A, mean[n,s](A))))")]
    data: Any = iter(parts) if once else Loader()
    found = collect(mixture, None, data, expressions=trees, **options())
    assert_values(found, whole_records, trees)
    assert once or len(reads) == 3  # to pair batch norms, and for each of the two means
    reads.clear()
    collect(mixture, None, Loader(), expressions=[tree("mean[n,s](A)")], **options())
    assert len(reads) == 1


def test_data_that_does_not_come_again_is_refused(mixture: nn.Module, parts: list[Batch]) -> None:
    class Once:
        def __init__(self) -> None:
            self.stream = iter(parts * 2)

        def __iter__(self) -> Iterator[Batch]:
            return self.stream

    trees = [tree("mean[n,s](square(sub(A, mean[n,s](A))))")]
    with pytest.raises(UserError, match="samples at first and 0 when it was read again"):
        collect(mixture, None, Once(), expressions=trees, **options())


@pytest.mark.parametrize("order", [[9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]])
def test_the_order_of_the_samples_does_not_matter(
    order: list[int], mixture: nn.Module, whole: Batch, whole_records: dict[str, LayerRecord]
) -> None:
    trees = [
        t for t in [*METRICS.values(), *map(tree, NESTED)] if not t.needs & {"fisher", "noise"}
    ]
    images: Any = whole.inputs
    shuffled = Batch(images[order], whole.target[order], whole.target[order])
    found = collect(mixture, None, [shuffled], expressions=trees, **options())
    for name, record in found.items():
        for formula in trees:
            value, other = evaluate(formula, record), evaluate(formula, whole_records[name])
            assert float((value - other).abs().max()) <= 1e-9 + 1e-5 * float(other.abs().max())


def test_where_a_layer_does_not_fit_it_is_said_and_sums_are_scaled(
    mixture: nn.Module, parts: list[Batch]
) -> None:
    trees = [tree("sum[n,s](z_score[o,n,s](A))"), tree("sum[n,s](tail_sum[n,s](A))")]
    found = collect(mixture, ["conv"], parts, expressions=trees, max_memory=5_000, **options())
    seen = found["conv"].coverage["activation"]
    assert seen.samples == seen.of_samples == 10
    assert 0 < seen.positions < seen.of_positions == 36
    said = describe_limit(coverage_of(found.values()), 5_000)
    assert f"{seen.positions} of 36 positions" in said
    whole = collect(mixture, ["conv"], parts, expressions=trees, **options())["conv"]
    assert whole.coverage["activation"].whole
    ratio = evaluate(trees[1], found["conv"]) / evaluate(trees[1], whole)
    alive = evaluate(trees[1], whole) > 0  # elsewhere the activation is 0 throughout
    assert int(alive.sum()) >= 2
    assert bool(((ratio > 0.5) & (ratio < 2))[alive].all())


def test_a_sample_of_the_samples_is_one_for_all_that_is_measured(
    mixture: nn.Module, parts: list[Batch]
) -> None:
    """The means of the classes, their counts and the maps are those of the same samples."""
    formula = tree("sum[c](mul(nP, ridge_form(A, sub(mP, mA))))")
    counts, ones = tree("mul(sum[c](nP), gamma)"), tree("mul(sum[n](tail_sum[n](rk)), gamma)")
    (record,) = collect(
        mixture, ["tokens"], parts, expressions=[formula, counts, ones], max_memory=400,
        needs={"outputs", "labels", "centroids"}, **options(),
    ).values()  # fmt: skip
    seen = record.coverage["activation"]
    assert seen.samples < seen.of_samples == 10
    assert record.require("activation").shape[1] == seen.samples
    assert float(record.require("class_count").sum()) == pytest.approx(10)
    assert float(record.require("rest_count").sum()) == pytest.approx(20)
    torch.testing.assert_close(record.mean_map, record.require("activation").mean(1))
    value = evaluate(formula, record)
    assert bool((value <= 2 + 1e-9).all())  # the number of classes, less one


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_matters_where_the_limit_is_met_alone(
    seed: int, mixture: nn.Module, parts: list[Batch], whole_records: dict[str, LayerRecord]
) -> None:
    trees = [t for t in METRICS.values() if not t.needs & {"fisher", "noise"}]
    found = collect(
        mixture, None, parts, expressions=trees, seed=seed,
        loss=functional.cross_entropy, outgoing=READERS,
    )  # fmt: skip
    assert_values(found, whole_records, trees)


def test_an_operand_of_the_users_gets_whole_maps_in_double_precision(parts: list[Batch]) -> None:
    @operand("Spread", axes="o", meaning="range of Z", needs=["outputs"])
    def spread(layer: LayerRecord) -> Tensor:
        maps = layer.require("pre_activation")
        assert maps.dtype == torch.float64 and maps.shape[1] in (5, 10)
        return maps.amax((1, 2)) - maps.amin((1, 2))

    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
    data = [Batch(batch.inputs.float(), batch.target) for batch in parts]  # type: ignore[union-attr]
    expected = torch.cat([model[0](batch.inputs) for batch in data]).double().transpose(0, 1)
    record = collect(model, None, data, expressions=[Expression.of(spread)])["0"]
    expected = expected.flatten(1)
    torch.testing.assert_close(
        evaluate(Expression.of(spread), record), expected.amax(1) - expected.amin(1)
    )
    assert record.pre_activation is None


def test_a_layer_used_twice_and_folded_samples() -> None:
    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Any:
            return self.layer(self.layer(x.flatten(0, 1))).relu()

    model, images = Frames().double(), torch.randn(4, 3, 1, 2, 2).double()
    trees = [tree("mean[n](square(sum[s](A)))"), tree("sum[s](std[n](A))")]
    (record,) = collect(model, None, [Batch(images)], expressions=trees).values()
    first = model.layer(images.flatten(0, 1)).detach().reshape(4, 12)
    torch.testing.assert_close(evaluate(trees[0], record)[0], first.sum(1).square().mean())
    torch.testing.assert_close(evaluate(trees[1], record)[0], first.std(0, correction=0).sum())


def test_random_models_are_the_same_in_every_pass() -> None:
    """The variance would not be that about the mean if the second pass drew other numbers."""
    model: Any = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1)).double()
    model[0].register_forward_hook(lambda module, args, output: output + torch.rand(2))
    data = [Batch(torch.ones(3, 1).double()), Batch(torch.ones(2, 1).double())]
    trees = [tree("mean[n,s](square(sub(X, mean[n,s](X))))"), tree("square(std[n,s](X))")]
    trees = [
        Expression.apply(
            builtin_primitives().operators["mul"],
            Expression.apply(builtin_primitives().operators["sum"], part, over=Axes("i")),
            tree("b"),
        )
        for part in trees
    ]
    record = collect(model, ["1"], data, expressions=trees)["1"]
    first, second = (evaluate(formula, record) for formula in trees)
    torch.testing.assert_close(first, second)


def test_records_of_a_group_come_before_the_next_group_is_measured(
    mixture: nn.Module, parts: list[Batch]
) -> None:
    done: list[int] = []
    records = collect_each(
        mixture, None, parts, expressions=[METRICS["mmd"]], max_memory=60_000,
        progress=lambda number, total: done.append(number), **options(),
    )  # fmt: skip
    next(records)
    first = len(done)
    assert len(list(records)) == 6 and len(done) > first


def test_a_formula_without_labels_or_loss_is_refused(mixture: nn.Module, whole: Batch) -> None:
    unlabelled = [Batch(whole.inputs)]
    with pytest.raises(UserError, match="no class labels"):
        collect(mixture, None, unlabelled, expressions=[METRICS["mmd"]])
    with pytest.raises(UserError, match="pass loss"):
        collect(mixture, None, unlabelled, expressions=[METRICS["taylor_gate"]])


def test_without_a_limit_everything_is_seen(whole_records: dict[str, LayerRecord]) -> None:
    for record in whole_records.values():
        assert all(seen.whole for seen in record.coverage.values())
        assert record.coverage["activation"].samples == 10
        assert record.coverage["weight_grad"] == (10, 10, 1, 1)
    assert whole_records["conv"].coverage["activation"] == (10, 10, 36, 36)
    assert describe_limit(coverage_of(whole_records.values()), None) == ""


def test_what_is_zero_but_for_rounding_is_recognised(
    mixture: nn.Module, parts: list[Batch], whole_records: dict[str, LayerRecord]
) -> None:
    formula = tree("sub(var[n,s](A), sub(mean[n,s](square(A)), square(mean[n,s](A))))")
    found = collect(mixture, None, parts, expressions=[formula], **options())
    assert_values(found, whole_records, [formula])
    for record in found.values():
        values = without_rounding(formula, record)
        assert bool((values == values[0]).all())


def test_no_layers_have_no_records(mixture: nn.Module, parts: list[Batch]) -> None:
    formulas = [tree("sum[n](tail_sum[n](rk))")]
    assert collect(mixture, [], parts, expressions=formulas) == {}


def test_maps_of_all_sizes_are_read_whole(mixture: nn.Module, whole: Batch) -> None:
    assert isinstance(whole.inputs, Tensor)
    batches = [whole, Batch(torch.cat([whole.inputs] * 2, dim=2) * 2, whole.target, whole.labels)]
    (record,) = collect(
        mixture, ["conv"], batches, expressions=[tree("mean[n,s](Z)")], example_inputs=whole.inputs
    ).values()
    assert record.coverage["pre_activation"] == (20, 20, 36, 36)
    with torch.no_grad():
        maps = [mixture.norm(mixture.conv(batch.inputs)).transpose(0, 1) for batch in batches]  # type: ignore[operator]
    expected = torch.cat([part.flatten(1) for part in maps], dim=1).mean(1)
    torch.testing.assert_close(evaluate(tree("mean[n,s](Z)"), record), expected)
    for text in ["sum[s](std[n](A))", "mean[n,s](z_score[n](A))", "sum[c,s](mP)"]:
        with pytest.raises(UserError, match="36 positions on one batch and 72 on a later one"):
            collect(mixture, ["conv"], batches, expressions=[tree(text)])


def test_sizes_are_those_of_the_data(mixture: nn.Module, parts: list[Batch]) -> None:
    formulas = [tree("sum[n,s](tail_sum[n,s](A))")]
    example = torch.zeros(1, 2, 1, 3).double()
    for memory in (None, 5_000):
        found = collect(
            mixture,
            ["conv"],
            parts,
            expressions=formulas,
            example_inputs=example,
            max_memory=memory,
        )
        assert found["conv"].coverage["activation"].of_positions == 36


def test_collected_values_are_counted_by_their_own_channels(
    mixture: nn.Module, parts: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Demand] = []

    def spy(demands: list[Demand], *args: Any, **options: Any) -> Sampling:
        seen.extend(demands)
        return share_memory(demands, *args, **options)

    monkeypatch.setattr("gp_prune.statistics.request.share_memory", spy)
    by_input = [tree("mul(sum[i,k](mul(W, max[n](tail_sum[n](mean[s](X))))), b)")]
    collect(mixture, ["line"], parts, expressions=by_input)  # 3 inputs, 5 outputs
    assert [d.each for d in seen if not d.side] == [10 * 8 * 3, 0]
    seen.clear()
    by_output = [tree("max[n](tail_sum[n](mean[s](Z)))")]
    collect(mixture, ["line"], parts, expressions=by_output)
    assert [d.each for d in seen if not d.side] == [0, 10 * 8 * 5]


def test_norms_of_a_sample_of_the_samples_are_those_of_the_whole(mixture: nn.Module) -> None:
    """All samples are alike, so a part of them tells all."""
    data = [Batch(torch.ones(8, 2, 6, 6).double())]
    needs = {"inputs", "outputs"}
    whole = collect(mixture, ["tokens"], data, needs=needs)["tokens"]
    part = collect(mixture, ["tokens"], data, needs=needs, max_memory=300)["tokens"]
    assert part.coverage["input_norm"].samples < 8
    torch.testing.assert_close(part.input_norm, whole.input_norm)
