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
    SearchConfig(
        rung_steps=(0, 10),
        promote=(0.5, 0.25),
        strategy="random",
        adaptive=False,
        objectives=("tuned_error", "params"),
        start_formulas=("abs(b)",),
        exclude=("labels",),
    ),
    SearchConfig(budget_kind=("macs", "params"), objectives=("size:0.5", "error"), aggregate="log"),
    SearchConfig(max_evaluations=9, time_limit=2.5, stall=3, restart=0),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_toml_round_trip(tmp_path: Path, config: SearchConfig) -> None:
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert SearchConfig.from_toml(path) == config


def test_texts_are_lists_of_names_and_equal_settings_are_written_alike() -> None:
    given = SearchConfig(objectives="size : 1,error", budget_kind="macs, params")  # type: ignore[arg-type]
    assert given == SearchConfig(objectives=("error", "size"), budget_kind=("macs", "params"))
    assert given.names == given.objectives == ("error", "size")
    assert given.worst == (2.0, 76.0) and given.weights == (1.0, 1.0)


@pytest.mark.parametrize("kind", ["macs", "params"])
def test_what_the_budgets_leave_free_is_an_objective(kind: str) -> None:
    (free,) = {"macs", "params"} - {kind}
    assert free in SearchConfig(budget_kind=(kind,)).names
    assert kind not in SearchConfig(budget_kind=(kind,)).names
    assert {"macs", "params"} <= set(SearchConfig(budget_kind=("macs", "params")).names)


def test_a_task_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").touch()
    (tmp_path / "w.th").touch()
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    names = ("lenet-digits@0", "./mine.py:f", "resnet20-cifar10:w.th", "timm:resnet18")
    config = SearchConfig(tasks=names, data="images", model_weights="w.th")
    files = (f"{tmp_path}/mine.py:f", f"resnet20-cifar10:{tmp_path}/w.th")
    assert config.tasks == ("lenet-digits", *files, "timm:resnet18")
    assert (config.data, config.model_weights) == (f"{tmp_path}/images", f"{tmp_path}/w.th")
    for twice in (
        ("lenet-digits", "lenet-digits@0"),
        ("mine.py:f", f"../{tmp_path.name}/mine.py:f"),
    ):
        with pytest.raises(UserError, match="each once"):
            SearchConfig(tasks=twice)
        with pytest.raises(UserError, match="is there twice or among the tasks"):
            SearchConfig(tasks=twice[:1], validate_on=twice[1:])
    assert SearchConfig(data="digits", tasks=("timm:resnet18",)).data == "digits"


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
        ({"budget_kind": ("flops",)}, "budget_kind holds 'flops'; it must be one of channels"),
        ({"budget_kind": ("macs", "macs")}, "name each kind once"),
        ({"aggregate": "median"}, "aggregate is 'median'; it must be one of log, mean"),
        ({"objectives": ("eror",)}, r"objective 'eror' is unknown \(did you mean 'error'\?\)"),
        ({"objectives": ("error", "error:2")}, "objective 'error' is given 2 times"),
        ({"objectives": ("macs", "size")}, "hold no error"),
        ({"objectives": ("error:0",)}, "weight of objective 'error' is '0'; it must be a number"),
        ({"objectives": ("error:nan",)}, "weight of objective 'error' is 'nan'"),
        (
            {
                "objectives": ("error", ""),
            },
            "objective '' is unknown",
        ),
        ({"objectives": ("error", "macs"), "budget_kind": ("macs",)}, "all candidates keep the"),
        (
            {
                "objectives": ("error", "latency"),
                "granularity": "weight",
                "ladder": (),
                "budgets": (),
                "budget_kind": (),
            },
            "whose weights are masked is not faster",
        ),
        ({"data": "images"}, "--data is for networks that bring no data, and lenet-digits"),
        ({"kind": "reconstruction", "model_weights": "w", "most": 3}, "--kind and --weights and -"),
        ({"input_shape": (3, 8, 8), "tasks": ("numbers",)}, "--input-shape is .*, and numbers"),
        ({"objectives": ("error",), "rung_steps": (5,), "promote": (0.5,)}, "nothing is fine-t"),
        ({"data": "faces", "kind": "regression"}, "images have no numbers to predict"),
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


def test_searches_on_weights_of_language_models_have_budgets_and_a_judge_of_their_own() -> None:
    config = SearchConfig(tasks=("llama-pydoc", "llama_deep-pydoc@2"), granularity="weight")
    assert (config.ladder, config.budgets) == ((0.5, 0.4), (0.5, 0.4, 0.3))
    assert (config.max_evaluations, config.final_steps) == (500, 0)
    assert config.deciding_errors == ("error",)
    more = replace(config, max_evaluations=900, final_steps=5)
    assert (more.max_evaluations, more.final_steps) == (900, 5)
    assert config.validation_tasks == ("gpt-pydoc",)
    config = SearchConfig(tasks=("gpt-text:notes.txt",), granularity="weight", ladder=(0.6,))
    assert config.ladder == (0.6,)
    assert config.validation_tasks == ("llama-pydoc",)
    mixed = SearchConfig(tasks=("llama-pydoc", "lenet-digits"), granularity="weight")
    assert mixed.ladder == DEFAULT_LADDERS["weight"]
    assert (mixed.max_evaluations, mixed.final_steps) == (0, 30)
    assert all(name.endswith("-digits") for name in mixed.validation_tasks)


def test_products_are_drawn_on_the_weights_of_language_models() -> None:
    assert SearchConfig().factors == "off" == SearchConfig(granularity="weight").factors
    language = SearchConfig(tasks=("llama-pydoc",), granularity="weight")
    assert language.factors == "on"
    assert replace(language, factors="off").factors == "off"
