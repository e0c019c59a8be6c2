"""A model, and torch's global state, come back as they were."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from gp_prune.errors import UserError
from gp_prune.language.record import NEEDS
from gp_prune.statistics import Batch, Consumer, Loss, collect
from gp_prune.statistics.running import derive_seed


class Noisy(nn.Module):
    """Draws random numbers, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 3)
        self.fail_at = -1
        self.runs = 0

    def forward(self, x: Tensor) -> Any:
        x = self.bn(self.conv(x)).relu_()
        if self.runs == self.fail_at:
            raise RuntimeError("the model broke")
        self.runs += 1
        return self.fc(self.drop(x).flatten(1)) + torch.rand(3)


def mixed_model() -> Noisy:
    """Some modules train, some are frozen, one has a hook, one has a mask."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Noisy()
    model.train()
    model.drop.eval()
    model.conv.get_parameter("bias").requires_grad_(False)
    model.bn.requires_grad_(False)
    model.fc.register_forward_hook(lambda module, args, output: None)
    prune.custom_from_mask(model.fc, "weight", torch.ones(3, 8))  # type: ignore[no-untyped-call]
    return model


def state(model: Any) -> dict[str, Any]:
    modules = dict(model.named_modules())
    return {
        "training": {name: module.training for name, module in modules.items()},
        "grads": {name: p.requires_grad for name, p in model.named_parameters()},
        "grad": {name: p.grad for name, p in model.named_parameters()},
        "values": {name: value.tolist() for name, value in model.state_dict().items()},
        "hooks": {
            name: [list(value) for key, value in vars(module).items() if key.endswith("hooks")]
            for name, module in modules.items()
        },
        "masked": id(model.fc.weight),
        "random": torch.get_rng_state().tolist(),
        "mode": torch.is_grad_enabled(),
    }


def batches(images: Tensor) -> list[Batch]:
    labels = torch.tensor([0, 1, 2, 0])
    return [Batch(part, labels, labels) for part in images.split(4)]  # type: ignore[no-untyped-call]


def measure(model: nn.Module, needs: set[str], loss: Loss = functional.cross_entropy) -> None:
    images = torch.ones(8, 1, 4, 4)
    readers = {"conv": (Consumer("fc", tuple(tuple(range(4 * q, 4 * q + 4)) for q in range(2))),)}
    collect(model, None, batches(images), needs=needs, loss=loss, outgoing=readers, places={})


@pytest.mark.filterwarnings("ignore::gp_prune.statistics.pairing.PairingWarning")
@pytest.mark.parametrize("fail_at", [-1, 0, 1, 2])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    "needs", [set(), {"inputs"}, {"gradients"}, {"outgoing"}, {"hessian"}, set(NEEDS)]
)
def test_everything_is_restored(fail_at: int, grad: bool, needs: set[str]) -> None:
    model = mixed_model()
    with torch.set_grad_enabled(grad):
        before = state(model)
        model.fail_at = fail_at
        if fail_at < 0 or needs <= {"outgoing"}:
            measure(model, needs)
        else:
            with pytest.raises(RuntimeError, match="the model broke"):
                measure(model, needs)
        assert state(model) == before


@pytest.mark.parametrize("fail_at", [-1, 1])
def test_synaptic_flow_restores_everything(fail_at: int) -> None:
    model = mixed_model()
    before = state(model)
    model.fail_at = fail_at
    with contextlib.suppress(UserError) if fail_at > 0 else contextlib.nullcontext():
        measure(model, {"synflow"})
    assert state(model) == before
    assert model.runs == (1 if fail_at > 0 else 2)


def test_a_broken_loss_leaves_no_trace() -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        raise KeyboardInterrupt

    model = mixed_model()
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        measure(model, set(NEEDS), loss)
    assert state(model) == before


def test_a_masked_model_can_still_be_copied() -> None:
    with torch.no_grad():
        model = mixed_model()
        model(torch.ones(2, 1, 4, 4))  # leaves a plain masked weight without a graph
    measure(model, set(NEEDS))
    copy.deepcopy(model)


def test_random_models_are_measured_the_same_every_time() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
    model[0].register_forward_hook(lambda module, args, output: output + torch.rand(2))
    data = [Batch(torch.ones(3, 1))]
    first = collect(model, None, data, needs={"inputs"})["1"].require("inputs")
    torch.rand(5)
    assert torch.equal(collect(model, None, data, needs={"inputs"})["1"].require("inputs"), first)


def test_evaluation_mode_is_set_without_calling_train() -> None:
    class Picky(nn.Linear):
        def train(self, mode: bool = True) -> Any:
            raise AssertionError("train() was called")

    model = nn.Sequential(Picky(1, 1), nn.Dropout(0.9))
    record = collect(model, None, [Batch(torch.ones(4, 1))], needs={"outputs"})["0"]
    assert record.require("activation").unique().numel() == 1  # type: ignore[no-untyped-call]
    assert model[0].training


def test_a_seed_depends_on_all_parts_and_their_borders() -> None:
    seeds = {derive_seed(*parts) for parts in ((0, "a", "b"), (0, "ab"), (1, "a", "b"), (0,))}
    assert len(seeds) == 4 and max(seeds) < 2**31
    assert derive_seed(0, "a", bits=63) >> 32 == derive_seed(0, "a")
