"""Every reference metric beside a direct implementation that does not use the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gp_prune.layer import LayerRecord, synthetic_layer
from gp_prune.metric import Metric, bundled_metrics

Array = NDArray[np.float64]


def random_layer(seed: int = 3) -> LayerRecord:
    """A layer of other sizes than the synthetic one, with some weights alike and some zero."""
    generator = torch.Generator().manual_seed(seed)
    o, i, k, n, s, c = 7, 5, 9, 6, 4, 3

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight, z = normal(o, i, k), normal(o, n, s)
    weight[1, 2] = weight[3, 2]
    weight[4, 0] = 0
    return LayerRecord(
        name="random",
        weight=weight,
        bias=normal(o),
        has_batch_norm=True,
        gamma=normal(o),
        beta=normal(o),
        mu=normal(o),
        var=normal(o).square(),
        weight_grad=normal(o, i, k),
        gamma_grad=normal(o),
        beta_grad=normal(o),
        inputs=normal(i, n, s),
        input_norm=normal(i, k).abs(),
        pre_activation=z,
        activation=z.clamp(min=0),
        class_mean=normal(o, c),
        class_var=normal(o, c).square(),
        class_count=torch.tensor([2.0, 2.0, 2.0], dtype=torch.float64),
        rest_mean=normal(o, c),
        rest_var=normal(o, c).square(),
        rest_count=torch.tensor([4.0, 4.0, 4.0], dtype=torch.float64),
        noise=torch.rand((o, i, k), generator=generator, dtype=torch.float64),
    )


def lamp(W: Array) -> list[float]:
    squares = sorted(float(w) ** 2 for w in W.flatten())
    scores = []
    for filter_ in W:
        score = 0.0
        for w in filter_.flatten():
            tail = sum(square for square in squares if square >= float(w) ** 2)
            score += float(w) ** 2 / tail
        scores.append(score)
    return scores


def fpgm(W: Array) -> list[float]:
    rows = W.reshape(len(W), -1)
    return [sum(float(np.linalg.norm(row - other)) for other in rows) for row in rows]


DIRECT: dict[str, Callable[[dict[str, Array]], Any]] = {
    "apoz": lambda t: [float(np.mean(a > 0)) for a in t["activation"]],
    "bn_scale": lambda t: np.abs(t["gamma"]),
    "fpgm": lambda t: fpgm(t["weight"]),
    "l1": lambda t: [float(np.linalg.norm(w.flatten(), 1)) for w in t["weight"]],
    "l2": lambda t: [float(np.linalg.norm(w.flatten(), 2)) for w in t["weight"]],
    "lamp": lambda t: lamp(t["weight"]),
    "magnitude": lambda t: np.abs(t["weight"]),
    "mean_activation": lambda t: [float(np.mean(np.abs(a))) for a in t["activation"]],
    "random": lambda t: [float(u[0, 0]) for u in t["noise"]],
    "random_weight": lambda t: t["noise"],
    "snip": lambda t: (
        np.einsum("oik,oik->o", np.abs(t["weight"]), np.abs(t["weight_grad"]))
        / np.einsum("oik,oik->", np.abs(t["weight"]), np.abs(t["weight_grad"]))
    ),
    "snip_weight": lambda t: np.abs(t["weight_grad"]) * np.abs(t["weight"]),
    "taylor_bn": lambda t: [
        (gamma * by_gamma + beta * by_beta) ** 2
        for gamma, by_gamma, beta, by_beta in zip(
            t["gamma"], t["gamma_grad"], t["beta"], t["beta_grad"], strict=True
        )
    ],
    "taylor_weights": lambda t: np.einsum("oik,oik->o", t["weight"] ** 2, t["weight_grad"] ** 2),
    "wanda": lambda t: np.einsum("oik,ik->o", np.abs(t["weight"]), t["input_norm"]),
    "wanda_weight": lambda t: np.abs(t["weight"]) * t["input_norm"][None],
}


def test_every_reference_metric_has_a_direct_implementation() -> None:
    bundled = {name for name, file in bundled_metrics().items() if file.parent.name == "reference"}
    assert set(DIRECT) == bundled


@pytest.mark.parametrize("layer", [synthetic_layer(), random_layer()], ids=lambda la: la.name)
@pytest.mark.parametrize("name", DIRECT)
def test_scores_equal_the_direct_implementation(name: str, layer: LayerRecord) -> None:
    tensors = {
        field: value.numpy()
        for field, value in vars(layer).items()
        if isinstance(value, torch.Tensor)
    }
    expected = np.asarray(DIRECT[name](tensors))
    scores = Metric.load(name).scores(layer)
    assert scores.dtype == torch.float64
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-6)
