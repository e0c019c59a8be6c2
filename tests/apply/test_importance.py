"""Metrics inside Torch-Pruning's pruner and torch's own pruning functions."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from gp_prune._compat import TorchvisionWarning, import_torchvision
from gp_prune.apply.importance import as_importance, as_pruning_method, importance_scores
from gp_prune.errors import UserError
from gp_prune.metric.file import JOINS, Conventions
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget, DegenerateScores, group_scores, select_weights, trace

Make = Callable[[], nn.Module]
ROOT_TYPES = (nn.modules.conv._ConvNd, nn.Linear)


def seeded(make: Make) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(8)
        return make()


def torchvision_model(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TorchvisionWarning)
        models = import_torchvision().models
    return seeded(lambda: getattr(models, name)(weights=None, num_classes=10))


def autoencoder() -> nn.Module:
    widths = (20, 12, 4, 12, 20)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def vgg() -> nn.Module:
    """Convolutions, batch norms, and a flattened map of 2 x 2 positions per channel."""
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 12), (12, 16)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 5))


class Branches(nn.Module):
    """Concatenation, a residual sum, a depthwise and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 10, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.side = nn.Conv2d(16, 8, 1)
        self.back = nn.Conv2d(8, 16, 1)
        self.out = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], dim=1).relu()
        x = self.depthwise(x).relu()
        y = self.grouped(x).relu()
        y = y + self.back(self.side(y).relu())
        output: torch.Tensor = self.out(y.mean((2, 3)))
        return output


