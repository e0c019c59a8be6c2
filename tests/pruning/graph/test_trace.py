"""What trace() finds, what it refuses, and that it leaves no trace itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from gp_prune.errors import UserError
from gp_prune.pruning import Architecture, measure, trace


def fixed(architecture: Architecture) -> dict[str, str]:
    return {group.name: group.fixed for group in architecture.groups if group.fixed}


def sizes(architecture: Architecture) -> dict[str, int]:
    return {group.name: group.size for group in architecture.free}


class Wrapped(nn.Module):
    """Two convolutions around a function, to see whether the middle may be cut."""

    def __init__(self, between: object = None, after: object = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.between = between or nn.Identity()
        self.second = nn.Conv2d(4, 3, 3, padding=1)
        self.after = after or (lambda hidden, inputs: hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.second(self.between(self.first(x))), x)  # type: ignore[no-any-return, operator]


IMAGES = torch.zeros(2, 3, 6, 6)


def test_lenet_groups(network: Callable[[str], Any]) -> None:
    architecture = network("lenet").architecture
    assert sizes(architecture) == {"0": 6, "3": 16, "7": 24, "9": 18}
    assert fixed(architecture) == {"11": "network output"}
    flattened = next(s for s in architecture.by_name["3"].slots if s.side == "in")
    assert flattened.module == "7"
    assert flattened.channels == tuple(q // 25 for q in range(400))


def test_concatenation_splits_a_table_by_the_layers_it_passes(
    network: Callable[[str], Any],
) -> None:
    architecture = network("joined").architecture
    assert sizes(architecture) == {"stem": 6, "right": 4}
    assert architecture.by_name["stem"].producers == ("stem", "left", "twice")
    norm = next(s for s in architecture.by_name["right"].slots if s.side == "norm")
    assert norm.channels == (-1,) * 6 + (0, 1, 2, 3)
    assert fixed(architecture) == {"head": "network output", "side": "network output"}


def test_unflattened_linear_layer_is_cut_by_whole_maps(network: Callable[[str], Any]) -> None:
    architecture = network("conv-autoencoder-unflatten").architecture
    group = architecture.by_name["grow.0"]
    assert group.size == 6
    sides = {(slot.module, slot.side): slot.channels for slot in group.slots}
    assert sides["grow.0", "out"] == tuple(q // 4 for q in range(24))
    assert sides["unflatten", "reshape"] == tuple(range(6))


def test_depthwise_and_grouped(network: Callable[[str], Any]) -> None:
    group = network("depthwise").architecture.by_name["0"]
    assert group.producers == ("0", "3")
    assert [slot.side for slot in group.slots] == ["out", "norm", "norm", "depthwise", "norm", "in"]
    architecture = network("partly-grouped").architecture
    assert fixed(architecture) == {"6": "network output"}
    assert sizes(architecture) == {"0": 3, "2": 3, "4": 5}


def test_resnet_residual_sums_are_one_group(network: Callable[[str], Any]) -> None:
    group = network("resnet18").architecture.by_name["layer2.0.conv2"]
    assert group.producers == ("layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2")


@pytest.mark.parametrize("name", ["lenet", "joined", "conv-autoencoder-unflatten", "mobilenet_v2"])
def test_json_round_trip(name: str, network: Callable[[str], Any]) -> None:
    architecture = network(name).architecture
    again = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
    assert again == architecture
    assert again.digest() == architecture.digest()


def test_json_is_read_strictly(network: Callable[[str], Any]) -> None:
    data = network("lenet").architecture.to_json()
    with pytest.raises(UserError, match="unknown field 'colour'"):
        Architecture.from_json({**data, "colour": 1})
    with pytest.raises(UserError, match="'samples' of architecture is '2'"):
        Architecture.from_json({**data, "samples": "2"})
    with pytest.raises(UserError, match="schema_version"):
        Architecture.from_json({**data, "schema_version": 2})


class TestTheModelIsLeftAlone:
    def test_state_flags_hooks_and_random_numbers(self, fresh: Callable[..., Any]) -> None:
        model = fresh("joined")
        model.train()
        model.norm.eval()
        model.stem.weight.requires_grad_(False)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        random_state = torch.get_rng_state()
        trace(model, torch.zeros(2, 3, 8, 8))
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert model.training
        assert not model.norm.training
        assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["stem.weight"]
        assert all(p.grad is None for p in model.parameters())
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())

    def test_also_when_the_forward_pass_fails(self, fresh: Callable[..., Any]) -> None:
        model = fresh("lenet").train()
        random_state = torch.get_rng_state()
        with pytest.raises(RuntimeError):
            trace(model, torch.zeros(2, 5, 28, 28))
        assert model.training
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(not m._forward_hooks for m in model.modules())


class TestSurroundings:
    """Nothing but the network itself may decide what is found."""

    @pytest.fixture
    def plain(self, fresh: Callable[..., Any]) -> Architecture:
        return trace(fresh("cnn-relu").eval(), torch.zeros(2, 3, 16, 16))

    def test_frozen(self, plain: Architecture, fresh: Callable[..., Any]) -> None:
        model = fresh("cnn-relu").requires_grad_(False)
        assert trace(model, torch.zeros(2, 3, 16, 16)) == plain
        assert not any(p.requires_grad for p in model.parameters())

    def test_training_mode_other_weights_and_random_input(
        self, plain: Architecture, fresh: Callable[..., Any]
    ) -> None:
        assert trace(fresh("cnn-relu", seed=5).train(), torch.ones(2, 3, 16, 16)) == plain

    def test_no_grad(self, plain: Architecture, fresh: Callable[..., Any]) -> None:
        with torch.no_grad():
            assert trace(fresh("cnn-relu"), torch.zeros(2, 3, 16, 16)) == plain

    def test_inference_mode(self, plain: Architecture, fresh: Callable[..., Any]) -> None:
        model = fresh("cnn-relu")
        with torch.inference_mode():
            assert trace(model, torch.zeros(2, 3, 16, 16)) == plain

    def test_batch_of_one(self, plain: Architecture, fresh: Callable[..., Any]) -> None:
        found = trace(fresh("cnn-relu"), torch.zeros(1, 3, 16, 16))
        assert found.groups == plain.groups
        assert found.dense_costs == plain.dense_costs


class TestFixed:
    def test_named_interface(self, fresh: Callable[..., Any]) -> None:
        model = fresh("mlp-autoencoder")
        assert sizes(trace(model, torch.zeros(2, 20))) == {"0": 12, "2": 3, "4": 12}
        architecture = trace(model, torch.zeros(2, 20), interface=["2"])
        assert fixed(architecture) == {"2": "named interface", "6": "network output"}

    def test_interface_that_does_not_exist(self, fresh: Callable[..., Any]) -> None:
        with pytest.raises(UserError, match="'latent' is not in the model"):
            trace(fresh("mlp-autoencoder"), torch.zeros(2, 20), interface=["latent"])

    def test_interface_without_channels(self, fresh: Callable[..., Any]) -> None:
        with pytest.raises(UserError, match="'3' has no output channels"):
            trace(fresh("mlp-autoencoder"), torch.zeros(2, 20), interface=["3"])

    def test_output_behind_other_operations(self) -> None:
        model = Wrapped(after=lambda h, x: functional.softmax(h.mean((2, 3)), 1))
        assert fixed(trace(model, IMAGES)) == {"second": "network output"}

    def test_residual_around_the_input(self) -> None:
        class Residual(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Conv2d(3, 3, 3, padding=1)
                self.outer = nn.Conv2d(3, 2, 1)

            def forward(self, x: Tensor) -> Tensor:
                return self.outer(x + self.inner(x))  # type: ignore[no-any-return]

        found = fixed(trace(Residual(), IMAGES))
        assert "does not run without" in found["inner"]

    @pytest.mark.parametrize(
        ("between", "reason"),
        [
            (nn.LayerNorm([4, 6, 6]), "layer normalisation"),
            (nn.GroupNorm(2, 4), "group normalisation"),
            (nn.LocalResponseNorm(3, alpha=0.1), "more than setting them to zero"),
            (nn.Softmax(1), "more than setting them to zero"),
            (lambda h: functional.layer_norm(h, [4, 6, 6]), "does not run"),
            (lambda h: h - h.mean(1, keepdim=True), "more than setting them to zero"),
            (lambda h: h.view(-1, 4, 6, 6), "does not run"),
        ],
    )
    def test_what_spans_channels(self, between: Any, reason: str) -> None:
        found = fixed(trace(Wrapped(between), IMAGES))
        assert reason in found["first"]
        assert found["second"] == "network output"

    def test_only_the_group_that_fails_is_fixed(self) -> None:
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Softmax(1),
            nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3),
        )  # fmt: skip
        assert set(sizes(trace(model, IMAGES))) == {"0", "4"}

    def test_free_parameter(self) -> None:
        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.ones(4, 1, 1))

            def forward(self, x: Tensor) -> Tensor:
                return x * self.scale

        assert "free parameter" in fixed(trace(Wrapped(Scaled()), IMAGES))["first"]

    def test_shared_parameters(self) -> None:
        model = nn.Sequential(
            nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2)
        )
        model[2].weight = model[0].weight
        found = fixed(trace(model, torch.zeros(2, 5)))
        assert "shares its parameters" in found["0"]
        assert "shares its parameters" in found["2"]

    def test_computed_weight(self) -> None:
        model = Wrapped()
        parametrizations.weight_norm(model.first)
        assert "computed from other parameters" in fixed(trace(model, IMAGES))["first"]

    def test_cost_that_is_no_sum_over_layers(self) -> None:
        model = Gated()
        architecture = trace(model, torch.zeros(2, 3, 5))
        assert "not the sum" in fixed(architecture)["first"]
        assert architecture.constant_macs == 2 * 3 * 4 * 3
        assert architecture.samples == 2
        assert architecture.dense_costs == measure(model, torch.zeros(2, 3, 5))[:2]


class Gated(nn.Module):
    """Hidden features (n, t, 4) are also multiplied with each other, unlike any layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        gate = torch.bmm(h, h.transpose(1, 2)).detach().mean((1, 2), keepdim=True)
        return self.second(h) * gate  # type: ignore[no-any-return]


