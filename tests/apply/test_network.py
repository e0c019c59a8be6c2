"""Networks that cannot be pruned at all, losses and metrics that are none: one sentence each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune import FineTuning, own_data, prune, tune_pruned
from gp_prune.errors import UserError
from gp_prune.training import fine_tune

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1])


def network(middle: nn.Module | None = None, activation: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), activation or nn.ReLU(),
        middle or nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


class Holder(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.net, self.value = network(), value

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        output: Tensor = (self.b(h) if float(x.mean()) > 0 else self.c(h)).mean((2, 3))
        return output


class Reading(Branching):
    """Reads a value and takes the same way always."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.b(self.a(x).relu() * max(1.0, x.abs().max().item())).mean((2, 3))
        return output


def traced() -> Any:
    return torch.jit.trace(network(), X)  # type: ignore[no-untyped-call]


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return network()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.jit.script(network()), "the network is a TorchScript module, whose layers"),
        (traced, "the network is a TorchScript module"),
        (on_meta, "the network has no weights: '0.weight' is on the meta device"),
        (lambda: network(nn.Conv2d(8, 8, 3, device="meta")), "'2.weight' is on the meta device"),
        (lambda: network(nn.LazyConv2d(8, 3)), "has no weights yet: '2.weight' of a lazy module"),
        (lambda: Holder(threading.Lock()), r"cannot be copied \(in 'value'\): TypeError: "),
        (lambda: Holder(torch.ones(2, requires_grad=True) * 2), r"cannot be copied \(in 'value'\)"),
        (Branching, "branches on its data: it calls '[bc]' for some inputs and not for others"),
        (lambda: nn.Conv2d, "the model is the class Conv2d; give a torch.nn.Module"),
        (lambda: network().state_dict(), "the model is a value of type OrderedDict; give"),
        (
            lambda: nn.Sequential(nn.Flatten()),
            "has no parameters, so there is nothing",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Lazy modules:UserWarning")
def test_networks_that_cannot_be_pruned(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        prune(make(), "l1", X, keep_macs=0.5)
    assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)


def test_reading_a_value_is_no_branch() -> None:
    assert prune(Reading(), "l1", X, keep_macs=0.6).met


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_part_is_a_leaf() -> None:
    middle = torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()))
    model = network(middle)
    weights = prune(model, "magnitude", X, keep_params=0.5)
    assert weights.met and {row.layer for row in weights.rows} >= {"0", "6"}
    for metric in ("l1", "taylor_weights"):
        with pytest.raises(
            UserError, match="a TorchScript module reads its channels; '6': network output"
        ):
            prune(model, metric, X, keep_macs=0.5, data=[(X, Y)], loss=functional.cross_entropy)
    model = network(None, torch.jit.script(nn.Hardswish()))
    cut = prune(model, "l1", X, keep_channels=0.5)
    assert [row.channels_kept for row in cut.rows[:2]] == [4, 4]
    assert prune(model, "activation_variance", X, keep_channels=0.5, data=[X]).met
    tuned, _ = tune_pruned(
        prune(network(middle), "magnitude", X, keep_params=0.5), model,
        own_data((X.repeat(30, 1, 1, 1), Y.repeat(30))), FineTuning(epochs=1),
    )  # fmt: skip
    assert all(parameter.is_leaf for parameter in tuned.model.parameters())


@pytest.mark.parametrize(
    ("wrap", "call"),
    [
        (nn.utils.parametrizations.weight_norm, "parametrize.remove_parametrizations(layer, "),
        (nn.utils.parametrizations.spectral_norm, "parametrize.remove_parametrizations(layer, "),
        (nn.utils.weight_norm, "remove_weight_norm(layer)"),
        (nn.utils.spectral_norm, "remove_spectral_norm(layer)"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_computed_weights_say_which_call_makes_them_plain(wrap: Any, call: str) -> None:
    model = nn.Sequential(wrap(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(UserError) as refused:
        prune(model, "l1", torch.randn(2, 4), keep_macs=0.5)
    assert f"call torch.nn.utils.{call}" in str(refused.value) and len(str(refused.value)) < 300


def test_a_frozen_batch_norm_is_named_with_its_buffers() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("weight", "bias", "running_mean", "running_var"):
                self.register_buffer(name, torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            parts = [
                part.reshape(1, -1, 1, 1) for part in self._buffers.values() if part is not None
            ]
            scale = parts[0] / parts[3].sqrt()
            return x * scale + parts[1] - parts[2] * scale

    rows = prune(network(None, Frozen()), "l1", X, keep_channels=0.5).rows
    said = "the buffers 'weight', 'bias', 'running_mean', 'running_var' of '1' hold values of its"
    assert said in rows[0].fixed and rows[1].channels_kept == 4


def test_a_refusal_for_group_norms_fits_a_screen_and_names_the_remedy() -> None:
    parts = [p for n in range(30) for p in (nn.Conv2d(3 if not n else 8, 8, 1), nn.GroupNorm(2, 8))]
    model = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    with pytest.raises(UserError) as refused:
        prune(model, "l1", X, keep_macs=0.5)
    message = str(refused.value)
    assert "'0' and 29 more: a group normalisation spans its channels" in message
    assert "--cut-residual" in message and len(message) < 400


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ("cross_entropy", "did you mean the function torch.nn.functional.cross_entropy?"),
        ("CrossEntropyLoss", "did you mean the function torch.nn.functional.cross_entropy?"),
        ("mse", "did you mean the function torch.nn.functional.mse_loss?"),
        ("zzzzzzzz", "give a function loss(output, target)"),
        (nn.CrossEntropyLoss, "the loss is the class CrossEntropyLoss; give an object of it"),
        (0.5, "the loss is 0.5; give a function loss(output, target)"),
    ],
)
def test_losses_that_are_none(loss: Any, words: str) -> None:
    data, model = (X.repeat(15, 1, 1, 1), Y.repeat(15)), network()
    for use in (
        lambda: prune(model, "taylor_weights", X, keep_macs=0.5, data=[(X, Y)], loss=loss),
        lambda: prune(model, "l1", X, keep_macs=0.5, loss=loss),
        lambda: own_data(data, loss=loss),
        lambda: fine_tune(model, data, loss, FineTuning(epochs=1)),
    ):
        with pytest.raises(UserError) as refused:
            use()
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("name", "meant"), [("L1", "l1"), ("TAYLOR_BN", "taylor_bn"), ("Lamp_Weight", "lamp_weight")]
)
def test_metrics_in_upper_case(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"unknown metric '{name}'; did you mean '{meant}'"):
        prune(network(), name, X, keep_macs=0.5)
