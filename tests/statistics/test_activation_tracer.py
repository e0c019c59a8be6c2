"""Which batch norm belongs to a layer, and what the activation is."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune._compat import TorchvisionWarning, import_torchvision
from gp_prune.statistics import Batch, collect, prunable_layers
from gp_prune.statistics.activation_tracer import Site, norms_of, observe
from gp_prune.statistics.pairing import PairingWarning, pair_without_data


def torchvision_model(name: str) -> nn.Module:
    """One of torchvision's classifiers with fresh weights, in evaluation mode."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore", TorchvisionWarning)
        torch.manual_seed(0)
        options = {"init_weights": False} if name.startswith(("vgg", "goog")) else {}
        model: nn.Module = getattr(import_torchvision().models, name)(weights=None, **options)
    return model.eval()


def sites_of(model: nn.Module, inputs: Tensor) -> dict[str, list[Site]]:
    """Layer -> what follows each use."""
    model.eval()
    found: dict[str, list[Site]] = {}
    for call, site in observe(model, prunable_layers(model), inputs).items():
        found.setdefault(call.layer, []).append(site)
    return found


class Block(nn.Module):
    """A layer, maybe a batch norm, and whatever ``tail`` does."""

    def __init__(self, tail: Any, norm: bool = False) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.tail = tail

    def forward(self, x: Tensor) -> Any:
        return self.tail(self.norm(self.layer(x)))


MODULES = [
    nn.ReLU(), nn.ReLU(True), nn.ReLU6(), nn.ReLU6(True), nn.LeakyReLU(),
    nn.LeakyReLU(inplace=True), nn.ELU(), nn.ELU(inplace=True), nn.SELU(), nn.CELU(), nn.GELU(),
    nn.SiLU(), nn.SiLU(True), nn.Mish(), nn.Mish(True), nn.Hardswish(), nn.Hardswish(True),
    nn.Hardsigmoid(), nn.Hardtanh(),
    nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.Softsign(), nn.PReLU(), nn.RReLU(), nn.LogSigmoid(),
    nn.Threshold(0.1, 0.0), nn.Tanhshrink(), nn.Hardshrink(), nn.Softshrink(),
]  # fmt: skip

