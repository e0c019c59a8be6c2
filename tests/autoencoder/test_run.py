"""Whole runs: masks held over all operators, schedules and modes; what a run leaves."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gp_prune import AutoencodeSettings, autoencode
from gp_prune.autoencoder.cells import CellResult, CellStep
from gp_prune.autoencoder.data import FlatData, FlatSamples
from gp_prune.autoencoder.networks import Pair, read_pair
from gp_prune.autoencoder.pruning import find_live_nodes, measure_sparsity, round_share
from gp_prune.autoencoder.schedule import SCHEDULES
from gp_prune.errors import UserError
from gp_prune.metric.metric import Metric
from gp_prune.runs.jobs import Workbench

OPERATORS = ("random", "conjunctive", "variance", "class_map_energy", "magnitude")
MODES = ("canonical", "coevolve")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[CellStep, Pair, CellResult, Pair]]:
    """Every step that is run in this process, with the pair it began with and the one it made."""
    seen: list[tuple[CellStep, Pair, CellResult, Pair]] = []
    original = CellStep.run

    def run(step: CellStep, workbench: Workbench) -> CellResult:
        pairs = {p.cell: read_pair(Path(step.folder), p.state, "cpu") for p in step.parents}
        result = original(step, workbench)
        chosen = Pair(pairs[result.encoder_from].encoder, pairs[result.decoder_from].decoder)
        seen.append((step, chosen, result, read_pair(Path(step.folder), result.state, "cpu")))
        return result

    monkeypatch.setattr(CellStep, "run", run)
    return seen


def check_held(before: Pair, after: Pair) -> None:
    """What was pruned stays pruned, and what is pruned is zero."""
    for old, new in zip(before, after, strict=True):
        assert not new.mask[old.mask == 0].any()
        assert not new.weights[new.mask == 0].any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "operator",
    ["variance", *(pytest.param(o, marks=pytest.mark.slow) for o in OPERATORS if o != "variance")],
)
def test_no_pruned_weight_is_ever_used_again(
    small: AutoencodeSettings,
    steps: list[tuple[CellStep, Pair, CellResult, Pair]],
    tmp_path: Path,
    operator: str,
    mode: str,
) -> None:
    """One operator and mode under every schedule."""
    for number, (schedule, target) in enumerate(itertools.product(SCHEDULES, (0.0, 0.5))):
        settings = replace(
            small, operator=operator, mode=mode, schedule=schedule, target_sparsity=target,
            seed=number, epochs=3, cells=3, updates=("asynchronous", "synchronous")[number % 2],
            exchange=("apart", "together")[number // 2 % 2], probability=1.0,
        )  # fmt: skip
        result = autoencode(settings, tmp_path / str(number))
        assert steps
        for step, before, made, after in steps:
            check_held(before, after)
            assert (after.encoder.events > before.encoder.events) == step.prunes
            assert made.sparsity == measure_sparsity(after)
        net = result.module().state_dict()
        zeros = sum(int((t == 0).sum()) for name, t in net.items() if name.endswith("weight"))
        total = sum(t.numel() for name, t in net.items() if name.endswith("weight"))
        assert result.sparsity == zeros / total
        if target:
            assert {name: alive for name, (alive, _) in result.nodes().items()} == (
                {"encoder1": 15, "decoder1": 15} if operator != "magnitude"
                else {"encoder1": 30, "decoder1": 30}
            )  # fmt: skip
            assert result.sparsity == 0.5
        steps.clear()


def test_with_regrowth_they_are(
    small: AutoencodeSettings,
    steps: list[tuple[CellStep, Pair, CellResult, Pair]],
    tmp_path: Path,
) -> None:
    settings = replace(small, operator="random", unit="weight", regrow=True, probability=1.0)
    result = autoencode(replace(settings, schedule="fixed", epochs=6), tmp_path / "run")
    assert any(
        bool(((before.encoder.weights == 0) & (after.encoder.weights != 0)).any())
        for _, before, _, after in steps
    )
    assert all(bool(after.encoder.mask.all()) for *_, after in steps)
    assert 0 < result.sparsity < 0.5


def test_without_a_target_every_event_removes_the_amount(
    small: AutoencodeSettings,
    steps: list[tuple[CellStep, Pair, CellResult, Pair]],
    tmp_path: Path,
) -> None:
    autoencode(small, tmp_path / "run")
    assert any(step.prunes for step, *_ in steps)
    for _, _, _, after in steps:
        for half in after:
            (alive,) = find_live_nodes(half)
            assert int(alive.sum()) == round_share(30, 0.8**half.events)


def test_a_cell_whose_worker_is_lost_stays_as_it_was(
    small: AutoencodeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = CellStep.run

    def run(step: CellStep, workbench: Workbench) -> CellResult:
        lost = (step.generation, step.cell) == (2, 1)
        return step.failed("its worker died") if lost else original(step, workbench)

    monkeypatch.setattr(CellStep, "run", run)
    result = autoencode(replace(small, updates="synchronous"), tmp_path / "run")
    row = next(r for r in result.history if (r.generation, r.cell) == (2, 1))
    before = next(r for r in result.history if (r.generation, r.cell) == (1, 1))
    assert row.failure == "its worker died"
    assert (row.validation_loss, row.sparsity) == (before.validation_loss, before.sparsity)
    assert result.to_json()["failures"] == ["generation 2, cell 1: its worker died"]
    monkeypatch.undo()
    again = autoencode(None, tmp_path / "run", resume=True)
    assert again.history == result.history


def test_a_cell_that_lost_its_pruning_is_not_the_best(
    small: AutoencodeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = CellStep.run

    def run(step: CellStep, workbench: Workbench) -> CellResult:
        if step.cell == 1 and step.prunes:
            return step.failed("its worker died")
        result = original(step, workbench)
        return result._replace(validation_loss=0.0) if step.cell == 1 else result

    monkeypatch.setattr(CellStep, "run", run)
    settings = replace(small, target_sparsity=0.5, schedule="final", probability=1.0, radius=0)
    result = autoencode(settings, tmp_path / "target")
    assert result.best_cell != 1
    assert result.sparsity == 0.5
    settings = replace(settings, target_sparsity=0.0)
    assert autoencode(settings, tmp_path / "amount").best_cell == 1


def test_the_best_cell_is_chosen_by_validation_and_the_test_split_read_once(
    small: AutoencodeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = FlatData.test

    def test(data: FlatData) -> FlatSamples:
        read.append(data.name)
        return original(data)

    monkeypatch.setattr(FlatData, "test", test)
    result = autoencode(replace(small, epochs=3, seed=2), tmp_path / "run")
    assert len(read) == 1
    last = [row for row in result.history if row.generation == 3]
    assert result.best_cell == min(last, key=lambda row: (row.validation_loss, row.cell)).cell
    assert result.validation_loss == min(row.validation_loss for row in last)
    saved = load_file(result.folder / "autoencoder.safetensors")
    inputs = result.pictures
    net = result.module()
    assert all(torch.equal(saved[name], value) for name, value in net.state_dict().items())
    assert torch.allclose(net(inputs), result.reconstructions()[-1][1], atol=1e-6)


def test_only_what_is_needed_stays_in_the_folder(small: AutoencodeSettings, tmp_path: Path) -> None:
    result = autoencode(small, tmp_path / "run")
    assert str(result).startswith("<AutoencodeResult in ") and len(str(result)) < 300
    assert result.to_json()["limits"] == [] and result.settings.max_memory == "2GB"
    assert 4 <= len(list((tmp_path / "run" / "states").iterdir())) <= 3 * 4
    autoencode(replace(small, operator="none"), tmp_path / "plain")
    assert len(list((tmp_path / "plain" / "states").iterdir())) == 4


@pytest.mark.parametrize("mode", MODES)
def test_the_pictures_show_the_last_pruning(
    small: AutoencodeSettings, tmp_path: Path, mode: str
) -> None:
    settings = replace(small, mode=mode, schedule="after", probability=1.0, updates="synchronous")
    result = autoencode(settings, tmp_path / "run")
    assert result.cut is not None
    before, after = result.cut
    assert not before.encoder.pruned and after.encoder.pruned
    assert torch.equal(after.encoder.weights, result.best.encoder.weights)
    alive = after.encoder.mask.bool()
    assert torch.equal(before.encoder.weights[alive], after.encoder.weights[alive])
    assert [title for title, _ in result.reconstructions()] == [
        "input", "before the last pruning", "after it", "at the end",
    ]  # fmt: skip


def test_no_operator_prunes_nothing(small: AutoencodeSettings, tmp_path: Path) -> None:
    result = autoencode(replace(small, operator="none"), tmp_path / "run")
    assert result.sparsity == 0
    assert result.cut is None
    assert [title for title, _ in result.reconstructions()] == ["input", "at the end"]


def test_a_metric_that_needs_labels_refuses_data_without(
    small: AutoencodeSettings, tmp_path: Path
) -> None:
    path = tmp_path / "plain.npz"
    np.savez(path, inputs=np.random.RandomState(0).rand(40, 6))
    settings = replace(small, data=str(path), operator="class_map_energy")
    with pytest.raises(UserError, match="'class_map_energy' needs class labels"):
        autoencode(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    autoencode(replace(settings, operator="conjunctive", epochs=1), tmp_path / "run")


def test_a_metric_of_ones_own(small: AutoencodeSettings, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    Metric.parse("sum[i,k](abs(mul(W, G)))", name="mine").save(file)
    settings = replace(small, operator=str(file), schedule="fixed", epochs=2, probability=1.0)
    result = autoencode(settings, tmp_path / "run")
    assert result.sparsity > 0
    Metric.parse("sum[i,k](abs(W))", name="mine").save(file)
    with pytest.raises(UserError, match=r"^the metric .*mine.json. changed since the run"):
        autoencode(None, tmp_path / "run", resume=True)
