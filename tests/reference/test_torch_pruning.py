"""Torch-Pruning's own importances, where they are right, and the three that are not.

Wrong in 1.6.1, shown below: ``FPGMImportance`` (distances between magnitudes of weights),
``GroupTaylorImportance`` (leaves batch norms out) and ``GroupHessianImportance`` (keeps the last
sample alone). ``LAMPImportance`` is not wrong but another metric: it sums the squares of a filter
before it relates filters, while LAMP relates single weights.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.language.record import NEEDS, LayerRecord
from gp_prune.metric.metric import Metric
from gp_prune.pruning import consumers, trace
from gp_prune.statistics import Batch, collect

IMAGES = (12, 2, 6, 6)


def network() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(13)
        model: Any = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(2, 6, 3),
                norm=nn.BatchNorm2d(6),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(6, 5, 3),
                relu2=nn.ReLU(),
                up=nn.ConvTranspose2d(5, 4, 2, stride=2),
                relu3=nn.ReLU(),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                hidden=nn.Linear(4, 7),
                relu4=nn.ReLU(),
                out=nn.Linear(7, 3),
            )
        )
        nn.init.normal_(model.norm.weight)
        nn.init.normal_(model.norm.bias)
    return model.eval()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(14)
    labels = torch.randint(0, 3, IMAGES[:1], generator=generator)
    return torch.randn(IMAGES, generator=generator), labels


def record(model: nn.Sequential, layer: str, samples: int = IMAGES[0]) -> LayerRecord:
    x, y = (tensor[:samples] for tensor in data())
    measured = collect(
        model, [layer], [Batch(x, y, y)], needs=frozenset(NEEDS) - {"network"},
        loss=functional.cross_entropy,
        outgoing=consumers(trace(model, x)),
    )  # fmt: skip
    return measured[layer]


def ours(metric: Metric | str, model: nn.Sequential, layer: str, samples: int = 12) -> Tensor:
    metric = Metric.load(metric) if isinstance(metric, str) else metric
    return metric.scores(record(model, layer, samples)).float()


def theirs(importance: tp.importance.Importance, model: nn.Sequential, layer: str) -> Tensor:
    """Their scores of all channels of a layer; gradients are those that the parameters hold."""
    module = model.get_submodule(layer)
    linear = isinstance(module, nn.Linear)
    prune = tp.prune_linear_out_channels if linear else tp.prune_conv_out_channels
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=data()[0])
    channels: Any = module.out_features if linear else module.out_channels
    scores: Tensor = importance(graph.get_pruning_group(module, prune, idxs=list(range(channels))))
    return scores


def differentiate(model: nn.Sequential, samples: int = IMAGES[0]) -> None:
    x, y = (tensor[:samples] for tensor in data())
    functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]


LAYERS = ["conv1", "conv2", "up", "hidden"]


@pytest.mark.parametrize("layer", LAYERS)
def test_norms(layer: str) -> None:
    model = network()
    first = {"group_reduction": "first", "normalizer": None}
    l1 = tp.importance.MagnitudeImportance(p=1, **first)
    torch.testing.assert_close(ours("l1", model, layer), theirs(l1, model, layer))
    squares = tp.importance.MagnitudeImportance(p=2, **first)
    torch.testing.assert_close(ours("l2", model, layer).square(), theirs(squares, model, layer))


def test_group_norm() -> None:
    """With batch norm a group has three tensors; without, theirs leaves our gamma of 1 out."""
    model = network()
    importance = tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    torch.testing.assert_close(
        ours("group_norm", model, "conv1"), theirs(importance, model, "conv1")
    )
    for layer in LAYERS[1:]:
        found = (3 * ours("group_norm", model, layer) - 1) / 2
        torch.testing.assert_close(found, theirs(importance, model, layer))


def test_batch_norm_scale() -> None:
    model = network()
    importance = tp.importance.BNScaleImportance(normalizer=None)
    torch.testing.assert_close(ours("bn_scale", model, "conv1"), theirs(importance, model, "conv1"))


@pytest.mark.parametrize("layer", LAYERS)
def test_lamp_of_whole_filters(layer: str) -> None:
    model = network()
    of_filters = Metric.parse("div(sum[i,k](square(W)), tail_sum[o](sum[i,k](square(W))))")
    importance = tp.importance.LAMPImportance(group_reduction="first")
    torch.testing.assert_close(ours(of_filters, model, layer), theirs(importance, model, layer))


def test_fpgm_is_theirs_where_no_weight_is_negative() -> None:
    """Wrong 1 of 3: they compare magnitudes, so that the sign of a weight does not matter."""
    model: Any = network()
    importance = tp.importance.FPGMImportance(p=1, group_reduction="first", normalizer=None)
    before = theirs(importance, model, "conv1")
    assert not torch.allclose(ours("fpgm", model, "conv1"), before)
    model.conv1.weight.data[::2] *= -1
    torch.testing.assert_close(theirs(importance, model, "conv1"), before, rtol=0, atol=0)
    model.conv1.weight.data.abs_()
    torch.testing.assert_close(ours("fpgm", model, "conv1"), theirs(importance, model, "conv1"))


@pytest.mark.parametrize("layer", LAYERS[1:])
def test_group_taylor_without_batch_norm(layer: str) -> None:
    model = network()
    differentiate(model)
    importance = tp.importance.GroupTaylorImportance("sum", normalizer=None, multivariable=True)
    torch.testing.assert_close(
        ours("group_taylor", model, layer), theirs(importance, model, layer), rtol=1e-4, atol=1e-7
    )


def test_group_taylor_of_theirs_leaves_batch_norms_out() -> None:
    """Wrong 2 of 3: it looks for the batch norm under the name of the group norm."""
    model: Any = network()
    differentiate(model)
    importance = tp.importance.GroupTaylorImportance("sum", normalizer=None, multivariable=True)
    before = theirs(importance, model, "conv1")
    model.norm.weight.grad *= 1000
    model.norm.bias.grad *= 1000
    torch.testing.assert_close(theirs(importance, model, "conv1"), before, rtol=0, atol=0)


@pytest.mark.parametrize("layer", LAYERS[1:])
def test_group_hessian_of_one_sample_without_batch_norm(layer: str) -> None:
    model = network()
    importance = tp.importance.GroupHessianImportance("sum", normalizer=None)
    differentiate(model, samples=1)
    importance.accumulate_grad(model)
    torch.testing.assert_close(
        ours("group_hessian", model, layer, samples=1),
        theirs(importance, model, layer),
        rtol=1e-4,
        atol=1e-9,
    )


def test_group_hessian_of_theirs_keeps_the_last_sample_alone() -> None:
    """Wrong 3 of 3: it looks for what it has summed under another key than it stored it."""
    scores = []
    for samples in (range(12), range(11, 12)):
        model = network()
        importance = tp.importance.GroupHessianImportance("first", normalizer=None)
        for sample in samples:
            model.zero_grad()
            x, y = data()
            loss = functional.cross_entropy(model(x[[sample]]), y[[sample]])
            loss.backward()  # type: ignore[no-untyped-call]
            importance.accumulate_grad(model)
        scores.append(theirs(importance, model, "conv1"))
    torch.testing.assert_close(*scores, rtol=0, atol=0)
