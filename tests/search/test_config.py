"""Settings: TOML round trip and clear refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gp_prune.errors import UserError
from gp_prune.search.config import DEFAULT_LADDERS, SearchConfig

CONFIGS = [
    SearchConfig(),
    SearchConfig(
        granularity="weight", seed=3, ladder=(0.2,), primitives=("a b.py", 'q"\\.py', "😀\x7f.py")
    ),
    SearchConfig(tasks=("cnn-digits",), scope="layer", crossover=0.0, generations=0),
    SearchConfig(rung_steps=(0, 10), promote=(0.5, 0.25), strategy="random", adaptive=False),
    SearchConfig(max_evaluations=9, time_limit=2.5, stall=3, restart=0),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_toml_round_trip(tmp_path: Path, config: SearchConfig) -> None:
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert SearchConfig.from_toml(path) == config


def test_the_ladder_follows_the_granularity() -> None:
    for granularity, ladder in DEFAULT_LADDERS.items():
        assert SearchConfig(granularity=granularity).ladder == ladder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"granularity": "filter"}, "granularity is 'filter'"),
        ({"population": 1}, "population is 1"),
        ({"generations": -1}, "generations is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"max_memory": "2"}, "is '2', which has no unit"),
        ({"max_memory": "0MB"}, "it must be at least 1 byte"),
        ({"max_memory": ""}, "which is no size"),
        ({"seed": 2**63}, "seed is 9223372036854775808; it must be a whole number from 0 to"),
        ({"ladder": (0.5, 1.5)}, "1.5"),
        ({"ladder": (float("nan"),)}, "nan"),
        ({"budgets": (0.0,)}, "0.0"),
        ({"scope": "world"}, "scope is 'world'"),
        ({"scope": "row"}, "scope 'row' ranks the weights"),
        ({"tasks": ()}, "tasks are"),
        ({"tasks": ("a", "a")}, "each once"),
        ({"crossover": 2.0}, "crossover is 2.0"),
        ({"strategy": "anneal"}, "strategy is 'anneal'; it must be one of evolve, random"),
        ({"rung_steps": (0,)}, "promote has 0 shares and rung_steps 1 numbers"),
        ({"rung_steps": (0,), "promote": (0.0,)}, "promote holds 0.0"),
        ({"rung_steps": (0,), "promote": (float("nan"),)}, "promote holds nan"),
        ({"rung_steps": (-1,), "promote": (0.5,)}, "rung_steps holds -1"),
        ({"time_limit": -1.0}, "time_limit is -1.0"),
        ({"time_limit": float("inf")}, "time_limit is inf"),
        ({"max_evaluations": -1}, "max_evaluations is -1"),
        ({"stall": -1}, "stall is -1"),
        ({"restart": -1}, "restart is -1"),
    ],
)
def test_values_out_of_range_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(SearchConfig(), **change)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("populatoin = 3", "did you mean 'population'"),
        ("population = 'many'", "must be a whole number"),
        ("population = true", "must be a whole number"),
        ("tasks = 'lenet-digits'", "must be a list"),
        ("ladder = ['a']", "must be a number"),
        ("rung_steps = [0.5]", "must be a whole number"),
        ("adaptive = 1", "must be true or false"),
        ("stall = false", "must be a whole number"),
        ("population =", "not valid TOML"),
        ("\x00", "not valid TOML"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        SearchConfig.from_toml(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        SearchConfig.from_toml(tmp_path / "none.toml")
