"""Settings of a genetic pruning: what is refused, and their file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gp_prune import GeneticSettings
from gp_prune.errors import UserError

SMALL = GeneticSettings(
    population=8, generations=2, rounds=2, elites=2, epochs=1, final_epochs=1, samples=100,
    calibration=64, tolerance=0.5, limit=0.5, batch_size=128,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"population": 1}, "population is 1; it must be a whole number from 2 to"),
        (
            {"selection": "anneal"},
            "it must be one of auto, nsga2, truncation, tournament, roulette",
        ),
        ({"selection": "roulette"}, "give lambdas with these alone"),
        ({"lambdas": (1.0, 1.0)}, "give three numbers"),
        ({"lambdas": (0.0, 0.0, 0.0)}, "not all of them 0"),
        ({"lambdas": (1.0, 0.0, 1.0), "selection": "nsga2"}, "nsga2 is for the Pareto front"),
        ({"max_memory": "2"}, "is '2', which has no unit"),
        ({"max_memory": "0MB"}, "it must be at least 1 byte"),
        ({"max_memory": ""}, "which is no size"),
        ({"seed": 2**63}, "seed is 9223372036854775808; it must be a whole number from 0 to"),
        ({"model_seed": 2**64}, "model_seed is"),
        ({"restore": 1.0}, "restore is 1.0; it must be a number, at least 0 and less than 1"),
        ({"reach": 0.0}, "reach is 0.0; it must be a number greater than 0"),
        ({"distill": 1.5}, "distill is 1.5"),
        ({"final_params": 0.0}, "final_params is 0.0; it must be a number greater than 0"),
        ({"final_params": 0.1, "granularity": "channel"}, "use granularity 'auto' or 'weight'"),
        ({"final_params": 0.1, "final_epochs": 0}, "final_epochs of at least 1"),
        ({"granularity": "filter"}, "one of auto, channel, weight"),
        ({"model": "hf:llama"}, "does not take a network of transformers"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(SMALL, **changes)


def test_settings_survive_their_file(tmp_path: Path) -> None:
    settings = replace(
        SMALL, lambdas=(1.0, 0.5, 2.0), mutations=("random", "l1"), primitives=("a",)
    )
    (tmp_path / "config.toml").write_text(settings.to_toml())
    assert GeneticSettings.from_toml(tmp_path / "config.toml") == settings
