"""Training that keeps the moving average of the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.base.artifacts import write_tensors
from gp_prune.training import CheckpointWarning, Epoch, FineTuning, GradualRemoval, fine_tune
from gp_prune.training.checkpoint import STATE

TUNING = FineTuning(
    epochs=4, optimiser="adamw", learning_rate=0.02, batch_size=16, averaging=0.9, decay=False
)
State = dict[str, Tensor]


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        )


def samples(seed: int = 1) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(64, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return inputs, (inputs.mean((1, 2, 3)) > 0).long()


def state(model: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: State, other: State) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def trajectory(tuning: FineTuning) -> list[State]:
    """Return the network after each step of a training that averages nothing."""
    model, states = network(), []
    fine_tune(
        model, samples(), functional.cross_entropy, replace(tuning, averaging=0.0),
        batch_progress=lambda done, total: states.append(state(model)),
    )  # fmt: skip
    return states


def weighted_sum(states: list[State], decay: float, name: str) -> Tensor:
    """Return the average of a tensor as one sum, in double precision; the first state begins it."""
    shares = [(1 - decay) * decay**age for age in range(len(states) - 1)]
    shares.append(decay ** (len(states) - 1))
    newest_first = [states[-1 - age][name].double() for age in range(len(states))]
    return torch.stack([s * t for s, t in zip(shares, newest_first, strict=True)]).sum(0)


def test_the_network_ends_as_the_average_of_its_steps_after_the_first_epoch() -> None:
    states, model = trajectory(TUNING), network()
    fine_tune(model, samples(), functional.cross_entropy, TUNING)
    assert len(states) == 16
    for name, tensor in state(model).items():
        if tensor.is_floating_point():  # with the statistics of the batch norm
            expected = weighted_sum(states[3:], 0.9, name)
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)
            assert not torch.allclose(tensor, states[-1][name], rtol=1e-3)
        else:
            assert torch.equal(tensor, states[-1][name])


def test_in_one_epoch_nothing_is_averaged() -> None:
    model, how = network(), replace(TUNING, epochs=1)
    fine_tune(model, samples(), functional.cross_entropy, how)
    assert same(state(model), trajectory(how)[-1])


def test_the_average_is_judged_and_kept_and_does_not_change_the_training() -> None:
    model, judged = network(), []
    errors = iter([5.0, 4.0, 1.0, 2.0, 3.0])

    def error(judged_model: nn.Module, _: object) -> float:
        judged.append(state(judged_model))
        return next(errors)

    history = fine_tune(
        model, samples(), functional.cross_entropy, TUNING, validation=samples(2), error=error
    )
    states = trajectory(TUNING)
    assert history.best == 2 and same(state(model), judged[2])
    for epoch, found in enumerate(judged[1:], 1):
        expected = weighted_sum(states[3 : 4 * epoch], 0.9, "4.weight")
        torch.testing.assert_close(found["4.weight"].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("averaging", [0.5, 0.99])
def test_what_is_removed_on_the_way_is_zero_in_the_average(averaging: float) -> None:
    model = network()
    fine_tune(
        model, samples(), functional.cross_entropy, replace(TUNING, averaging=averaging),
        validation=samples(2), removal=GradualRemoval(60, ("0", "4"), regrowth=0.2),
    )  # fmt: skip
    assert sum(int(parameter.count_nonzero()) for parameter in model.parameters()) == 60


def test_what_is_held_is_zero_in_the_average() -> None:
    model = network()
    weight = model.get_parameter("4.weight")
    keep = torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) > 0.5
    with torch.no_grad():
        weight.mul_(keep)
    held = {("4", "weight"): keep}
    fine_tune(model, samples(), functional.cross_entropy, TUNING, held=held)
    assert torch.equal(weight != 0, keep)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("validated", [False, True])
def test_stopped_and_resumed_equals_never_stopped(
    tmp_path: Path, after: int, validated: bool
) -> None:
    def stop(epoch: Epoch) -> None:
        if epoch.number == after:
            raise Killed

    validation = samples(2) if validated else None
    data, loss = samples(), functional.cross_entropy
    whole, parts, again = network(), network(), network()
    expected = fine_tune(whole, data, loss, TUNING, validation=validation)
    with pytest.raises(Killed):
        fine_tune(
            parts, data, loss, TUNING, validation=validation, checkpoint=tmp_path, progress=stop
        )
    assert same(state(parts), state(network()))
    for model in (parts, again):  # the second time a finished one is only read
        found = fine_tune(
            model, data, loss, TUNING, validation=validation, checkpoint=tmp_path
        )  # fmt: skip
        assert found == expected
        assert same(state(model), state(whole))


def test_a_checkpoint_that_lacks_a_part_of_the_average_is_damaged(tmp_path: Path) -> None:
    data, loss, whole, model = samples(), functional.cross_entropy, network(), network()
    expected = fine_tune(whole, data, loss, TUNING, checkpoint=tmp_path)
    facts = json.loads((tmp_path / STATE).read_text())
    tensors = load_file(tmp_path / facts["tensors"])
    del tensors["average.4.bias"]
    digest = write_tensors(tmp_path, "fine-tuning-{:.16}.safetensors", tensors)
    facts |= {"tensors": f"fine-tuning-{digest:.16}.safetensors", "tensors_sha256": digest}
    (tmp_path / STATE).write_text(json.dumps(facts))
    with pytest.warns(CheckpointWarning, match="is damaged"):
        assert fine_tune(model, data, loss, TUNING, checkpoint=tmp_path) == expected
    assert same(state(model), state(whole))
