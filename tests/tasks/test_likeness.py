"""Probe networks are read with care; formulas are compared on them as by hand."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gp_prune.errors import UserError
from gp_prune.formula.matching import OperatorPatterns
from gp_prune.language.parser import parse
from gp_prune.language.primitive import builtin_primitives
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric
from gp_prune.tasks.likeness import Probes, leave_one_out, likeness
from gp_prune.tasks.probe_networks import (
    FILE,
    IMAGES,
    LABELS,
    MOST_BYTES,
    measure_probe_networks,
    read_probe_file,
)

PRIMITIVES = builtin_primitives()
PACKAGED = Path(str(resources.files("gp_prune.tasks").joinpath(FILE)))


@pytest.fixture(scope="module")
def probes() -> Probes:
    return Probes(measure_probe_networks({"outputs", "gradients"}))


def test_the_file_of_the_package_is_whole() -> None:
    tensors = read_probe_file(PACKAGED)
    assert len(tensors[IMAGES]) == len(tensors[LABELS]) >= 100
    assert PACKAGED.stat().st_size <= MOST_BYTES


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (LABELS, None, "no images with labels"),
        (LABELS, torch.full((128,), 10, dtype=torch.uint8), "out of range"),
        (IMAGES, torch.zeros(128, 1, 8, 8), "uint8 is needed"),
        (IMAGES, torch.zeros(5, 1, 8, 8, dtype=torch.uint8), "images of shape"),
        ("lenet/conv1.weight", None, "lenet/conv1.weight is missing"),
        ("lenet/conv1.weight", torch.zeros(1), "of shape"),
        ("lenet/conv1.bias", torch.full((6,), torch.nan), "is not finite"),
        ("other", torch.zeros(1), "'other' is unknown"),
    ],
)
def test_a_damaged_file_is_refused(
    key: str, value: torch.Tensor | None, message: str, tmp_path: Path
) -> None:
    tensors = read_probe_file(PACKAGED)
    tensors.pop(key, None)
    if value is not None:
        tensors[key] = value
    save_file(tensors, tmp_path / FILE)
    with pytest.raises(UserError, match=message):
        read_probe_file(tmp_path / FILE)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"\x80\x04N.", bytes(MOST_BYTES + 1)):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            read_probe_file(tmp_path / FILE)


def test_tau_is_that_of_counted_pairs(probes: Probes) -> None:
    one, other = (parse(text, PRIMITIVES) for text in ("l1[i,k](W)", "std[n,s](A)"))
    conventions = Conventions("layer", "none")
    total = weight = 0.0
    pairs = zip(probes.ranked(one, conventions), probes.ranked(other, conventions), strict=True)
    for x, y in pairs:
        signs = np.sign(x[:, None] - x) * np.sign(y[:, None] - y)
        ties = [np.sign(v[:, None] - v) ** 2 for v in (x, y)]
        total += len(x) * signs.sum() / np.sqrt(ties[0].sum() * ties[1].sum())
        weight += len(x)
    assert probes.tau(one, other, conventions) == pytest.approx(total / weight)
    assert probes.tau(one, one, conventions) == pytest.approx(1.0)


def test_rankings_are_alike_where_no_pair_differs(probes: Probes) -> None:
    deviation, variance, moved = (
        parse(text, PRIMITIVES)
        for text in ("std[n,s](A)", "var[n,s](A)", "add(1, mul(2, std[n,s](A)))")
    )
    assert probes.rank_alike(deviation, variance, Conventions("layer"))
    assert probes.rank_alike(deviation, moved, Conventions("global", "none"))
    assert not probes.rank_alike(deviation, variance, Conventions("global", "mean"))
    assert not probes.rank_alike(deviation, parse("abs(b)", PRIMITIVES), Conventions("layer"))


@pytest.mark.parametrize(
    ("text", "kind", "rests"),
    [
        ("add(b, gamma)", "terms", {"b": "gamma", "gamma": "b"}),
        ("sub(b, gamma)", "terms", {"b": "sub(0, gamma)", "gamma": "b"}),
        (
            "tanh(sub(add(b, beta), gamma))",
            "terms",
            {
                "b": "tanh(sub(beta, gamma))",
                "beta": "tanh(sub(b, gamma))",
                "gamma": "tanh(add(b, beta))",
            },
        ),
        (
            "l1[i,k](div(square(W), b))",
            "factors",
            {"square(W)": "None", "b": "l1[i,k](square(W))"},
        ),
        ("div(b, mul(gamma, mu))", "factors",
         {"b": "div(1, mul(gamma, mu))", "gamma": "div(b, mu)", "mu": "div(b, gamma)"}),
        ("abs(b)", "", {}),
    ],
)  # fmt: skip
def test_one_part_is_left_out(text: str, kind: str, rests: dict[str, str]) -> None:
    found, pairs = leave_one_out(parse(text, PRIMITIVES), OperatorPatterns(PRIMITIVES))
    assert found == kind
    assert {str(part): str(rest) for part, rest in pairs} == rests


def test_the_variance_that_a_term_carries(probes: Probes) -> None:
    conventions = Conventions("layer", "none")
    whole, small = (
        parse(text, PRIMITIVES)
        for text in ("add(l1[i,k](W), mul(0.001, std[n,s](A)))", "l1[i,k](W)")
    )
    assert 0 < probes.lost_variance(whole, small, conventions) < 1e-3
    assert probes.lost_variance(whole, None, conventions) == 1.0


@pytest.mark.slow
def test_lamp_is_found_by_what_it_ranks() -> None:
    found = likeness(Metric.parse("l1[i,k](div(square(W), tail_sum[o,i,k](square(W))))"))
    name, tau = found.nearest[0]
    assert name == "lamp"
    assert tau == pytest.approx(1.0)
    assert len(found.nearest) == 3
    assert found.kind == "factors"
    taus = [tau for _, tau in found.taus]
    assert taus == sorted(taus, reverse=True)
    assert all(-1 <= tau <= 1 + 1e-9 for tau in taus)
    assert likeness(Metric.load("lamp")).nearest[0][0] != "lamp"
