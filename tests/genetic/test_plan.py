"""Plans: counts, canonical form, and the way of the weights back."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gp_prune.errors import UserError
from gp_prune.genetic.plan import CHANNELS, GeneLayout, GeneticPlan, Masks
from gp_prune.genetic.weights import cut_network, find_positions, put_back
from gp_prune.pruning import measure, trace

MakeNetwork = Callable[[str], tuple[nn.Module, Tensor]]
Case = tuple[GeneLayout, nn.Module, Tensor]


NAMES = ("lenet", "cnn", "caffe_lenet", "autoencoder", "residual")


NORMALISED = ("cnn", "residual")  # a batch norm adds to a channel of zeros


KINDS = ("auto", "channel", "weight")


_cases: dict[tuple[str, str], Case] = {}


def layout_of(networks: MakeNetwork, name: str, granularity: str) -> Case:
    """The layout of a network, the network and inputs; made once."""
    if (name, granularity) not in _cases:
        model, inputs = networks(name)
        interface = ("latent",) if name == "autoencoder" else ()
        architecture = trace(model, inputs[:1], interface=interface)
        _cases[name, granularity] = GeneLayout(model, architecture, granularity), model, inputs
    return _cases[name, granularity]


@pytest.fixture(params=[(n, k) for n in NAMES for k in KINDS], ids="-".join, scope="module")
def case(request: pytest.FixtureRequest, networks: MakeNetwork) -> Case:
    return layout_of(networks, *request.param)


@pytest.fixture(params=[(n, k) for n in NAMES if n not in NORMALISED for k in KINDS],
                ids="-".join, scope="module")  # fmt: skip
def plain_case(request: pytest.FixtureRequest, networks: MakeNetwork) -> Case:
    return layout_of(networks, *request.param)


def drawn(layout: GeneLayout, seed: int, share: float) -> Masks:
    """Random masks that keep about a share of every gene, and of each at least one unit."""
    random = np.random.RandomState(seed)
    masks = []
    for gene in layout.genes:
        mask = random.uniform(size=gene.size) < share
        mask[random.randint(gene.size)] = True
        masks.append(mask)
    return tuple(masks)


SEEDS = st.integers(0, 10**6)


SHARES = st.sampled_from([0.03, 0.2, 0.6, 0.95])


@settings(max_examples=8)
@given(seed=SEEDS, share=SHARES)
def test_the_counts_are_those_of_the_network(case: Case, seed: int, share: float) -> None:
    layout, model, inputs = case
    plan = layout.plan(drawn(layout, seed, share))
    smaller = cut_network(model, plan, layout.architecture)
    cost, dense = measure(smaller, inputs[:1]), measure(model, inputs[:1])
    shares = layout.shares(plan)
    zeros = dense.params - dense.nonzero  # a trained network may have zeros of its own
    assert cost.nonzero == pytest.approx(shares.params * dense.params, abs=zeros + 1e-6)
    if not plan.kept:
        assert layout.macs(plan, "all") == cost.macs
    of_layers = macs_of_layers(smaller, inputs[:1])
    convolutions = [macs for module, macs in of_layers if not isinstance(module, nn.Linear)]
    assert layout.macs(plan, "all") == sum(macs for _, macs in of_layers)
    assert layout.macs(plan, "conv") == sum(convolutions)


def macs_of_layers(model: nn.Module, inputs: Tensor) -> list[tuple[nn.Module, int]]:
    """(layer, MACs) where a weight that is zero costs nothing: each is used at every position."""
    counted: list[tuple[nn.Module, int]] = []

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        counted.append(
            (module, int(module.get_parameter("weight").count_nonzero()) * output[0, 0].numel())
        )

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return counted


@settings(max_examples=8)
@given(seed=SEEDS, share=SHARES)
def test_a_plan_is_canonical(case: Case, seed: int, share: float) -> None:
    layout, _, _ = case
    plan = layout.plan(drawn(layout, seed, share))
    removed, marks = dict(plan.removed), plan.marks()
    masks = []
    for gene in layout.genes:
        mask = np.ones(gene.size, dtype=bool)
        if gene.kind == CHANNELS:
            mask[list(removed.get(gene.name, ()))] = False
        else:
            mask = marks[gene.name].ravel()
        masks.append(mask)
    assert layout.plan(masks) == plan
    assert layout.plan(masks).digest() == plan.digest()


@settings(max_examples=8)
@given(seed=SEEDS, share=SHARES)
def test_what_goes_with_a_plan_was_of_no_use(plain_case: Case, seed: int, share: float) -> None:
    """Without biases, the network of a plan computes what zeros in the dense one do."""
    layout, model, inputs = plain_case
    plain = copy.deepcopy(model)
    for name, parameter in plain.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    masks = drawn(layout, seed, share)
    zeroed = copy.deepcopy(plain)
    with torch.no_grad():
        for gene, mask in zip(layout.genes, masks, strict=True):
            if gene.kind == CHANNELS:
                for producer in layout.architecture.by_name[gene.name].members:
                    entries = np.arange(producer.width) if producer.entries is None else (
                        producer.entries)  # fmt: skip
                    weight = zeroed.get_parameter(f"{producer.layer}.weight")
                    weight[torch.from_numpy(entries[~mask[producer.channels]])] = 0
            else:
                weight = zeroed.get_parameter(f"{gene.name}.weight")
                weight.mul_(torch.from_numpy(mask.reshape(weight.shape)))
        smaller = cut_network(plain, layout.plan(masks), layout.architecture)
        torch.testing.assert_close(smaller(inputs), zeroed(inputs), rtol=1e-4, atol=1e-6)


@settings(max_examples=6)
@given(seed=SEEDS, share=SHARES)
def test_weights_find_their_way_back(case: Case, seed: int, share: float) -> None:
    layout, model, _ = case
    plan = layout.plan(drawn(layout, seed, share))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    places = find_positions(model, plan, layout.architecture)
    smaller = cut_network(model, plan, layout.architecture)
    back = put_back(state, smaller, places, plan)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.mul_(-2)
    trained = put_back(state, smaller, places, plan)
    changed = copy.deepcopy(model)
    changed.load_state_dict(trained)
    again = cut_network(changed, plan, layout.architecture)
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, smaller.state_dict()[name], rtol=0, atol=0)


def test_the_memory_format_of_a_network_does_not_matter(networks: MakeNetwork) -> None:
    layout, model, _ = layout_of(networks, "lenet", "auto")
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    plan = layout.plan(drawn(layout, 0, 0.5))
    found = []
    for each in (model, other):
        smaller = cut_network(each, plan, layout.architecture)
        with torch.no_grad():
            for parameter in smaller.parameters():
                parameter.mul_(-2)
        places = find_positions(each, plan, layout.architecture)
        found.append(put_back(each.state_dict(), smaller, places, plan))
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


@settings(max_examples=6)
@given(seed=SEEDS, share=SHARES)
def test_a_plan_survives_its_file(case: Case, seed: int, share: float) -> None:
    layout, _, _ = case
    plan = layout.plan(drawn(layout, seed, share))
    assert GeneticPlan.from_json(plan.to_json()) == plan
    assert GeneticPlan.from_json(plan.to_json()).digest() == plan.digest()


def test_equal_digests_mean_equal_plans(networks: MakeNetwork) -> None:
    layout, _, _ = layout_of(networks, "lenet", "auto")
    plans = {layout.plan(drawn(layout, seed, 0.5)) for seed in range(20)}
    assert len({plan.digest() for plan in plans}) == len(plans)


def test_a_damaged_plan_is_refused(networks: MakeNetwork) -> None:
    layout, _, _ = layout_of(networks, "lenet", "auto")
    data = layout.plan(drawn(layout, 0, 0.5)).to_json()
    for change, words in (
        ({"digest": "0"}, "does not fit its digest"),
        ({"kind": "weight plan"}, "genetic plan"),
        ({"removed": {"conv1": [2, 1]}}, "ascending"),
        ({"kept": {}}, "does not fit its digest"),
    ):
        with pytest.raises(UserError, match=words):
            GeneticPlan.from_json({**data, **change})


def test_nothing_removed_is_the_network_itself(case: Case) -> None:
    layout, model, inputs = case
    plan = layout.plan(layout.full())
    assert not plan.removed
    shares = layout.shares(plan)
    assert (shares.macs, shares.params) == (1.0, 1.0)
    smaller = cut_network(model, plan, layout.architecture)
    assert torch.equal(smaller(inputs), model(inputs))


def test_auto_removes_channels_of_convolutions_and_weights_of_linear_layers(
    networks: MakeNetwork,
) -> None:
    layout, _, _ = layout_of(networks, "lenet", "auto")
    assert [(gene.name, gene.kind) for gene in layout.genes] == [
        ("conv1", "channels"), ("conv2", "channels"), ("linear1", "weights"),
        ("linear2", "weights"), ("output", "weights"),
    ]  # fmt: skip
    assert layout.counted == "conv"
    plain, _, _ = layout_of(networks, "autoencoder", "auto")
    assert plain.counted == "all"


def test_a_neuron_that_nobody_reads_goes_with_its_bias_and_its_weights(
    networks: MakeNetwork,
) -> None:
    layout, _, _ = layout_of(networks, "lenet", "auto")
    masks = [mask.copy() for mask in layout.full()]
    names = [gene.name for gene in layout.genes]
    output = masks[names.index("output")].reshape(10, 84)
    output[:, 7] = False
    masks[names.index("linear2")].reshape(84, 120)[3] = False
    plan = layout.plan(masks)
    assert dict(plan.removed) == {"linear2": (3, 7)}
    # The last convolution goes on into the linear layers; its channels are read there.
    masks[names.index("linear1")].reshape(120, -1)[:, :4] = False
    assert dict(layout.plan(masks).removed) == {"conv2": (0,), "linear2": (3, 7)}


def test_a_network_without_convolutions_cannot_count_their_macs(networks: MakeNetwork) -> None:
    model, inputs = networks("autoencoder")
    architecture = trace(model, inputs[:1])
    with pytest.raises(UserError, match="no convolution whose MACs could count"):
        GeneLayout(model, architecture, "auto", "conv")
