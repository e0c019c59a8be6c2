"""The lean training step against autograd and torch's own Adam."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as sized
from hypothesis import strategies as st
from torch import nn

from gp_prune.autoencoder.networks import (
    AutoencoderLayout,
    Half,
    Pair,
    create_pair,
    module,
    reconstruct,
)
from gp_prune.autoencoder.training import (
    BETAS,
    LOSSES,
    TrainingOptions,
    cross_losses,
    evaluate,
    train_epoch,
)
from gp_prune.errors import UserError

layouts = st.builds(
    lambda features, hidden, code, relu: AutoencoderLayout(
        (features, *hidden, code), (code, *hidden[::-1], features), relu
    ),
    st.integers(1, 9), st.lists(st.integers(1, 7), max_size=2).map(tuple), st.integers(1, 4),
    st.booleans(),
)  # fmt: skip


def samples(layout: AutoencoderLayout, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, layout.encoder[0], generator=generator) < 0.6).float()


def gradients(net: nn.Module) -> list[torch.Tensor]:
    found = []
    for parameter in net.parameters():
        assert parameter.grad is not None
        found.append(parameter.grad.flatten())
    return found


@sized(max_examples=40)
@given(
    layout=layouts, loss=st.sampled_from(sorted(LOSSES)), count=st.integers(1, 12),
    batch=st.integers(1, 5), seed=st.integers(0, 999),
)  # fmt: skip
def test_an_epoch_is_what_autograd_and_adam_make_of_it(
    layout: AutoencoderLayout, loss: str, count: int, batch: int, seed: int
) -> None:
    inputs = samples(layout, count, seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    pair = create_pair(layout, seed)
    net = module(pair.clone(), layout)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, betas=BETAS, foreach=False)
    for _ in range(2):  # the second goes on with the state of the first
        total = 0.0
        for part in torch.split(inputs[order], batch):
            optimizer.zero_grad()
            value = LOSSES[loss].of_outputs(net(part), part)
            torch.autograd.backward(value)
            optimizer.step()
            total += float(value.detach()) * len(part)
        mean = train_epoch(
            pair, inputs, order, TrainingOptions(LOSSES[loss], 1e-2, batch, layout.code_relu)
        )
        assert mean == pytest.approx(total / count, rel=1e-4)
    ours = torch.cat([half.weights for half in pair])
    theirs = torch.cat([p.detach().flatten() for p in net.parameters()])
    # Where a gradient is 0 but for rounding, Adam makes a whole step of the rounding.
    assert float((ours - theirs).abs().median()) < 1e-5
    assert pair.encoder.steps == pair.decoder.steps == 2 * -(-count // batch)


@sized(max_examples=40)
@given(layout=layouts, loss=st.sampled_from(sorted(LOSSES)), seed=st.integers(0, 999))
def test_gradients_are_those_of_autograd(layout: AutoencoderLayout, loss: str, seed: int) -> None:
    inputs = samples(layout, 4, seed)
    pair = create_pair(layout, seed)
    net = module(pair.clone(), layout).double()
    torch.autograd.backward(LOSSES[loss].of_outputs(net(inputs.double()), inputs.double()))
    wanted = torch.cat(gradients(net))
    # After one step Adam's mean of the gradients is a known share of the gradient.
    train_epoch(
        pair, inputs, torch.arange(4), TrainingOptions(LOSSES[loss], 0.1, 4, layout.code_relu)
    )
    got = torch.cat([half.first for half in pair]).double() / (1 - BETAS[0])
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-7)


@sized(max_examples=25)
@given(layout=layouts, seed=st.integers(0, 999), share=st.floats(0, 1))
def test_what_is_masked_stays_zero_in_every_step(
    layout: AutoencoderLayout, seed: int, share: float
) -> None:
    inputs = samples(layout, 6, seed)
    pair = create_pair(layout, seed)
    for half in pair:
        half.mask = (torch.rand(half.mask.shape) >= share).float()
        half.apply_mask()
    for _ in range(4):  # one step at a time
        train_epoch(
            pair, inputs, torch.arange(6), TrainingOptions(LOSSES["l1"], 1.0, 6, layout.code_relu)
        )
        for half in pair:
            assert not half.weights[half.mask == 0].any()


@sized(max_examples=25)
@given(layout=layouts, seed=st.integers(0, 999), loss=st.sampled_from(sorted(LOSSES)))
def test_losses_of_pairs_are_those_of_the_networks(
    layout: AutoencoderLayout, seed: int, loss: str
) -> None:
    inputs = samples(layout, 300, seed)
    pairs = [create_pair(layout, seed + n) for n in range(3)]
    table = cross_losses(
        [p.encoder for p in pairs], [p.decoder for p in pairs], inputs, LOSSES[loss],
        layout.code_relu,
    )  # fmt: skip
    for i, a in enumerate(pairs):
        for j, b in enumerate(pairs):
            mixed = Pair(a.encoder, b.decoder)
            outputs = module(mixed, layout)(inputs).detach()
            assert torch.allclose(outputs, reconstruct(mixed, inputs, layout.code_relu), atol=1e-6)
            direct = float(LOSSES[loss].of_outputs(outputs, inputs))
            assert table[i][j] == pytest.approx(direct, rel=1e-4)
            assert evaluate(mixed, inputs, LOSSES[loss], layout.code_relu) == table[i][j]


def test_a_loss_that_is_not_finite_is_said() -> None:
    layout = AutoencoderLayout((3, 2), (2, 3), False)
    pair = create_pair(layout, 0)
    pair.encoder.weights[:] = float("nan")
    with pytest.raises(UserError, match=r"learning rate 0\.1; lower it"):
        train_epoch(
            pair, torch.ones(2, 3), torch.arange(2), TrainingOptions(LOSSES["l1"], 0.1, 2, False)
        )


def test_first_weights_depend_on_the_seed_alone() -> None:
    layout = AutoencoderLayout((5, 4, 2), (2, 4, 5), True)
    state = torch.random.get_rng_state()
    one, two, other = create_pair(layout, 1), create_pair(layout, 1), create_pair(layout, 2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(one.encoder.weights, two.encoder.weights)
    assert not torch.equal(one.encoder.weights, other.encoder.weights)
    assert [tuple(layer.weight.shape) for layer in one.encoder.layers()] == [(4, 5), (2, 4)]
    assert isinstance(one.encoder, Half)
