from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from gp_prune.base.artifacts import write_tensors
from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.pruning import Budget, mask, select_channels, select_weights, trace, unmask
from gp_prune.pruning.modules import masked_parameters
from gp_prune.pruning.surgery import channel_masks
from gp_prune.statistics import Batch
from gp_prune.training import (
    CheckpointWarning,
    Epoch,
    FineTuning,
    History,
    Samples,
    fine_tune,
    held_by,
    recalibrate,
)
from gp_prune.training.checkpoint import STATE

Split = tuple[Tensor, Tensor]


def network(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(4, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24, 3),
        ).eval()


def data(count: int = 48, seed: int = 7) -> Split:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 1, 6, 6, generator=generator)
    return inputs, (inputs.mean((1, 2, 3)) * 6).long().clamp(-1, 1) + 1


def plain(**changes: Any) -> FineTuning:
    return FineTuning(**{"epochs": 2, "batch_size": 16, "learning_rate": 0.05, **changes})


def tune(model: nn.Module, how: FineTuning | None = None, **more: Any) -> History:
    return fine_tune(model, data(), functional.cross_entropy, how or plain(), **more)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def masked(granularity: str, seed: int = 0) -> tuple[nn.Sequential, Any, Any]:
    """A masked network, its plan and its architecture."""
    model = network(seed)
    architecture = trace(model, torch.zeros(1, 1, 6, 6))
    if granularity == "channels":
        scores = {n: model.get_parameter(f"{n}.weight").detach().abs().flatten(1).sum(1)
                  for n in architecture.scored_layers}  # fmt: skip
        plan: Any = select_channels(architecture, scores, Conventions(), Budget("channels", 0.5))
    else:
        weights = {
            n: model.get_parameter(f"{n}.weight").detach() for n in architecture.prunable_layers
        }
        scores = {n: w.abs().reshape(*w.shape[:2], -1) for n, w in weights.items()}
        plan = select_weights(model, architecture, scores, Conventions(), Budget("params", 0.4))
    mask(model, plan, architecture)
    return model, plan, architecture


OPTIMISERS = st.sampled_from([
    {"optimiser": "sgd", "momentum": 0.9}, {"optimiser": "sgd", "momentum": 0.0},
    {"optimiser": "sgd", "momentum": 0.9, "nesterov": True}, {"optimiser": "adamw"},
])  # fmt: skip


@settings(max_examples=12)
@given(
    how=OPTIMISERS,
    decay=st.sampled_from([0.0, 0.3]),
    granularity=st.sampled_from(["channels", "weights"]),
    distill=st.sampled_from([0.0, 0.5]),
)
def test_nothing_regrows_under_masks(
    how: dict[str, Any], decay: float, granularity: str, distill: float
) -> None:
    model, *_ = masked(granularity)
    before = [
        getattr(module, f"{name}_mask").clone() for _, module, name in masked_parameters(model)
    ]
    start = state(model)
    tune(model, plain(**how, weight_decay=decay, distill=distill), teacher=network())
    after = list(masked_parameters(model))
    assert len(after) == len(before) > 0
    for keep, (_, module, name) in zip(before, after, strict=True):
        effective = getattr(module, name)
        assert torch.equal(getattr(module, f"{name}_mask"), keep)
        assert torch.equal(effective, getattr(module, f"{name}_orig") * keep)
        assert not effective[keep == 0].count_nonzero()
        assert effective.is_leaf
    assert not same(start, state(model))
    copy.deepcopy(model)  # torch refuses to copy tensors that were made with gradients


@settings(max_examples=12)
@given(
    how=OPTIMISERS,
    decay=st.sampled_from([0.0, 0.3]),
    granularity=st.sampled_from(["channels", "weights"]),
)
def test_nothing_regrows_where_zeros_are_held(
    how: dict[str, Any], decay: float, granularity: str
) -> None:
    model, plan, architecture = masked(granularity)
    unmask(model)
    free = copy.deepcopy(model)
    held = held_by(model, plan, architecture)
    tune(model, plain(**how, weight_decay=decay), held=held)
    tune(free, plain(**how, weight_decay=decay))
    grown = 0
    for (module, name), keep in held.items():
        assert not getattr(model.get_submodule(module), name)[~keep].count_nonzero()
        grown += int(getattr(free.get_submodule(module), name)[~keep].count_nonzero())
    # Without `held` weights do; a channel that is zero on all sides has no gradient.
    assert grown or granularity == "channels"