FUNCTIONS = [
    functional.relu, torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.special.expit,
    functional.hardswish, functional.gelu, functional.silu, functional.leaky_relu_,
    lambda x: x.relu(), lambda x: x.relu_(), lambda x: x.sigmoid_(), lambda x: x.clamp(min=0),
    lambda x: x.clamp_(0, 6), lambda x: x.clip(min=0), lambda x: torch.clamp_min(x, 0),
    lambda x: functional.relu(input=x, inplace=True),
]  # fmt: skip


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("tail", [*MODULES, *FUNCTIONS])
def test_every_activation_is_measured_before_and_after(tail: Any, norm: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = Block(tail, norm).eval(), torch.randn(3, 2, 2, 2)
    record = collect(model, None, [Batch(inputs)], needs={"outputs"})["layer"]
    with torch.no_grad():
        before = model.norm(model.layer(inputs))
        after = tail(before.clone())
    flat = before.flatten(2).transpose(0, 1).double()
    torch.testing.assert_close(record.pre_activation, flat)
    torch.testing.assert_close(record.activation, after.flatten(2).transpose(0, 1).double())
    assert not torch.equal(flat, record.require("activation"))


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class InplaceSwish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(x.sigmoid())


class ReluPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(functional.relu(x, inplace=True), 2)


@pytest.mark.parametrize(
    ("tail", "function"),
    [(Swish(), functional.silu), (InplaceSwish(), functional.silu), (ReluPool(), torch.relu)],
)
def test_activations_written_by_hand_as_modules(tail: nn.Module, function: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = Block(tail, True).eval(), torch.randn(3, 2, 2, 2)
    record = collect(model, None, [Batch(inputs)], needs={"outputs"})["layer"]
    torch.testing.assert_close(record.activation, function(record.pre_activation))


@pytest.mark.parametrize(
    "tail",
    [
        nn.Identity(),
        nn.MaxPool2d(2),
        nn.Sequential(nn.MaxPool2d(2), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.ReLU()),
        nn.Sequential(nn.GroupNorm(1, 3), nn.ReLU()),
        nn.Softmax(1),
        lambda x: x + torch.relu(torch.ones(1)),
    ],
)
def test_without_an_activation_both_are_the_same(tail: Any) -> None:
    model, inputs = Block(tail).eval(), torch.ones(1, 2, 2, 2)
    record = collect(model, None, [Batch(inputs)], needs={"outputs"})["layer"]
    assert torch.equal(record.require("pre_activation"), record.require("activation"))


def test_what_is_added_in_place_later_is_not_seen() -> None:
    model, inputs = Block(lambda x: x.add_(100).relu_()).eval(), torch.ones(1, 2, 2, 2)
    record = collect(model, None, [Batch(inputs)], needs={"outputs"})["layer"]
    expected = model.layer(inputs).detach().double().flatten(2).transpose(0, 1)
    torch.testing.assert_close(record.activation, expected)


def test_dropout_and_identity_hand_the_output_on() -> None:
    model = nn.Sequential(
        nn.Linear(2, 3), nn.Identity(), nn.BatchNorm1d(3), nn.Dropout(), nn.ReLU(), nn.Linear(3, 1)
    )
    assert sites_of(model, torch.ones(4, 2)) == {"0": [Site("2", True)], "5": [Site()]}
    assert pair_without_data(model, prunable_layers(model)) == {"0": "2", "5": None}


def test_a_batch_norm_that_works_on_tokens_is_no_channel_norm() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert sites_of(model, torch.ones(4, 3, 2)) == {"0": [Site()]}
    assert sites_of(model, torch.ones(4, 2)) == {"0": [Site("1")]}


class Shared(nn.Module):
    """One layer and one batch norm used twice, with and without an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.layer(x)).relu()
        return self.norm(self.layer(x))


def test_each_use_of_a_shared_layer_is_told_apart() -> None:
    assert sites_of(Shared(), torch.ones(3, 2)) == {"layer": [Site("norm", True), Site("norm")]}


class Untraceable(nn.Module):
    """Control flow that depends on data, and a batch norm before its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm1d(2)
        self.one = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.two = nn.Linear(2, 3)
        self.wrong = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Any:
        x = self.norm(self.one(self.first(x)))
        return self.two(self.wrong(x)) if x.sum() > 0 else self.two(x)


def test_models_that_cannot_be_traced_are_paired_by_registration() -> None:
    model = Untraceable().eval()
    layers = prunable_layers(model)
    expected = {"one": "norm", "two": None}
    with pytest.warns(PairingWarning, match=r"'norm' to 'one'\).*give example_inputs"):
        assert pair_without_data(model, layers) == expected
    assert norms_of(observe(model, layers, torch.ones(2, 2))) == expected


class NormsFirst(nn.Module):
    """Every batch norm runs before the layer behind which it is listed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.first = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.two, self.second = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.first(x)).relu()
        return self.two(self.second(x)) if x.sum() >= 0 else x


def test_a_wrong_guess_is_told_as_a_guess() -> None:
    """Where the order of listing misleads, only a run tells; nothing is guessed in silence."""
    model = NormsFirst().eval()
    layers = prunable_layers(model)
    with pytest.warns(PairingWarning, match=r"'first' to 'one' and 1 more"):
        assert pair_without_data(model, layers) == {"one": "first", "two": "second"}
    assert norms_of(observe(model, layers, torch.ones(2, 4))) == {"one": None, "two": None}
    with pytest.warns(PairingWarning):
        guessed = collect(model, None, ())
    assert guessed["one"].has_batch_norm
    assert not collect(model, None, (), example_inputs=torch.ones(2, 4))["one"].has_batch_norm


TORCHVISION = ["resnet18", "vgg16_bn", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5"]


@pytest.mark.parametrize("name", [*TORCHVISION, "efficientnet_b0", "squeezenet1_1", "vgg11"])
def test_all_ways_of_pairing_agree_on_torchvision(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torchvision_model(name)
    layers = prunable_layers(model)
    exact = norms_of(observe(model, layers, torch.zeros(1, 3, 64, 64)))
    assert pair_without_data(model, layers) == exact
    monkeypatch.setattr("gp_prune.statistics.pairing._Tracer.trace", _fail)
    guessing = pytest.warns(PairingWarning) if any(exact.values()) else nullcontext()
    with guessing:
        assert pair_without_data(model, layers) == exact
    normed = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert sum(norm is not None for norm in exact.values()) == normed


def _fail(*args: object) -> None:
    raise ValueError("not traceable")


def test_resnet_activations_follow_the_residual_sum() -> None:
    sites = sites_of(torchvision_model("resnet18"), torch.zeros(1, 3, 32, 32))
    assert sites["layer1.0.conv1"] == [Site("layer1.0.bn1", True)]
    assert sites["layer1.0.conv2"] == [Site("layer1.0.bn2", True, summed=True)]
    assert sites["layer2.0.downsample.0"] == [Site("layer2.0.downsample.1", True, summed=True)]
    assert sites["fc"] == [Site()]


def test_mobilenet_has_no_activation_after_its_bottlenecks() -> None:
    sites = sites_of(torchvision_model("mobilenet_v2"), torch.zeros(1, 3, 32, 32))
    assert sites["features.3.conv.1.0"] == [Site("features.3.conv.1.1", True)]
    assert sites["features.3.conv.2"] == [Site("features.3.conv.3")]


class Residual(nn.Module):
    """Two branches, of which the second has no batch norm, and whatever ``tail`` does of both."""

    def __init__(self, tail: Any) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(2, 3, 1)
        self.last, self.swish, self.tail = nn.BatchNorm2d(3), Swish(), tail

    def forward(self, x: Tensor) -> Any:
        return self.tail(self, self.norm(self.one(x)), self.two(x))


def added_in_place(net: Any, a: Tensor, b: Tensor) -> Tensor:
    a += b
    return functional.relu(a, inplace=True)


SUMS: list[Any] = [
    lambda net, a, b: torch.relu(a + b),
    lambda net, a, b: torch.add(a, b).relu_(),
    lambda net, a, b: functional.gelu(torch.add(input=b, other=a)),
    lambda net, a, b: torch.tanh(a.add_(b)),
    added_in_place,
    lambda net, a, b: torch.relu(a + b + torch.ones(3, 3, 2, 2)),  # RepVGG has three branches
    lambda net, a, b: torch.relu(nn.Identity()(nn.Dropout(0.5).eval()(a + b))),
    lambda net, a, b: torch.relu(net.last(a + b)),  # a network with its activations first
    lambda net, a, b: net.swish(a + b),
]


@pytest.mark.parametrize("tail", SUMS)
def test_the_activation_after_a_sum_is_that_of_both(tail: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model, inputs = Residual(tail).eval(), torch.randn(3, 2, 2, 2)
        nn.init.normal_(model.last.bias)
    target = torch.zeros(3, 3, 2, 2)
    records = collect(
        model, None, [Batch(inputs, target)], needs={"outputs", "output_gradients"},
        loss=functional.mse_loss,
    )  # fmt: skip
    parts = [model.norm(model.one(inputs)), model.two(inputs)]
    fields = [part.detach().requires_grad_() for part in parts]
    after = tail(model, *(field.clone() for field in fields))
    slopes = torch.autograd.grad(functional.mse_loss(after, target), fields)

    def flat(maps: Tensor) -> Tensor:
        return maps.detach().flatten(2).transpose(0, 1).double()

    for record, part, slope in zip(records.values(), parts, slopes, strict=True):
        torch.testing.assert_close(record.pre_activation, flat(part))
        torch.testing.assert_close(record.activation, flat(after))
        torch.testing.assert_close(record.output_grad, flat(slope * 3))


APART: list[Any] = [
    lambda net, a, b: torch.relu(a + 3) * a + b,  # a hard swish by hand
    lambda net, a, b: torch.relu(a.flatten(1) + b.flatten(1)),
    lambda net, a, b: torch.relu(a + b[:, :, :1]),  # of another shape
    lambda net, a, b: a + b,
]


@pytest.mark.parametrize("tail", APART)
def test_what_is_no_activation_of_a_sum(tail: Any) -> None:
    sites = sites_of(Residual(tail), torch.ones(1, 2, 2, 2))
    assert sites["one"] == [Site("norm")]


def test_an_activation_of_the_output_itself_comes_first() -> None:
    for tail in (
        lambda net, a, b: torch.relu(a + b) + a.tanh(),
        lambda net, a, b: a.tanh() + torch.relu(a + b),
    ):
        model, inputs = Residual(tail).eval(), torch.randn(3, 2, 2, 2)
        assert sites_of(model, inputs)["one"] == [Site("norm", True)]
        record = collect(model, ["one"], [Batch(inputs)], needs={"outputs"})["one"]
        torch.testing.assert_close(record.activation, record.require("pre_activation").tanh())


def test_the_first_of_two_activated_sums_counts() -> None:
    model = Residual(lambda net, a, b: torch.relu(a + b) + (a + 1 + b).tanh()).eval()
    inputs = torch.randn(3, 2, 2, 2)
    record = collect(model, ["one"], [Batch(inputs)], needs={"outputs"})["one"]
    assert float(record.require("activation").min()) >= 0
