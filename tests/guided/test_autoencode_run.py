"""Whole runs: held masks over all operators, schedules and modes; resume; workers."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gp_prune.errors import UserError
from gp_prune.evolution.jobs import Workbench
from gp_prune.guided.autoencode import (
    SCHEDULES,
    AutoencodeSettings,
    autoencode,
)
from gp_prune.guided.autoencode.cells import CellResult, CellStep
from gp_prune.guided.autoencode.data import Data
from gp_prune.guided.autoencode.networks import Pair
from gp_prune.guided.autoencode.pruning import kept, live_nodes, sparsity
from gp_prune.guided.autoencode.run import Progress
from gp_prune.guided.autoencode.states import read_pair
from gp_prune.metric import Metric

OPERATORS = ("random", "conjunctive", "variance", "class_map_energy", "magnitude")
MODES = ("canonical", "coevolve")
LOOP = Path(__file__).with_name("autoencode_kill_loop.py")


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of 60 samples with 12 bits in three classes."""
    random = np.random.RandomState(0)
    labels = np.arange(60) % 3
    inputs = (random.rand(3, 12) < 0.6)[labels] ^ (random.rand(60, 12) < 0.05)
    path = tmp_path_factory.mktemp("data") / "own.npz"
    np.savez(path, inputs=inputs.astype(np.float32), labels=labels)
    return str(path)


@pytest.fixture
def small(clusters: str) -> AutoencodeSettings:
    return AutoencodeSettings(
        data=clusters, loss="l1", epochs=4, batch_size=9, learning_rate=0.05, probability=0.8,
        amount=0.2, samples=20, cells=4, selection_samples=15, temperature=0.2,
    )  # fmt: skip


def content(folder: Path) -> dict[str, bytes]:
    """All files of a run folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


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
@pytest.mark.parametrize("operator", OPERATORS)
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
            assert made.sparsity == sparsity(after)
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
            (alive,) = live_nodes(half)
            assert int(alive.sum()) == kept(30, 0.8**half.events)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stop", [1, 3])
def test_k_generations_and_then_the_rest_are_the_whole_run(
    small: AutoencodeSettings, tmp_path: Path, mode: str, stop: int
) -> None:
    settings = replace(small, mode=mode, updates="asynchronous")

    def interrupt(now: Progress) -> None:
        if now.done == stop:
            raise KeyboardInterrupt

    autoencode(settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        autoencode(settings, tmp_path / "parts", progress=interrupt)
    assert not (tmp_path / "parts" / "result.json").exists()
    autoencode(None, tmp_path / "parts", resume=True)
    whole, parts = content(tmp_path / "whole"), content(tmp_path / "parts")
    assert parts.keys() == whole.keys()
    assert parts == whole
    before = content(tmp_path / "parts")
    autoencode(None, tmp_path / "parts", resume=True)
    assert content(tmp_path / "parts") == before, "a finished run stays as it is"


@pytest.mark.parametrize("updates", ["synchronous", "asynchronous"])
def test_the_number_of_workers_changes_nothing(
    small: AutoencodeSettings, tmp_path: Path, updates: str
) -> None:
    settings = replace(small, updates=updates, cells=6, topology="torus", epochs=2)
    autoencode(settings, tmp_path / "one")
    autoencode(settings, tmp_path / "two", workers=2)
    assert content(tmp_path / "two") == content(tmp_path / "one")


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


def test_the_best_cell_is_chosen_by_validation_and_the_test_split_read_once(
    small: AutoencodeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = Data.test
    monkeypatch.setattr(Data, "test", lambda self: read.append(self.name) or original(self))
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


def test_a_schedule_of_ones_own_and_its_resume(small: AutoencodeSettings, tmp_path: Path) -> None:
    def late(t: float, T: float) -> float:
        return float(t == T - 1)

    settings = replace(small, operator="random", cells=2)
    result = autoencode(settings, tmp_path / "run", schedule=late)
    assert {row.generation for row in result.history if row.pruned} == {3}
    with pytest.raises(UserError, match="begun with probabilities"):
        autoencode(None, tmp_path / "run", resume=True)
    autoencode(None, tmp_path / "run", schedule=late, resume=True)


def test_only_what_is_needed_stays_in_the_folder(small: AutoencodeSettings, tmp_path: Path) -> None:
    autoencode(small, tmp_path / "run")
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


def test_a_damaged_state_is_named(small: AutoencodeSettings, tmp_path: Path) -> None:
    autoencode(small, tmp_path / "run")
    for state in (tmp_path / "run" / "states").iterdir():
        state.write_bytes(state.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"state .* cannot be read"):
        autoencode(None, tmp_path / "run", resume=True)


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
    result = autoencode(settings, tmp_path / "run", workers=2)
    assert result.sparsity > 0
    Metric.parse("sum[i,k](abs(W))", name="mine").save(file)
    with pytest.raises(UserError, match="begun with metric"):
        autoencode(None, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mode": "both"}, "mode is 'both'; it must be one of canonical, coevolve"),
        ({"topology": "torus", "cells": 5}, "5 cells make no torus"),
        ({"regrow": True, "target_sparsity": 0.5}, "masks that are held"),
        ({"operator": "none", "target_sparsity": 0.5}, "needs an operator"),
        ({"amount": 1.0}, "amount is 1.0"),
        ({"target_sparsity": 1.0}, "target_sparsity is 1.0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"schedule": "never"}, "unknown schedule 'never'"),
        ({"temperature": float("nan")}, "temperature is nan"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        AutoencodeSettings(**changes)


def test_a_unit_that_the_metric_does_not_score_is_refused(
    small: AutoencodeSettings, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="scores a node, not a weight"):
        autoencode(replace(small, unit="weight"), tmp_path / "run")
    with pytest.raises(UserError, match="unknown metric 'best'"):
        autoencode(replace(small, operator="best"), tmp_path / "run")


def test_what_a_kill_left_half_written_is_cleared_away(
    small: AutoencodeSettings, tmp_path: Path
) -> None:
    def interrupt(now: Progress) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        autoencode(small, folder, progress=interrupt)
    left = [folder / ".result.json.ab12_xyz", folder / "states" / ".0f.safetensors.q1w2e3r4"]
    for path in left:
        path.write_text("half")
    autoencode(None, folder, resume=True)
    assert not any(path.exists() for path in left)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forked")
@pytest.mark.parametrize("mode", MODES)
def test_every_resume_after_a_kill_ends_as_the_run_without(
    small: AutoencodeSettings, tmp_path: Path, mode: str
) -> None:
    settings = replace(small, mode=mode, epochs=6, operator="random", schedule="fixed")
    autoencode(settings, tmp_path / "whole")
    wanted = content(tmp_path / "whole")
    (tmp_path / "runs").mkdir()
    program = [sys.executable, str(LOOP), str(tmp_path / "whole"), str(tmp_path / "runs"), "20"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 8
    for folder in (tmp_path / "runs").iterdir():
        assert content(folder) == wanted, folder.name
