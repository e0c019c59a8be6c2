from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gp_prune.apply.data import MEASURES, TuningData, own_data, tuning_data
from gp_prune.apply.models import LoadedModel, load_model
from gp_prune.apply.prune import prune
from gp_prune.apply.result import PrunedModel
from gp_prune.apply.saving import load_pruned, save_pruned
from gp_prune.apply.tuning import Quality, tune_pruned
from gp_prune.errors import UserError
from gp_prune.pruning import WeightPlan, unmask
from gp_prune.pruning.modules import masked_parameters
from gp_prune.tasks import Task
from gp_prune.training import FineTuning, History
from gp_prune.training.loss import evaluate
from gp_prune.training.samples import draw, in_order


@pytest.fixture
def cnn(task_cache: Path) -> LoadedModel:
    return load_model("cnn-digits", cache_dir=task_cache)


@pytest.fixture
def pruned(cnn: LoadedModel) -> PrunedModel:
    return prune(cnn.model, "l1", cnn.example_inputs, keep_channels=0.5)


def states(*models: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for model in models for value in model.state_dict().values()]


def test_a_task_with_an_error_of_its_own_is_judged_by_it() -> None:
    def far_off(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).abs().amax(1).mean()

    inputs = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    task = Task(model, (inputs, inputs[:, :2] + 1), kind="regression", error=far_off)
    mine = LoadedModel("mine", model, task.example_inputs, task)
    half = prune(model, "l1", task.example_inputs, keep_channels=0.5)
    tuned, quality = tune_pruned(half, model, tuning_data(mine), FineTuning(epochs=1))
    test = task.test()
    assert quality.kind == "own" and quality.constant == task.trivial_error_on(test)
    with torch.no_grad():
        assert quality.dense == pytest.approx(float(far_off(model(test.inputs), test.target)))
    assert quality.tuned == task.error(tuned.model, test)


def test_a_network_that_reconstructs_needs_no_labels() -> None:
    loaded = LoadedModel("mine", nn.Identity(), torch.zeros(1, 1, 8, 8), kind="reconstruction")
    data = tuning_data(loaded, "digits", samples=60)
    assert data.kind == "mse" and data.evaluate(loaded.model, data.validation).error == 0


def test_every_state_is_judged_on_the_test_samples(cnn: LoadedModel, pruned: PrunedModel) -> None:
    data = tuning_data(cnn)
    before = states(cnn.model, pruned.model)
    tuned, quality = tune_pruned(pruned, cnn.model, data, FineTuning(epochs=2, distill=0.3))
    task = cnn.task
    assert task is not None and quality.split == "test" and quality.samples == 360
    assert quality.dense == task.error(cnn.model, task.test())
    assert quality.pruned == task.error(pruned.model, task.test())
    assert quality.tuned == task.error(tuned.model, task.test())
    assert quality.recalibrated is not None and quality.history is not None
    assert quality.tuned < quality.recalibrated < quality.pruned
    # What decided was the error on the validation samples.
    assert quality.history.best_error == task.error(tuned.model, task.validation)
    assert all(map(torch.equal, states(cnn.model, pruned.model), before))
    assert tuned.quality is quality and pruned.quality is None
    written = json.loads(json.dumps(tuned.report(), allow_nan=False))
    assert written["quality"]["tuned"] == quality.tuned
    assert len(written["quality"]["fine_tuning"]["history"]["epochs"]) == 2
    assert tuned.after[:2] == pruned.after[:2]


def test_test_samples_are_read_once_and_after_the_last_epoch(
    cnn: LoadedModel, pruned: PrunedModel
) -> None:
    whole, told = tuning_data(cnn), []

    def read() -> object:
        told.append("test samples")
        return whole.read_report()

    spied = TuningData(**{**vars(whole), "read_report": read})
    tune_pruned(pruned, cnn.model, spied, FineTuning(epochs=2), progress=told.append)
    assert told.count("test samples") == 1
    assert told[-1] == "test samples"
    assert any(line.startswith("epoch 2/2: training loss") for line in told)


def test_only_recalibration(cnn: LoadedModel, pruned: PrunedModel) -> None:
    tuned, quality = tune_pruned(pruned, cnn.model, tuning_data(cnn))
    assert quality.tuned is None and quality.history is None
    assert quality.recalibrated is not None and quality.recalibrated < quality.pruned
    parameters = zip(tuned.model.parameters(), pruned.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in parameters)
    assert tuned.report()["quality"]["fine_tuning"] is None


