"""Mean maps and kernels by class, against loops over the samples of each class."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gp_prune.statistics import Batch, collect, moments

ALL = {"outputs", "labels", "centroids", "kernels"}


def labels_of(batch: Batch) -> Tensor:
    assert batch.labels is not None
    return batch.labels


def test_mean_maps_of_all_samples(mixture: nn.Module, whole: Batch, parts: list[Batch]) -> None:
    labels = labels_of(whole)
    records = collect(mixture, None, parts, needs=ALL)
    for record in records.values():
        maps = record.require("activation")  # (o, n, s): all ten samples
        torch.testing.assert_close(record.mean_map, maps.mean(1))
        for label in range(3):
            member = labels == label
            torch.testing.assert_close(
                record.require("class_map")[:, label], maps[:, member].mean(1)
            )
            torch.testing.assert_close(
                record.require("rest_map")[:, label], maps[:, ~member].mean(1)
            )
    means = records["conv"]
    torch.testing.assert_close(means.require("class_map").mean(2), means.class_mean)
    torch.testing.assert_close(means.require("rest_map").mean(2), means.rest_mean)


def plain_kernels(maps: Tensor, labels: Tensor, label: int) -> tuple[list[float], ...]:
    """Means over pairs of samples, channel by channel and pair by pair; maps (o, n, s)."""
    within: list[float] = []
    rest: list[float] = []
    between: list[float] = []
    for channel in maps:
        found: dict[tuple[bool, bool], list[float]] = {}
        for x, mine in zip(channel, labels == label, strict=True):
            for y, other in zip(channel, labels == label, strict=True):
                value = math.exp(-float((x - y).square().sum()) / 2)
                found.setdefault((bool(mine), bool(other)), []).append(value)
        for pairs, out in (
            ((True, True), within), ((False, False), rest), ((True, False), between),
        ):  # fmt: skip
            values = found.get(pairs, [0.0])
            out.append(sum(values) / len(values))
    return within, rest, between


@pytest.mark.parametrize("most", [1, 2**24])
def test_kernels_of_whole_maps(
    mixture: nn.Module, parts: list[Batch], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "_MOST_AT_ONCE", most)
    records = collect(mixture, None, parts, needs=ALL)
    labels = torch.cat([labels_of(batch) for batch in parts])
    for record in records.values():
        for label in range(3):
            within, rest, between = plain_kernels(record.require("activation"), labels, label)
            assert record.require("kernel_class")[:, label].tolist() == pytest.approx(within)
            assert record.require("kernel_rest")[:, label].tolist() == pytest.approx(rest)
            assert record.require("kernel_between")[:, label].tolist() == pytest.approx(between)
        squared = (
            record.require("kernel_class")
            + record.require("kernel_rest")
            - 2 * record.require("kernel_between")
        )
        assert bool((squared > -1e-12).all())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_distances_of_maps_that_are_alike(scale: float) -> None:
    """By products of matrices where that is exact enough, by differences elsewhere."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 6, 7, generator=generator).double() * scale + 1e3
    maps[:, 1] = maps[:, 0]
    maps[:, 2] = maps[:, 0] + 1e-6
    expected = (maps.unsqueeze(2) - maps.unsqueeze(1)).square().sum(3)
    for start, found in zip((0, 4), moments._squared_distances(maps, 4), strict=True):
        wanted = expected[:, start : start + 4, start:]
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
        assert bool((found >= 0).all())


def test_kernels_of_a_part_of_the_positions_are_those_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    part, labels = torch.randn(3, 6, 2, generator=generator).double(), torch.tensor([0, 1] * 3)
    expected = moments.mean_kernels(part.repeat(1, 1, 4), labels, 2)
    found = moments.mean_kernels(part, labels, 2, growth=4.0)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_classes_that_come_late_or_never(mixture: nn.Module, whole: Batch) -> None:
    labels = torch.tensor([0] * 9 + [4])
    images: Any = whole.inputs
    data = [
        Batch(images[:9], labels[:9], labels[:9]),
        Batch(images[9:], labels[9:], labels[9:]),
    ]
    record = collect(mixture, ["conv"], data, needs=ALL)["conv"]
    numbered = [Batch(x, y, y.clamp(max=1)) for x, y, _ in data]  # 0 and 1 in place of 0 and 4
    expected = collect(mixture, ["conv"], numbered, needs=ALL)["conv"]
    fields = [name for name in vars(expected) if name.startswith(("class_", "rest_", "kernel_"))]
    for name in fields:
        if getattr(expected, name) is not None:
            assert record.require(name).shape[min(1, record.require(name).dim() - 1)] == 2
            torch.testing.assert_close(record.require(name), expected.require(name))
    alone = collect(mixture, ["conv"], data[:1], needs=ALL)["conv"]
    assert not alone.require("rest_map").any() and not alone.require("kernel_rest").any()
    assert bool(alone.require("kernel_class").all())