def test_masks_and_held_zeros_train_alike() -> None:
    model, plan, architecture = masked("weights")
    permanent = copy.deepcopy(model)
    unmask(permanent)
    tune(model)
    tune(permanent, held=held_by(permanent, plan, architecture))
    unmask(model)
    torch.testing.assert_close(dict(model.state_dict()), dict(permanent.state_dict()))


def test_what_is_held_must_fit() -> None:
    model, plan, architecture = masked("channels")
    held = held_by(network(), plan, architecture)
    with pytest.raises(UserError, match="without masks"):
        tune(model, held=held)
    with pytest.raises(UserError, match="is not zero where it is to be held"):
        tune(network(), held=held)
    with pytest.raises(UserError, match="has shape"):
        tune(network(), held={("0", "weight"): torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(UserError, match="needs the architecture"):
        held_by(network(), plan)


def test_the_seed_decides_everything() -> None:
    found = []
    for seed, noise in ((0, 1), (0, 2), (3, 1)):
        model = network(dropout=0.5)
        with torch.random.fork_rng():
            torch.manual_seed(noise)
            history = tune(model, plain(seed=seed), validation=data(20, 1))
        found.append((state(model), history))
    assert same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert not same(found[0][0], found[2][0])


def broken(output: Tensor, target: Tensor) -> Tensor:
    torch.rand(1)
    raise RuntimeError("broken loss")


@pytest.mark.parametrize("loss", [functional.cross_entropy, broken])
def test_flags_gradients_and_random_numbers_come_back(loss: Callable[..., Tensor]) -> None:
    model, teacher = network(dropout=0.5), network(1, dropout=0.5)
    model[1].train()
    teacher[3].train()
    model[0].requires_grad_(False)
    weight = model.get_parameter("4.weight")
    weight.grad = torch.full_like(weight, 3.0)
    models = (model, teacher)
    flags = [module.training for one in models for module in one.modules()]
    taught, frozen, random = (
        state(teacher),
        model.get_parameter("0.weight").clone(),
        torch.get_rng_state(),
    )
    try:
        how = plain(distill=0.5)
        fine_tune(model, data(), loss, how, validation=data(9, 1), teacher=teacher)
    except RuntimeError as error:
        assert str(error) == "broken loss"
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for one in models for module in one.modules()] == flags
    assert weight.grad is not None and torch.equal(weight.grad, torch.full_like(weight, 3.0))
    assert all(p.grad is None for n, p in model.named_parameters() if n != "4.weight")
    assert torch.equal(model.get_parameter("0.weight"), frozen)
    assert not model.get_parameter("0.weight").requires_grad
    assert same(state(teacher), taught)


def test_after_an_exception_the_network_is_as_before() -> None:
    model = network()
    before = state(model)

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(model, progress=stop)
    assert same(state(model), before)


def test_the_best_validation_state_is_restored() -> None:
    seen: list[tuple[float, dict[str, Tensor]]] = []
    errors = iter([0.5, 0.4, 0.2, 0.3, 0.2])

    def judge(model: nn.Module, validation: object) -> float:
        assert validation == "mine" and not any(m.training for m in model.modules())
        seen.append((next(errors), state(model)))
        return seen[-1][0]

    model = network().train()
    history = tune(model, plain(epochs=4), validation="mine", error=judge)
    assert [epoch.error for epoch in history.epochs] == [0.4, 0.2, 0.3, 0.2]
    assert (history.start_error, history.best, history.best_error) == (0.5, 2, 0.2)
    assert same(state(model), seen[2][1])
    assert all(module.training for module in model.modules())


def test_a_network_that_only_gets_worse_stays_as_it_was() -> None:
    model, errors = network(), iter([0.1, 0.2, 0.3, 0.4])
    before = state(model)
    history = tune(model, plain(epochs=3), validation=data(9), error=lambda *_: next(errors))
    assert history.best == 0 and history.best_error == 0.1
    assert same(state(model), before)


@given(
    errors=st.lists(st.floats(0, 1), min_size=7, max_size=7),
    patience=st.integers(0, 4),
)
@settings(max_examples=15)
def test_patience(errors: list[float], patience: int) -> None:
    told = iter(errors)
    history = tune(
        nn.Sequential(nn.Flatten(), nn.Linear(36, 3)),
        plain(epochs=6, patience=patience, batch_size=48),
        validation=data(9),
        error=lambda *_: next(told),
    )
    done = len(history.epochs)
    best = min(range(done + 1), key=lambda number: errors[number])
    assert history.best == best
    if history.stopped_early:
        assert patience and done - best == patience and done < 6
    else:
        assert done == 6
        waits = [n - min(range(n + 1), key=lambda i: errors[i]) for n in range(1, 6)]
        assert not patience or max(waits) < patience


class Killed(BaseException):
    """What stops a run from outside."""


def stopping(after: int) -> Callable[[Epoch], None]:
    def progress(epoch: Epoch) -> None:
        if epoch.number == after:
            raise Killed

    return progress


@settings(max_examples=10)
@given(
    how=OPTIMISERS,
    first=st.integers(1, 3),
    validated=st.booleans(),
    granularity=st.sampled_from(["", "channels", "weights"]),
)
def test_stopped_and_resumed_equals_never_stopped(
    tmp_path_factory: pytest.TempPathFactory,
    how: dict[str, Any],
    first: int,
    validated: bool,
    granularity: str,
) -> None:
    folder = tmp_path_factory.mktemp("resume") / "deep" / "checkpoint"
    same_object = validated  # what was stopped may itself be given again
    chosen = plain(**how, epochs=4, patience=3 if validated else 0, weight_decay=0.01, distill=0.3)
    more: dict[str, Any] = {"teacher": network(5)}
    if validated:
        more["validation"] = data(30, 2)

    def fresh() -> nn.Module:
        model = masked(granularity)[0] if granularity else network(dropout=0.3)
        model[0].bias_orig.requires_grad_(False) if granularity == "channels" else None
        return model

    whole, parts = fresh(), fresh()
    expected = tune(whole, chosen, **more)
    with pytest.raises(Killed):
        tune(parts, chosen, checkpoint=folder, progress=stopping(first), **more)
    resumed = parts if same_object else fresh()
    numbers: list[int] = []
    history = tune(
        resumed, chosen, checkpoint=folder, progress=lambda e: numbers.append(e.number), **more
    )
    assert history == expected
    assert same(state(resumed), state(whole))
    assert numbers == list(range(first + 1, len(expected.epochs) + 1))
    again = fresh()  # a finished one is only read
    assert tune(again, chosen, checkpoint=folder, progress=stopping(1), **more) == expected
    assert same(state(again), state(whole))
    assert len(list(folder.iterdir())) == 2


@settings(max_examples=10)
@given(cut=st.floats(0, 0.999), which=st.integers(0, 1))
def test_a_torn_checkpoint_is_survived(
    tmp_path_factory: pytest.TempPathFactory, cut: float, which: int
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    with pytest.raises(Killed):
        tune(network(), checkpoint=folder, progress=stopping(1))
    (tensors,) = folder.glob("*.safetensors")
    torn = (folder / STATE, tensors)[which]
    content = torn.read_bytes()
    torn.write_bytes(content[: int(cut * (len(content) - 2))])
    model, expected = network(), network()
    with pytest.warns(CheckpointWarning, match="is damaged"):
        history = tune(model, checkpoint=folder)
    assert history == tune(expected)
    assert same(state(model), state(expected))
    assert len(list(folder.iterdir())) == 2
    assert tune(network(), checkpoint=folder) == history


def test_a_checkpoint_that_names_functions_by_older_modules_is_resumed(tmp_path: Path) -> None:
    history = tune(network())
    with pytest.raises(Killed):
        tune(network(), checkpoint=tmp_path, progress=stopping(1))
    text = (tmp_path / STATE).read_text()
    older = text.replace("gp_prune.statistics.running.call_model", "gp_prune.batches.call_model")
    assert older != text
    (tmp_path / STATE).write_text(older)
    assert tune(network(), checkpoint=tmp_path) == history


def changed_checkpoint(folder: Path, change: Callable[[dict[str, Any], Any], None]) -> None:
    """Change facts and tensors of a checkpoint, and name the tensors by their new digest."""
    facts = json.loads((folder / STATE).read_text())
    path = folder / facts["tensors"]
    tensors = load_file(path)
    change(tensors, facts["history"])
    path.unlink()
    digest = write_tensors(folder, "fine-tuning-{:.16}.safetensors", tensors)
    facts |= {"tensors": f"fine-tuning-{digest:.16}.safetensors", "tensors_sha256": digest}
    (folder / STATE).write_text(json.dumps(facts))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, _: tensors.pop("now.0.weight"),
        lambda tensors, _: tensors.update({"more": torch.zeros(1)}),
        lambda tensors, _: tensors.update({"now.0.weight": torch.zeros(1)}),
        lambda tensors, _: tensors.update({"now.0.weight": tensors["now.0.weight"].double()}),
        lambda tensors, _: tensors.update({"optimiser.x": torch.zeros(1)}),
        lambda tensors, _: tensors.update({"optimiser.99.momentum_buffer": torch.zeros(1)}),
        lambda tensors, _: tensors.update({"optimiser.0.momentum_buffer": torch.zeros(1)}),
        lambda tensors, _: tensors.update({"optimiser.0.odd": torch.zeros(())}),
        lambda _, history: history.update(best=7),
        lambda _, history: history.update(epochs=5),
        lambda _, history: history["epochs"][0].update(number=2),
        lambda _, history: history["epochs"][0].update(loss="low"),
        lambda _, history: history["epochs"][0].update(error=[]),
        lambda _, history: history.update(start_error=10**400),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_network_is_damaged(
    tmp_path: Path, change: Callable[[dict[str, Any], Any], None]
) -> None:
    with pytest.raises(Killed):
        tune(network(), checkpoint=tmp_path, progress=stopping(1))
    changed_checkpoint(tmp_path, change)
    with pytest.warns(CheckpointWarning, match="is damaged"):
        history = tune(network(), checkpoint=tmp_path)
    assert history == tune(network())


def test_a_lost_file_of_a_checkpoint_is_survived(tmp_path: Path) -> None:
    history = tune(network(), checkpoint=tmp_path)
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.warns(CheckpointWarning):
        assert tune(network(), checkpoint=tmp_path) == history


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        tune(network(), checkpoint=tmp_path, progress=stopping(1))
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = network()
    other[8] = nn.Linear(24, 4)
    frozen = network()
    frozen[8].weight.requires_grad_(False)
    cases: list[tuple[nn.Module, FineTuning, Split, str]] = [
        (network(), plain(learning_rate=0.1), data(), "learning_rate is 0.1, there it was 0.05"),
        (other, plain(), data(), "other network"),
        (frozen, plain(), data(), "other network"),
        (masked("weights")[0], plain(), data(), "other masks"),
        (network(1), plain(), data(), "other weights"),
        (network(), plain(), data(seed=8), "other training data"),
    ]
    for model, how, samples, words in cases:
        before = state(model)
        with pytest.raises(UserError, match=words) as caught:
            fine_tune(model, samples, functional.cross_entropy, how, checkpoint=tmp_path)
        assert "\n" not in str(caught.value)
        assert same(state(model), before)
    with pytest.raises(UserError, match="other validation data"):
        tune(network(), validation=data(9), checkpoint=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept


def test_foreign_files_and_unusable_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    tune(network(), checkpoint=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    text = (tmp_path / STATE).read_text()
    (tmp_path / STATE).write_text(text.replace("fine-tuning checkpoint", "holiday"))
    with pytest.raises(UserError, match="'holiday'"):
        tune(network(), checkpoint=tmp_path)
    with pytest.raises(UserError, match="cannot be used"):
        tune(network(), checkpoint=tmp_path / "notes.txt")

    def full_disk(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / STATE).write_text(text)
    monkeypatch.setattr("gp_prune.base.artifacts.write_json", full_disk)
    with pytest.raises(UserError, match="No space left"):
        tune(network(), checkpoint=tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_one_sentence(value: float) -> None:
    model = network()
    before = state(model)
    calls = iter(range(100))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return output.sum() * (value if next(calls) == 4 else 0.0)

    with pytest.raises(UserError, match=rf"loss is {value} in epoch 2; lower the learning rate"):
        fine_tune(model, data(), loss, plain())
    assert same(state(model), before)


def test_errors_and_weights_that_are_no_numbers() -> None:
    with pytest.raises(UserError, match="validation error is nan before fine-tuning"):
        tune(network(), validation=data(9), error=lambda *_: float("nan"))
    model = network()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - output.detach()).sum().square().sqrt()  # 0, with the slope 0 / 0

    with pytest.raises(UserError, match="weights are not finite after epoch 1"):
        fine_tune(model, data(), loss, plain(batch_size=48))
    assert same(state(model), state(network()))


def test_bad_arguments_are_one_sentence() -> None:
    frozen = network().requires_grad_(False)
    cases: tuple[tuple[nn.Module, FineTuning, dict[str, Any], str], ...] = (
        (frozen, plain(), {}, "every parameter of the network is frozen"),
        (network(), plain(distill=0.5), {}, "no teacher"),
        (network(), plain(patience=1), {}, "without validation samples"),
    )
    for model, how, more, words in cases:
        with pytest.raises(UserError, match=words):
            tune(model, how, **more)
    for train, words in (
        (iter([Batch(*data())]), "cannot be read once per epoch"),
        ([], "no sample in epoch 1"),
        ([Batch(data()[0])], "inputs alone"),
        ([(1, 2, 3)], "yields tuple"),
        (3, "is of type int"),
    ):
        with pytest.raises(UserError, match=words):
            fine_tune(network(), train, functional.cross_entropy, plain())
    for validation in ([Batch(data()[0])], (data()[0], None)):
        with pytest.raises(UserError, match="validation data has inputs alone"):
            tune(network(), validation=validation)
    with pytest.raises(UserError, match=r"gives shape \(48,\)"):
        fine_tune(network(), data(), lambda o, t: o.sum(1), plain(batch_size=48))


def test_one_sample_is_too_few_for_batch_norm() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = state(model)
    single = [Batch(torch.rand(n, 2), torch.zeros(n, dtype=torch.long)) for n in (4, 1)]
    for act in (
        lambda: fine_tune(model, single, functional.cross_entropy, plain()),
        lambda: recalibrate(model, single),
    ):
        with pytest.raises(UserError, match="batch of one sample"):
            act()
        assert same(state(model), before)


def test_no_epochs_change_nothing() -> None:
    model = network()
    history = tune(model, plain(epochs=0), validation=data(9))
    assert history.epochs == () and history.start_error is not None
    assert same(state(model), state(network()))


class Loader:
    """Batches as a data loader gives them: anew for each epoch, in an order of its own."""

    def __iter__(self) -> Iterator[Batch]:
        inputs, target = data()
        for chosen in torch.split(torch.randperm(48), 16):
            yield Batch(inputs[chosen], target[chosen])

    def __length_hint__(self) -> int:
        return 3


def test_every_kind_of_data_lowers_the_loss_reproducibly() -> None:
    inputs, target = data()
    in_batches = [Batch(inputs[i : i + 16], target[i : i + 16]) for i in range(0, 48, 16)]
    forms = (
        data(), Samples(inputs, target), Batch(inputs, target), in_batches, Loader(),
        TensorDataset(inputs, target), DataLoader(TensorDataset(inputs, target), 16),
    )  # fmt: skip
    for train in forms:
        found = []
        for _ in range(2):
            model = network()
            history = fine_tune(model, train, functional.cross_entropy, plain(epochs=8))
            assert history.epochs[-1].loss < 0.7 * history.epochs[0].loss
            found.append(state(model))
        assert same(*found)


def test_networks_that_are_called_in_their_own_way() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, *, image: Tensor) -> dict[str, Tensor]:
            return {"logits": self.body(image)}

    def loss(output: dict[str, Tensor], target: Tensor) -> Tensor:
        return functional.cross_entropy(output["logits"], target)

    inputs, target = data()
    by_name, own_way = Named(), Named()
    fine_tune(by_name, Samples({"image": inputs}, target), loss, plain())
    fine_tune(own_way, (inputs, target), loss, plain(), forward_fn=lambda m, x: m(image=x))
    assert same(state(by_name), state(own_way))
    taught = Samples({"image": inputs}, target)
    fine_tune(by_name, taught, loss, plain(distill=0.5), teacher=Named())  # by the logits


def test_learning_rate_rises_and_falls() -> None:
    how = plain(epochs=10, warm_up=0.3, batch_size=48, learning_rate=0.01)
    rates = [epoch.learning_rate for epoch in tune(network(), how).epochs]
    top = rates.index(max(rates))
    assert max(rates) <= 0.01
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.002


def test_history_survives_json() -> None:
    history = tune(network(), validation=data(9))
    assert History.from_json(history.to_json()) == history


def test_sgd_is_torchs_own() -> None:
    """The independent reference: a plain loop over the whole data as one batch."""
    model, plainly = network(), network()
    tune(model, plain(epochs=3, batch_size=48, weight_decay=0.01))
    optimiser = torch.optim.SGD(plainly.parameters(), momentum=0.9, weight_decay=0.01)
    falling = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda epoch: 0.05 / 0.001 * (1 + torch.pi * 0 + _cosine(epoch / 3)) / 2
    )
    inputs, target = data()
    plainly.train()
    for _ in range(3):
        optimiser.zero_grad()
        torch.autograd.backward(functional.cross_entropy(plainly(inputs), target))
        optimiser.step()
        falling.step()
    torch.testing.assert_close(dict(model.state_dict()), dict(plainly.state_dict()))


def _cosine(share: float) -> float:
    return float(torch.cos(torch.tensor(share * torch.pi, dtype=torch.float64)))


def test_channel_masks_fit_held_by() -> None:
    _, plan, architecture = masked("channels")
    expected = channel_masks(network(), architecture.entries(plan.removed))
    found = held_by(network(), plan, architecture)
    assert found.keys() == expected.keys()