def test_neither_leaves_the_network_as_it_is(cnn: LoadedModel, pruned: PrunedModel) -> None:
    same, quality = tune_pruned(pruned, cnn.model, tuning_data(cnn), recalibration=False)
    assert quality.recalibrated is None and quality.tuned is None
    assert all(map(torch.equal, states(same.model), states(pruned.model)))


@pytest.mark.parametrize("budget", [{"keep_channels": 0.5}, {"keep_params": 0.3}])
def test_masks_hold_and_the_tuned_network_is_saved(
    cnn: LoadedModel, tmp_path: Path, budget: dict[str, Any]
) -> None:
    metric = "l1" if "keep_channels" in budget else "magnitude"
    masked = prune(cnn.model, metric, cnn.example_inputs, mode="mask", **budget)
    gone = [getattr(m, f"{name}_mask").clone() for _, m, name in masked_parameters(masked.model)]
    tuned, quality = tune_pruned(
        masked, cnn.model, tuning_data(cnn), FineTuning(epochs=1, optimiser="adamw")
    )
    for keep, (_, module, name) in zip(gone, masked_parameters(tuned.model), strict=True):
        assert torch.equal(getattr(module, f"{name}_mask"), keep)
        assert not getattr(module, name)[keep == 0].count_nonzero()
    assert tuned.after.nonzero <= masked.after.nonzero
    assert quality.tuned is not None and quality.tuned < quality.pruned
    save_pruned(tuned, tmp_path / "out")
    loaded = load_pruned(tmp_path / "out", cnn.model)
    inputs = draw(tuning_data(cnn).validation, 20, 0).inputs
    with torch.no_grad():
        assert torch.equal(loaded.eval()(inputs), tuned.model.eval()(inputs))
    assert json.loads((tmp_path / "out" / "report.json").read_text())["quality"]


def test_permanent_zeros_stay_too(cnn: LoadedModel) -> None:
    masked = prune(cnn.model, "magnitude", cnn.example_inputs, keep_params=0.3)
    unmask(masked.model)
    tuned, quality = tune_pruned(
        masked, cnn.model, tuning_data(cnn, samples=200), FineTuning(epochs=1, weight_decay=0.1)
    )
    assert quality.tuned is not None and quality.tuned < quality.pruned
    assert isinstance(masked.plan, WeightPlan)
    for (layer, _), keep in masked.plan.masks(masked.model).items():
        assert not tuned.model.get_parameter(f"{layer}.weight")[~keep].count_nonzero()


def test_batches_of_a_data_loader_that_shuffles(cnn: LoadedModel, pruned: PrunedModel) -> None:
    whole = tuning_data(cnn, samples=200)
    part: Any = draw(whole.train, 120, 0)
    loader = DataLoader(TensorDataset(part.inputs, part.target), batch_size=32, shuffle=True)
    data = TuningData(**{**vars(whole), "train": loader})
    found = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(tune_pruned(pruned, cnn.model, data, FineTuning(epochs=2))[1])
    assert found[0] == found[1]
    assert found[0].history is not None and found[0].history.epochs[1].learning_rate < 0.01


