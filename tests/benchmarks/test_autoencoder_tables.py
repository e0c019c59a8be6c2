from __future__ import annotations

from typing import Any

import autoencoder_operators as benchmark
import autoencoder_tables as tables
import pytest
from autoencoder_tables import Line


def line(operator: str = "random", seed: int = 0, l1: float = 0.2, **more: Any) -> Line:
    values: dict[str, Any] = {
        "data": "binary-clusters", "mode": "canonical", "operator": operator, "schedule": "fixed",
        "seed": seed, "epochs": 3, "cells": 1, "sparsity": 0.5, "events": 2,
        "validation_loss": l1, "test_l1": l1, "trivial_l1": 0.3, "seconds": 1.0,
    }  # fmt: skip
    return Line(**{**values, **more})


def test_differences_are_paired_by_seed_and_schedule() -> None:
    lines = [
        line("random", 0, 0.2), line("l1", 0, 0.1), line("random", 1, 0.4), line("l1", 1, 0.4),
        line("l1", 0, 0.9, schedule="final"), line("l1", 2, 0.9),
    ]  # fmt: skip
    assert tables.paired(lines, "l1", "random") == pytest.approx([-0.1, 0.0])


def test_the_tables_show_every_operator_beside_the_papers() -> None:
    lines = [
        line(operator, seed, 0.2 + seed / 100 + place / 10, schedule=schedule, mode=mode)
        for place, operator in enumerate(("random", "l1"))
        for mode in benchmark.MODES
        for schedule in ("fixed", "final")
        for seed in range(6)
    ]
    lines += [line("none", 0, 0.25, schedule="", mode=mode) for mode in benchmark.MODES]
    text = tables.markdown(lines)
    assert "| l1 | 0.3250 ± 0.0187 | 0.3250 ± 0.0187 | 0.5000 | +0.1000 | 0.031 |" in text
    assert "| coevolve | random | fixed | 0.2250 ± 0.0187 | .104 |" in text
    assert "without pruning 0.2500" in text


def test_all_cases_are_different_and_end_at_the_same_sparsity() -> None:
    cases = list(benchmark.cases(2, images=True))
    assert len({(name, settings) for name, settings in cases}) == len(cases)
    assert {s.target_sparsity for name, s in cases if name != "none"} == {0.5}
    assert {s.seed for _, s in cases} == {0, 1}