class Attention(nn.Module):
    """Self-attention whose queries, keys and values come from one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.embed, self.qkv = nn.Linear(6, 16), nn.Linear(16, 48)
        self.project, self.out = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        samples, tokens, _ = x.shape
        q, k, v = (
            part.reshape(samples, tokens, self.heads, -1).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        x = x + self.project(mixed.transpose(1, 2).reshape(samples, tokens, -1))
        output: torch.Tensor = self.out(x.mean(1))
        return output


IMAGES = (2, 3, 16, 16)
SMALL: dict[str, tuple[Make, tuple[int, ...], list[str]]] = {
    "autoencoder": (autoencoder, (4, 20), ["6"]),
    "vgg": (vgg, IMAGES, ["15"]),
    "branches": (Branches, IMAGES, ["out"]),
}
LARGE = ["resnet18", "mobilenet_v2", pytest.param("vgg11_bn", marks=pytest.mark.slow)]


def pruner(
    model: nn.Module, inputs: Tensor, importance: Any, ignored: list[str], **options: Any
) -> Any:
    return tp.pruner.BasePruner(
        model, inputs, importance, ignored_layers=[model.get_submodule(name) for name in ignored],
        in_channel_groups={}, out_channel_groups={}, num_heads={}, **options,
    )  # fmt: skip


def magnitude(**options: Any) -> Any:
    return tp.importance.MagnitudeImportance(
        p=1, normalizer=None, target_types=list(ROOT_TYPES), **options
    )


def widths(model: nn.Module) -> list[int]:
    return [module.weight.shape[0] for module in model.modules() if isinstance(module, ROOT_TYPES)]


def inputs_of(name: str) -> Tensor:
    return torch.randn(SMALL[name][1], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("together", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("name", SMALL)
def test_prunes_and_trains(name: str, together: bool) -> None:
    make, _, ignored = SMALL[name]
    model, inputs = seeded(make), inputs_of(name)
    before = widths(model)
    importance = as_importance("l1", model, conventions=Conventions("global", "mean", "mean"))
    pruner(model, inputs, importance, ignored, global_pruning=together, pruning_ratio=0.5).step()
    assert sum(widths(model)) < sum(before)
    model(inputs).sum().backward()


@pytest.mark.parametrize("together", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("name", ["autoencoder", "vgg"])
def test_cuts_what_torch_prunings_own_l1_cuts(name: str, together: bool) -> None:
    """Where every group has one producer, theirs by the first layer is the same metric."""
    make, _, ignored = SMALL[name]
    kept = []
    for ours in (True, False):
        model = seeded(make)
        importance = as_importance("l1", model) if ours else magnitude(group_reduction="first")
        pruner(
            model, inputs_of(name), importance, ignored, global_pruning=together, pruning_ratio=0.4
        ).step()
        kept.append(model.state_dict())
    assert [t.shape for t in kept[0].values()] == [t.shape for t in kept[1].values()]
    for key, value in kept[0].items():
        assert torch.equal(value, kept[1][key]), key


@pytest.mark.parametrize("together", [False, True], ids=["local", "global"])
def test_removes_attention_heads(together: bool) -> None:
    """Torch-Pruning asks for a group by the inputs of the layer that reads the heads."""
    model = seeded(Attention)
    inputs = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    pruning = tp.pruner.BasePruner(
        model, inputs, as_importance("l1", model), ignored_layers=[model.out],
        in_channel_groups={}, out_channel_groups={}, num_heads={model.qkv: 4},
        prune_num_heads=True, prune_head_dims=False, head_pruning_ratio=0.5,
        global_pruning=together, pruning_ratio=0.5,
    )  # fmt: skip
    pruning.step()
    assert pruning.num_heads[model.qkv] == 2
    assert model.qkv.out_features == 24  # type: ignore[union-attr]
    model.heads = 2  # type: ignore[assignment]
    model(inputs).sum().backward()


@pytest.mark.parametrize("together", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("name", LARGE)
def test_known_networks(name: str, together: bool) -> None:
    model, inputs = torchvision_model(name), torch.randn(2, 3, 32, 32)
    before = widths(model)
    last = [n for n, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    options = {"global_pruning": together, "pruning_ratio": 0.5, "iterative_steps": 2}
    pruning = pruner(model, inputs, as_importance("l1", model), [last], **options)
    pruning.step()
    pruning.step()
    if not together:
        assert widths(model)[:-1] == [width // 2 for width in before[:-1]]
    assert sum(widths(model)) < sum(before)
    model.eval()(inputs).sum().backward()


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("name", ["autoencoder", "vgg", "branches"])
def test_scores_are_those_of_our_own_groups(name: str, join: str) -> None:
    """Every group that both find with the same producers has the same scores."""
    make, _, ignored = SMALL[name]
    model, inputs = seeded(make), inputs_of(name)
    conventions = Conventions("global", "mean", join)
    importance = as_importance("l2", model, conventions=conventions)
    architecture = trace(model, inputs)
    ours = group_scores(
        architecture,
        {n: Metric.load("l2").scores(r) for n, r in _records(model).items()},
        conventions,
    )
    graph = tp.DependencyGraph().build_dependency(model, inputs)
    found = 0
    names = {module: n for n, module in model.named_modules()}
    for group in graph.get_all_groups(
        ignored_layers=[model.get_submodule(n) for n in ignored], root_module_types=ROOT_TYPES
    ):
        scores = importance(group)
        assert scores is not None
        assert scores.shape == (len(group[0].idxs),)
        root = names[group[0].dep.target.module]
        known = ours.get(root)
        if known is not None and known.shape == scores.shape:
            torch.testing.assert_close(scores, known)
            found += 1
    assert found >= 1


def _records(model: nn.Module) -> dict[str, Any]:
    from gp_prune.statistics import collect

    return collect(model, None, ())


def test_concatenated_channels_are_joined_with_their_own_part() -> None:
    model, inputs = seeded(Branches), inputs_of("branches")
    l1 = {
        name: getattr(model, name).weight.detach().abs().sum((1, 2, 3)).double()
        for name in ("left", "right", "depthwise")
    }
    importance = as_importance("l1", model, conventions=Conventions("global", "none", "sum"))
    graph = tp.DependencyGraph().build_dependency(model, inputs)
    for name, part in (("left", slice(0, 6)), ("right", slice(6, 16))):
        layer = model.get_submodule(name)
        channels = list(range(layer.out_channels))  # type: ignore[arg-type]
        scores = importance(graph.get_pruning_group(layer, tp.prune_conv_out_channels, channels))
        torch.testing.assert_close(scores, l1[name] + l1["depthwise"][part])
        some = importance(graph.get_pruning_group(layer, tp.prune_conv_out_channels, [4, 1]))
        assert some is not None and scores is not None
        torch.testing.assert_close(some, scores[[4, 1]])


def test_several_entries_of_a_layer_are_one_channel() -> None:
    """Sixteen outputs of a linear layer become four maps of 2 x 2."""
    model = seeded(
        lambda: nn.Sequential(
            nn.Linear(6, 16),
            nn.ReLU(),
            nn.Unflatten(1, (4, 2, 2)),
            nn.Conv2d(4, 4, 1, groups=4),
            nn.Conv2d(4, 3, 1),
            nn.Flatten(),
        )
    )
    inputs = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    graph = tp.DependencyGraph().build_dependency(model, inputs)
    group = graph.get_pruning_group(
        model.get_submodule("3"), tp.prune_conv_out_channels, [0, 1, 2, 3]
    )
    first, depthwise = (
        model.get_parameter(f"{i}.weight").detach().double().abs().flatten(1).sum(1) for i in (0, 3)
    )
    for join, expected in {
        "sum": first.reshape(4, 4).sum(1) + depthwise,
        "max": torch.maximum(first.reshape(4, 4).amax(1), depthwise),
        "mean": (first.reshape(4, 4).mean(1) + depthwise) / 2,
    }.items():
        scores = as_importance("l1", model, conventions=Conventions("global", "none", join))(group)
        torch.testing.assert_close(scores, expected)


def test_entries_without_a_known_root_do_not_count() -> None:
    model, inputs = seeded(Branches), inputs_of("branches")
    graph = tp.DependencyGraph().build_dependency(model, inputs)
    group = graph.get_pruning_group(model.left, tp.prune_conv_out_channels, list(range(6)))
    for item in group:
        if item.dep.target.module is model.depthwise:
            item.root_idxs = [None] * 6
    importance = as_importance("l1", model, conventions=Conventions("global", "none", "sum"))
    left = model.get_parameter("left.weight").detach().double().abs().sum((1, 2, 3))
    torch.testing.assert_close(importance(group), left)
    group[0].root_idxs = [None] * 6
    assert importance(group) is None


def test_scores_follow_the_network_through_the_steps() -> None:
    """After a step, and after training, the layers are scored anew; without need they are not."""
    model, inputs = seeded(vgg), inputs_of("vgg")
    count = 0

    def data() -> Any:
        nonlocal count
        count += 1
        yield inputs

    class Data:
        __iter__ = staticmethod(data)

    importance = as_importance("apoz", model, data=Data())
    pruning = pruner(
        model, inputs, importance, ["15"], pruning_ratio=0.5, iterative_steps=2,
        global_pruning=True,
    )  # fmt: skip
    pruning.step()
    passes = count
    assert passes >= 1
    pruning.step()
    assert count == 2 * passes
    group = next(iter(pruning.DG.get_all_groups(ignored_layers=[model.get_submodule("15")])))
    importance(group)
    again = count
    importance(group)
    assert count == again
    with torch.no_grad():
        model.get_parameter("0.weight").add_(1)
    importance(group)
    assert count > again


def test_data_that_can_be_iterated_once_is_kept() -> None:
    model, inputs = seeded(vgg), inputs_of("vgg")
    importance = as_importance("mean_activation", model, data=iter([inputs]))
    pruning = pruner(model, inputs, importance, ["15"], pruning_ratio=0.5, iterative_steps=3)
    for _ in range(3):
        pruning.step()
    assert widths(model) == [4, 6, 8, 12, 5]


@pytest.mark.parametrize("metric", ["taylor_gate", "group_taylor", "synflow"])
def test_metrics_with_gradients_and_readers(metric: str) -> None:
    model, inputs = seeded(vgg), inputs_of("vgg")
    batches = [(inputs, torch.tensor([1, 3]))]
    importance = as_importance(metric, model, inputs, data=batches, loss=functional.cross_entropy)
    pruner(model, inputs, importance, ["15"], pruning_ratio=0.5).step()
    assert widths(model) == [4, 6, 8, 12, 5]


def test_the_network_is_left_as_it_was() -> None:
    model, inputs = seeded(Branches).train(), inputs_of("branches")
    state = copy.deepcopy(model.state_dict())
    random = torch.random.get_rng_state()
    graph = tp.DependencyGraph().build_dependency(model, inputs)
    model.train()
    importance = as_importance("l1", model)
    for group in graph.get_all_groups(root_module_types=ROOT_TYPES):
        importance(group)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())


class TestRefusedImportance:
    def test_metrics_of_weights(self) -> None:
        with pytest.raises(UserError, match="ranks single weights, Torch-Pruning removes channels"):
            as_importance("magnitude", nn.Linear(2, 2))

    def test_missing_data(self) -> None:
        with pytest.raises(UserError, match="give calibration data"):
            as_importance("apoz", nn.Linear(2, 2))

    def test_missing_inputs(self) -> None:
        with pytest.raises(UserError, match="give example_inputs"):
            as_importance("group_norm", nn.Linear(2, 2))

    def test_constant_scores(self) -> None:
        """Torch-Pruning would prune nothing, without a word."""
        model, inputs = seeded(vgg), inputs_of("vgg")
        pruning = pruner(
            model, inputs, as_importance("bn_scale", model), ["15"], global_pruning=True
        )
        with pytest.raises(DegenerateScores, match="constant"):
            pruning.step()
        assert widths(model) == [8, 12, 16, 24, 5]

    def test_groups_of_another_network(self) -> None:
        model, inputs = seeded(vgg), inputs_of("vgg")
        other = as_importance("l1", seeded(vgg))
        with pytest.raises(UserError, match="from the network that the pruner cuts"):
            pruner(model, inputs, other, ["15"]).step()


def weights(model: nn.Module) -> list[tuple[Any, str]]:
    return [(module, "weight") for module in model.modules() if isinstance(module, ROOT_TYPES)]


def masks(model: nn.Module) -> Tensor:
    return torch.cat([module.weight_mask.flatten() for module, _ in weights(model)])


@pytest.mark.parametrize("text", ["W", "abs(W)", "neg(abs(W))"])
@pytest.mark.parametrize("name", SMALL)
def test_global_unstructured_removes_the_lowest(name: str, text: str) -> None:
    """By a reference that sorts all weights; scores of W are negative for half of them."""
    model = seeded(SMALL[name][0])
    metric = Metric.parse(text, conventions=Conventions("global", "none", "mean"))
    everything = torch.cat([module.weight.detach().flatten() for module, _ in weights(model)])
    sign = {"W": everything, "abs(W)": everything.abs(), "neg(abs(W))": -everything.abs()}[text]
    gone = sign.sort(stable=True).indices[: round(0.3 * len(sign))]
    prune.global_unstructured(
        weights(model),
        pruning_method=metric.as_pruning_method(),
        importance_scores=metric.importance_scores(model, weights(model)),
        amount=0.3,
    )
    assert (masks(model) == 0).nonzero().flatten().tolist() == sorted(gone.tolist())


def test_global_unstructured_is_the_plan_of_select_weights() -> None:
    model = seeded(vgg)
    metric = Metric.load("lamp_weight")
    names = {module: name for name, module in model.named_modules()}
    layers = [names[module] for module, _ in weights(model)]
    scores = {name: metric.scores(record) for name, record in _records(model).items()}
    plan = select_weights(model, layers, scores, metric.conventions, Budget("params", 0.5))
    prune.global_unstructured(
        weights(model), as_pruning_method(metric), importance_scores(metric, model), amount=0.5
    )
    for name, found in plan.masks(model).items():
        layer: Any = model.get_submodule(name[0])
        assert torch.equal(layer.weight_mask != 0, found)


def test_on_top_of_masks_the_rest_counts_and_counts_exactly() -> None:
    model, metric = seeded(Branches), Metric.load("magnitude")
    for module, name in weights(model)[:3]:
        prune.random_unstructured(module, name, 0.5)  # type: ignore[no-untyped-call]
    prune.identity(model.out, "weight")  # type: ignore[no-untyped-call]
    already = [getattr(module, "weight_mask", None) for module, _ in weights(model)]
    total = sum(module.weight.numel() for module, _ in weights(model))
    remaining = total - sum(int((mask == 0).sum()) for mask in already if mask is not None)
    prune.global_unstructured(
        weights(model),
        metric.as_pruning_method(),
        metric.importance_scores(model),
        amount=100,
    )
    assert int(masks(model).sum()) == remaining - 100
    for (module, _), before in zip(weights(model), already, strict=True):
        if before is not None:
            assert not module.weight_mask[before == 0].any()
    for module, name in weights(model):
        prune.remove(module, name)  # type: ignore[no-untyped-call]
    assert not prune.is_pruned(model)


def test_scores_have_the_layout_of_the_weights() -> None:
    """Grouped and transposed layers, too."""
    model = nn.ModuleDict({
        "grouped": nn.Conv2d(8, 4, 3, groups=2), "up": nn.ConvTranspose2d(4, 6, 2, groups=2),
        "out": nn.Linear(3, 2),
    })  # fmt: skip
    scores = importance_scores(
        Metric.parse("W", conventions=Conventions("global", "none", "mean")), model
    )
    for (module, name), found in scores.items():
        weight = module.get_parameter(name).detach()
        torch.testing.assert_close(found, weight.double())


class TestRefusedScores:
    def test_metrics_of_channels(self) -> None:
        for function in (as_pruning_method, lambda m: importance_scores(m, nn.Linear(2, 2))):
            with pytest.raises(UserError, match="ranks channels, torch"):
                function("l1")

    def test_parameters_that_are_no_weights_of_layers(self) -> None:
        model = seeded(vgg)
        for parameter in (
            (model.get_submodule("0"), "bias"),
            (model.get_submodule("1"), "weight"),
            (nn.Linear(2, 2), "weight"),
        ):
            with pytest.raises(UserError, match="has no scores; give the weights"):
                importance_scores("magnitude", model, [parameter])

    def test_scores_that_are_not_finite(self) -> None:
        model = seeded(autoencoder)
        with torch.no_grad():
            model.get_parameter("0.weight")[0, 0] = torch.nan
        with pytest.raises(UserError):
            importance_scores("magnitude", model)


def test_a_metric_has_its_uses_as_methods() -> None:
    model, inputs = seeded(autoencoder), inputs_of("autoencoder")
    metric = Metric.load("l1")
    pruned = metric.prune(model, inputs, keep_channels=0.5)
    assert widths(pruned.model) == [6, 2, 6, 20]
    importance = metric.as_importance(model)
    pruner(model, inputs, importance, ["6"], pruning_ratio=0.5).step()
    assert widths(model) == widths(pruned.model)
    for ours, theirs in zip(pruned.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