class TestRefused:
    def test_masked_model(self) -> None:
        model = Wrapped()
        nn.utils.prune.ln_structured(model.first, "weight", 0.5, n=1, dim=0)  # type: ignore[no-untyped-call]
        with pytest.raises(UserError, match=r"'first' carries a pruning mask; .* unmask"):
            trace(model, IMAGES)

    def test_no_batch(self) -> None:
        with pytest.raises(UserError, match="no batch of samples"):
            trace(Wrapped(), torch.zeros(0, 3, 6, 6))


def test_output_without_gradient() -> None:
    found = trace(Wrapped(after=lambda h, x: h.argmax(1)), IMAGES)
    assert sizes(found) == {"first": 4}
    assert "no gradient comes back" in fixed(found)["second"]


def test_several_and_named_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.c(torch.relu(self.a(x) + self.b(y)))  # type: ignore[no-any-return]

    x, y = torch.zeros(2, 3), torch.zeros(2, 2)
    architecture = trace(Two(), [x, y])
    assert architecture == trace(Two(), {"y": y, "x": x}) == trace(Two(), (x, y))
    assert architecture.by_name["a"].producers == ("a", "b")


def test_a_network_that_draws_numbers() -> None:
    model = Wrapped(nn.Sequential(nn.ReLU(), nn.Dropout(0.5)), lambda h, x: h + torch.randn_like(h))
    assert sizes(trace(model, IMAGES)) == {"first": 4}


def test_unused_layers_are_only_counted(fresh: Callable[..., Any]) -> None:
    model = Wrapped()
    model.spare = nn.Linear(7, 7)
    architecture = trace(model, IMAGES)
    assert architecture.constant_params == 56
    assert "spare" not in architecture.prunable_layers


def test_same_result_for_a_copy(network: Callable[[str], Any]) -> None:
    model, inputs, architecture = network("joined")
    assert trace(copy.deepcopy(model), inputs) == architecture


def test_unflattening_that_splits_the_channels() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Unflatten(1, (2, 2)), nn.Flatten(1, 2), nn.Conv2d(4, 2, 1)
    )
    found = fixed(trace(model, IMAGES))
    assert found["0"] == "'1' does not unflatten whole channels"


def test_groups_that_only_go_together_are_fixed() -> None:
    """Pairs of channels share a place in a fixed reshape, which no table shows."""

    class Paired(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], 2, -1, *x.shape[2:]).sum(2)

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Paired(), nn.Conv2d(2, 2, 1))
    assert set(fixed(trace(model, IMAGES))) == {"0", "2"}
