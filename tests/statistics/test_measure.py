"""What `collect` measures, against a plain computation on the full batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.language.record import NEEDS, LayerRecord
from gp_prune.statistics import Batch, Consumer, LayerPlace, collect

ALL = frozenset(NEEDS)
PLACE = LayerPlace(1.5, 0.5, 4, 0.25, residual=True)


class Zoo(nn.Module):
    """Every kind of layer, with and without batch norm, bias and activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, stride=2, groups=4)
        self.grouped = nn.Conv2d(4, 6, 1, groups=2)
        self.bare = nn.BatchNorm2d(6, affine=False)
        self.up = nn.ConvTranspose2d(6, 3, 3, stride=2, output_padding=1)
        self.line = nn.Conv1d(3, 5, 3, dilation=2)
        self.batchwise = nn.BatchNorm1d(5, track_running_stats=False)
        self.tokens = nn.Linear(5, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        x = functional.relu(self.bn(self.conv(x)), inplace=True)
        x = torch.tanh(self.depthwise(x))
        x = self.bare(self.grouped(x)).sigmoid()
        x = self.up(x)
        x = functional.relu(self.batchwise(self.line(x.flatten(2))))
        x = self.tokens(x.transpose(1, 2)).relu_()
        return self.out(x.mean(1))


def zoo(seed: int = 0) -> Zoo:
    """A zoo whose batch norms have seen something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Zoo().double()
        model.train()
        model(torch.randn(8, 2, 6, 6).double())
        nn.init.normal_(model.bn.weight)
        nn.init.normal_(model.bn.bias)
    return model.eval()


def data(samples: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(samples, 2, 6, 6, generator=generator).double()
    return images, torch.randint(0, 3, (samples,), generator=generator)


def cut(images: Tensor, labels: Tensor, *cuts: int) -> Iterator[Batch]:
    for part, classes in zip(images.tensor_split(cuts), labels.tensor_split(cuts), strict=True):
        yield Batch(part, classes, classes)


def plain_maps(model: Zoo, x: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """Layer -> input, output, Z and A, as (n, channels, s), written out by hand."""
    found = {}

    def note(name: str, *maps: Tensor) -> None:
        found[name] = tuple(m.detach().clone().flatten(2) for m in maps)

    y = model.conv(x)
    z = model.bn(y)
    a = z.relu()
    note("conv", x, y, z, a)
    z = model.depthwise(a)
    note("depthwise", a, z, z, z.tanh())
    x = z.tanh()
    y = model.grouped(x)
    z = model.bare(y)
    note("grouped", x, y, z, z.sigmoid())
    x = z.sigmoid()
    z = model.up(x)
    note("up", x, z, z, z)
    x = z.flatten(2)
    y = model.line(x)
    z = model.batchwise(y)
    note("line", x, y, z, z.relu())
    x = z.relu()
    z = model.tokens(x.transpose(1, 2)).transpose(1, 2)
    note("tokens", x, z, z, z.relu())
    x = z.relu().mean(2)
    z = model.out(x)
    note("out", x[:, :, None], z[:, :, None], z[:, :, None], z[:, :, None])
    return found


def collected(
    model: nn.Module, *cuts: int, samples: int = 12, **options: Any
) -> dict[str, LayerRecord]:
    return collect(
        model,
        None,
        cut(*data(samples), *cuts),
        needs=options.pop("needs", ALL),
        loss=functional.cross_entropy,
        outgoing={"grouped": (Consumer("up", tuple((entry,) for entry in range(6))),)},
        places={name: PLACE for name, _ in zoo().named_modules()},
        **options,
    )


def test_everything_equals_the_plain_computation() -> None:
    model = zoo()
    records = collected(model)
    images, labels = data(12)
    assert list(records) == ["conv", "depthwise", "grouped", "up", "line", "tokens", "out"]
    for name, (inputs, output, before, after) in plain_maps(model, images).items():
        record = records[name]
        torch.testing.assert_close(record.inputs, inputs.transpose(0, 1))
        torch.testing.assert_close(record.pre_activation, before.transpose(0, 1))
        torch.testing.assert_close(record.activation, after.transpose(0, 1))
        if name not in ("conv", "grouped"):
            torch.testing.assert_close(record.mu, output.mean((0, 2)))
            torch.testing.assert_close(record.var, output.var((0, 2), correction=0))
        for label in range(3):
            for member, prefix in ((labels == label, "class"), (labels != label, "rest")):
                values = after[member].transpose(0, 1).flatten(1)
                mean = getattr(record, f"{prefix}_mean")[:, label]
                var = getattr(record, f"{prefix}_var")[:, label]
                torch.testing.assert_close(mean, values.mean(1))
                torch.testing.assert_close(var, values.var(1, correction=0))
                assert getattr(record, f"{prefix}_count")[label] == member.sum()


def test_input_norms_equal_unfolding() -> None:
    model = without_batchwise()
    records = collected(model, 5)
    images, _ = data(12)
    columns = functional.unfold(images, 3, padding=1)
    norms = columns.square().sum((0, 2)).sqrt().reshape(2, 9)
    torch.testing.assert_close(records["conv"].input_norm, norms)
    after = plain_maps(model, images)["conv"][3].reshape(12, 4, 6, 6)
    columns = functional.unfold(after, 3, stride=2)
    norms = columns.square().sum((0, 2)).sqrt().reshape(4, 9)
    torch.testing.assert_close(records["depthwise"].input_norm, norms)
    tokens = plain_maps(model, images)["tokens"][0]
    torch.testing.assert_close(
        records["tokens"].input_norm, tokens.square().sum((0, 2)).sqrt().unsqueeze(-1)
    )


def test_batch_norm_tensors_are_read() -> None:
    model = zoo()
    records = collect(model, None, ())
    conv, grouped, line = records["conv"], records["grouped"], records["line"]
    assert conv.has_batch_norm and grouped.has_batch_norm and line.has_batch_norm
    torch.testing.assert_close(conv.gamma, model.bn.weight.detach())
    torch.testing.assert_close(conv.beta, model.bn.bias.detach())
    torch.testing.assert_close(conv.mu, model.bn.running_mean)
    torch.testing.assert_close(conv.var, model.bn.running_var)
    assert not conv.bias.any()
    assert grouped.gamma.tolist() == [1] * 6 and grouped.beta.tolist() == [0] * 6
    torch.testing.assert_close(grouped.mu, model.bare.running_mean)
    assert line.mu is None and records["up"].mu is None
    torch.testing.assert_close(records["up"].beta, model.up.get_parameter("bias").detach())
    assert not records["up"].has_batch_norm
    assert all(tensor.dtype == torch.float64 for tensor in tensors(conv).values())


def tensors(record: LayerRecord) -> dict[str, Tensor]:
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def assert_same(left: dict[str, LayerRecord], right: dict[str, LayerRecord], **close: Any) -> None:
    assert list(left) == list(right)
    for name, record in left.items():
        mine, theirs = tensors(record), tensors(right[name])
        assert mine.keys() == theirs.keys()
        for field, value in mine.items():
            try:
                torch.testing.assert_close(value, theirs[field], **close)
            except AssertionError as error:
                raise AssertionError(f"{field}: {error}") from None


def without_batchwise() -> Zoo:
    """A zoo in which no batch norm works with the statistics of the batch."""
    model = zoo()
    model.batchwise = nn.BatchNorm1d(5).double().eval()
    return model


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 20), max_size=4).map(sorted))
def test_batches_of_any_size_give_what_one_batch_gives(cuts: list[int]) -> None:
    model = without_batchwise()
    sizes: dict[str, Any] = {"samples": 20, "needs": ALL}
    whole = collected(model, **sizes)
    assert_same(
        collected(model, *cuts, **sizes),
        whole,
        rtol=1e-9,
        atol=1e-12,
    )
    assert {field for record in whole.values() for field in tensors(record)} == {
        field.name for field in dataclasses.fields(LayerRecord)
    } - {"name", "has_batch_norm", "groups", "values", "coverage"}


@pytest.mark.parametrize("need", sorted(ALL))
def test_only_what_is_asked_for_is_measured(need: str) -> None:
    record = collected(zoo(), needs={need})["depthwise"]
    fields = {
        "inputs": {"inputs", "input_norm"},
        "outputs": {"pre_activation", "activation", "mu", "var"},
        "labels": {f"{a}_{b}" for a in ("class", "rest") for b in ("mean", "var", "count")},
        "gradients": {"weight_grad", "gamma_grad", "beta_grad"},
        "noise": {"noise"},
        "outgoing": {"outgoing"},
        "network": {*PLACE._fields, "stride"},
        "synflow": {"synflow_grad"},
        "fisher": {
            "fisher",
            "filter_square",
            "gamma_square",
            "beta_square",
            "gamma_beta_product",
        },
        "sample_fisher": {"sample_fisher"},
        "hessian": {"hessian_grad"},
        "output_gradients": {"output_grad"},
        "second_moments": {"inverse_factor"},
        "centroids": {"class_map", "rest_map", "mean_map"},
        "kernels": {"kernel_class", "kernel_rest", "kernel_between"},
        "map_ranks": {"map_rank"},
        "map_spectra": {"map_nuclear"},
        "map_norms": {"nuclear_loss"},
    }[need]
    assert set(tensors(record)) == fields | {"weight", "bias", "gamma", "beta"}


@pytest.mark.parametrize("needs", [frozenset(), frozenset({"noise"})])
def test_the_data_is_not_touched_without_need(needs: frozenset[str]) -> None:
    def trap() -> Iterator[Batch]:
        raise AssertionError("the data was read")
        yield

    records = collect(zoo(), None, trap(), needs=needs)
    assert (records["conv"].noise is not None) == bool(needs)


def test_noise_does_not_depend_on_the_other_layers() -> None:
    model = zoo()
    every = collect(model, None, (), needs={"noise"}, seed=4)
    alone = collect(model, ["up"], (), needs={"noise"}, seed=4)
    assert torch.equal(every["up"].require("noise"), alone["up"].require("noise"))
    assert every["up"].require("noise").shape == every["up"].weight.shape
    assert not torch.equal(
        collect(model, ["up"], (), needs={"noise"})["up"].require("noise"),
        alone["up"].require("noise"),
    )


def test_classes_that_come_late_or_never() -> None:
    model, (images, _) = zoo(), data(4)
    labels = torch.tensor([0, 0, 3, 3])
    record = collect(model, ["out"], cut(images, labels, 1, 3), needs={"labels"})["out"]
    assert record.require("class_count").tolist() == [2, 2]  # those with samples alone
    assert record.require("rest_count").tolist() == [2, 2]
    assert record.require("class_mean").shape == record.require("class_var").shape == (3, 2)
    alone = collect(model, ["out"], cut(images, labels * 0), needs={"labels"})["out"]
    assert alone.require("rest_count").tolist() == [0] and not alone.require("rest_mean").any()


# On a machine with a GPU, models that are there, too.
PLACES: list[tuple[str, str | None]] = [("cpu", "cpu")]
PLACES += [("cuda", None), ("cuda", "cpu")] if torch.cuda.is_available() else []


@pytest.mark.parametrize(("place", "target"), PLACES)
def test_models_on_any_device_measure_the_same(place: str, target: str | None) -> None:
    expected = collected(zoo(), 5)
    records = collected(zoo().to(place), 5, device=target)
    assert records["conv"].weight.device.type == (target or place)

    def moved(record: LayerRecord) -> dict[str, Any]:
        return {field: value.cpu() for field, value in tensors(record).items()}

    on_cpu = {
        name: dataclasses.replace(record, **moved(record)) for name, record in records.items()
    }
    assert_same(on_cpu, expected, rtol=1e-8, atol=1e-10)


def test_pairing_on_example_inputs() -> None:
    model = zoo()
    record = collect(model, ["conv"], (), example_inputs=data(1)[0])["conv"]
    torch.testing.assert_close(record.mu, model.bn.running_mean)