def test_it_goes_on_from_a_checkpoint(
    cnn: LoadedModel, pruned: PrunedModel, tmp_path: Path
) -> None:
    data, how = tuning_data(cnn, samples=200), FineTuning(epochs=3)

    def stop(line: str) -> None:
        if line.startswith("epoch 2/3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_pruned(pruned, cnn.model, data, how, checkpoint=tmp_path, progress=stop)
    expected, _ = tune_pruned(pruned, cnn.model, data, how)
    resumed, _ = tune_pruned(pruned, cnn.model, data, how, checkpoint=tmp_path)
    assert resumed.quality == expected.quality
    assert all(map(torch.equal, states(resumed.model), states(expected.model)))


def test_own_batches_and_own_way_to_call() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)).eval()
        inputs = torch.randn(120, 4)
    target = (inputs.sum(1) > 0).long()
    data = own_data([(inputs[:60], target[:60]), (inputs[60:], target[60:])], share=0.25)
    small = prune(model, "l1", inputs[:1], keep_channels=0.5)
    calls: list[int] = []

    def forward(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        calls.append(len(batch))
        result: torch.Tensor = network(batch)
        return result

    tuned, quality = tune_pruned(
        small, model, data, FineTuning(epochs=8, learning_rate=0.1), forward_fn=forward
    )
    assert calls and quality.split == "validation" and quality.samples == 30
    assert quality.recalibrated is None  # there is no batch norm
    assert quality.tuned is not None and quality.tuned < quality.pruned - 0.1
    batches = in_order(data.validation, 30)
    assert evaluate(tuned.model, batches, MEASURES["error"]).error == quality.tuned


def test_what_goes_astray_is_one_sentence(
    cnn: LoadedModel, pruned: PrunedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = states(pruned.model)
    data = tuning_data(cnn)
    huge = replace(data, loss=lambda output, target: data.loss(output, target) * 1e38 * 1e38)
    with pytest.raises(UserError, match="lower the learning rate") as caught:
        tune_pruned(pruned, cnn.model, huge, FineTuning(epochs=3))
    assert "\n" not in str(caught.value)
    assert all(map(torch.equal, states(pruned.model), before))


def test_the_seed_decides(cnn: LoadedModel, pruned: PrunedModel) -> None:
    data = tuning_data(cnn, samples=200)
    run: Callable[[int], list[torch.Tensor]] = lambda seed: states(  # noqa: E731
        tune_pruned(pruned, cnn.model, data, FineTuning(epochs=1, seed=seed))[0].model
    )
    first = run(0)
    assert all(map(torch.equal, run(0), first))
    assert not all(map(torch.equal, run(1), first))


def test_json_has_no_number_that_is_not_finite() -> None:
    quality = Quality("mse", "validation", "mine", 20, 0.25, math.inf, None, math.nan)
    assert quality.to_json() == {
        "kind": "mse", "split": "validation", "data": "mine", "samples": 20, "dense": 0.25,
        "pruned": None, "recalibrated": None, "tuned": None, "constant": None, "fine_tuning": None,
    }  # fmt: skip


@pytest.mark.parametrize(("known", "told"), [(True, False), (False, True)])
def test_a_network_at_chance_level_is_told(known: bool, told: bool) -> None:
    """Labels that the inputs give away, or that they say nothing about."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 5, generator=generator)
    labels = inputs.argmax(1) if known else torch.randint(0, 5, (300,), generator=generator)
    layers = nn.Linear(5, 30, bias=False), nn.Linear(30, 5, bias=False)
    for layer in layers:
        nn.init.eye_(layer.weight)
    model = nn.Sequential(*layers)
    small = prune(model, "l1", inputs[:2], keep_channels=0.5, allow_ties=True)
    tuned, quality = tune_pruned(small, model, own_data((inputs, labels)))
    (judged,) = in_order(own_data((inputs, labels)).validation, 60)
    assert judged.labels is not None
    share = float(torch.bincount(judged.labels).max()) / 60
    assert quality.constant == pytest.approx(1 - share)
    assert ("at chance level before it was pruned" in " ".join(tuned.remarks)) is told


def test_a_network_that_repeats_no_better_than_a_mean_is_told() -> None:
    inputs = torch.randn(100, 6, generator=torch.Generator().manual_seed(0)) + 3
    model = nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 6)).requires_grad_(False)
    small = prune(model, "l1", inputs[:2], keep_channels=0.5)
    data = own_data((inputs, inputs), kind="mse")
    tuned, quality = tune_pruned(small, model, data)
    ((_, target, _),) = in_order(data.validation, 20)
    assert quality.constant == pytest.approx(float(target.var(0, correction=0).mean()), rel=1e-5)
    assert "its mean squared error is" in " ".join(tuned.remarks)


@pytest.mark.parametrize(("rate", "told"), [(100.0, True), (0.01, False)])
def test_a_diverging_learning_rate_is_told(
    cnn: LoadedModel, pruned: PrunedModel, rate: float, told: bool
) -> None:
    settings = FineTuning(epochs=2, learning_rate=rate)
    tuned, quality = tune_pruned(pruned, cnn.model, tuning_data(cnn, samples=300), settings)
    said = " ".join(tuned.remarks)
    assert ("Fine-tuning diverged: the training loss rose from" in said) is told
    assert ("(--lr), which is 100 at its highest" in said) is told
    assert quality.history is not None and quality.history.diverged is told
    assert History.from_json(quality.history.to_json()) == quality.history


def test_every_step_is_shown_and_counts_in_the_time(cnn: LoadedModel, pruned: PrunedModel) -> None:
    shown: list[tuple[int, int | None]] = []
    tuned, _ = tune_pruned(
        pruned, cnn.model, tuning_data(cnn, samples=130), FineTuning(epochs=2, batch_size=40),
        batch_progress=lambda done, total: shown.append((done, total)),
    )  # fmt: skip
    assert shown == [(n, 4) for n in (1, 2, 3, 4)] * 2
    assert tuned.seconds > pruned.seconds
