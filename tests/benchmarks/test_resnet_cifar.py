from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import resnet_cifar
import torch
from csv_lines import read
from resnet_cifar_lines import Line, Protocol, markdown
from resnets import resnet20

from gp_prune import Metric
from gp_prune.metric.file import Conventions
from gp_prune.tasks.data import LabelledSplit

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
SMALL = replace(Protocol(), calibration=8, recalibration=8, steps=2, batch_size=4)


def made_up(count: int, seed: int = 0) -> LabelledSplit:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return LabelledSplit(images, labels, labels)


def line(seed: int, tuned: float, metric: str = "l1", network: str = "resnet20") -> Line:
    return Line(
        network, metric, "layer", seed, Protocol.steps, 0.5, 0.49, 0.48, 91.73, 12.0, 57.0, tuned,
        1.5, "abc", 'sum[i,k](abs(W)), "quoted"',
    )  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, _ = resnet20()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "resnet20.th")
    return tmp_path / "resnet20.th"


def test_a_line_is_measured_once_and_the_same_every_time(tmp_path: Path, weights: Path) -> None:
    def bench(out: Path) -> resnet_cifar.Bench:
        files = {"resnet20": weights}
        return resnet_cifar.Bench(made_up(16), made_up(12, 1), files, SMALL, out)

    metric = Metric.load("taylor_weights")
    first, second = bench(tmp_path / "first"), bench(tmp_path / "second")
    for made in (first, second):
        for seed in (0, 1):
            made.add("resnet20", metric, metric.conventions, seed)
    unlike = [replace(found, seconds=0.0) for found in first.lines]
    assert unlike == [replace(found, seconds=0.0) for found in second.lines]
    assert [found.seed for found in unlike] == [0, 1]
    assert unlike[0].macs == pytest.approx(0.5, abs=0.005)
    again = bench(tmp_path / "first")
    assert again.lines == first.lines
    again.train = again.test = LabelledSplit(*[torch.empty(0)] * 3)  # would not run
    again.add("resnet20", metric, metric.conventions, 1)
    assert again.lines == first.lines
    layer = Conventions("layer", "none", "mean")
    with pytest.raises(RuntimeError):
        again.add("resnet20", metric, layer, 1)


def test_augmented_batches_are_repeated_exactly() -> None:
    stream = resnet_cifar.Augmented(made_up(10), SMALL, seed=3)
    first: list[Any] = list(stream)
    second: list[Any] = list(stream)
    assert len(first) == len(stream) == SMALL.steps
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert one.inputs.shape == (4, 3, 32, 32)
    other_seed: list[Any] = list(resnet_cifar.Augmented(made_up(10), SMALL, seed=4))
    assert not torch.equal(first[0].inputs, other_seed[0].inputs)


def test_no_image_comes_twice_before_all_came_once() -> None:
    samples = LabelledSplit(torch.rand(10, 3, 32, 32), *[torch.arange(10)] * 2)
    protocol = replace(SMALL, steps=5)
    labels = torch.cat([b.target for b in resnet_cifar.Augmented(samples, protocol, 0)])
    assert sorted(set(labels[:8].tolist())) == sorted(labels[:8].tolist())
    assert sorted(labels.bincount().tolist()) == [2] * 10


def test_every_augmented_image_is_a_shift_or_a_flipped_shift() -> None:
    images = made_up(6).inputs
    found = resnet_cifar.augmented(images, 2, torch.Generator().manual_seed(0))
    for image, result in zip(images, found, strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        shifts = [padded[:, y : y + 32, x : x + 32] for y in range(5) for x in range(5)]
        assert any(torch.equal(result, s) or torch.equal(result, s.flip(2)) for s in shifts)
    unmoved = resnet_cifar.augmented(images, 0, torch.Generator().manual_seed(0))
    assert all(
        torch.equal(a, b) or torch.equal(a, b.flip(2)) for a, b in zip(unmoved, images, strict=True)
    )


def test_samples_are_chosen_by_seed() -> None:
    samples = LabelledSplit(torch.zeros(30, 1), *[torch.arange(30)] * 2)
    first = resnet_cifar.sample(samples, 10, 0).labels
    assert len(set(first.tolist())) == 10
    assert torch.equal(first, resnet_cifar.sample(samples, 10, 0).labels)
    assert not torch.equal(first, resnet_cifar.sample(samples, 10, 1).labels)


def test_the_page_has_mean_and_deviation_over_the_seeds_of_this_protocol() -> None:
    lines = [line(0, 60.0), line(1, 62.0), line(0, 70.0, "random"), line(0, 50.0, network="other")]
    lines.append(replace(line(2, 0.0), steps=1))
    page = markdown(lines, Protocol())
    kept = "50.0 % | 49.0 % | 48.0 %"
    assert f"| `l1` | layer | 2 | {kept} | 12.00 ± 0.00 | 57.00 ± 0.00 | 61.00 ± 1.41 |" in page
    assert f"| `random` | layer | 1 | {kept} | 12.00 | 57.00 | 70.00 |" in page
    assert page.index("## resnet20, 91.73 % before") < page.index("## other")


def test_the_page_in_the_repository_is_made_from_its_lines() -> None:
    lines = read(RESULTS / "resnet_cifar.csv", Line)
    assert {found.network for found in lines} <= {"resnet20", "resnet56"}
    assert len({found.key for found in lines}) == len(lines)
    page = (RESULTS / "resnet_cifar.md").read_text(encoding="utf-8")
    assert page == markdown(lines, Protocol())
