"""Conventions: a closed list of values, read strictly."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from gp_prune.errors import UserError
from gp_prune.metric.file import JOINS, NORMALISERS, SCOPES, Conventions, MetricError, read_content

EVERY = [Conventions(*values) for values in itertools.product(SCOPES, NORMALISERS, JOINS)]


@pytest.mark.parametrize("conventions", EVERY, ids=str)
def test_round_trip(conventions: Conventions) -> None:
    assert Conventions.from_json(conventions.to_json()) == conventions


@pytest.mark.parametrize("field", ["scope", "normaliser", "join"])
@pytest.mark.parametrize("value", ["", "Layer", None, 1, ["layer"], ("layer",), {}, "sum "])
def test_wrong_values(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{field} is .*; it must be one of "):
        Conventions(**{field: value})
    with pytest.raises(UserError, match=f"{field} is .*; it must be one of "):
        Conventions.from_json({**Conventions().to_json(), field: value})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "'conventions' must be an object, not NoneType"),
        ([], "'conventions' must be an object, not list"),
        ({}, "'conventions' has no field 'scope'; add it"),
        ({"scope": "layer", "join": "sum"}, "'conventions' has no field 'normaliser'; add it"),
        ({**Conventions().to_json(), "extra": 1}, "has an unknown field 'extra'; remove it"),
    ],
)
def test_wrong_objects(data: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Conventions.from_json(data)


@pytest.mark.parametrize("granularity", ["channel", "weight"])
@pytest.mark.parametrize("conventions", EVERY, ids=str)
def test_only_weights_are_ranked_by_row_and_only_channels_by_structure(
    conventions: Conventions, granularity: str
) -> None:
    if conventions.scope == "row" and granularity == "channel":
        with pytest.raises(UserError, match="no channels can be ranked in it; use scope 'layer'"):
            conventions.check_granularity(granularity)
    elif conventions.scope == "isomorphic" and granularity == "weight":
        with pytest.raises(UserError, match="single weights have none; use scope 'layer'"):
            conventions.check_granularity(granularity)
    else:
        conventions.check_granularity(granularity)


def test_pipes_devices_and_huge_files_are_no_metrics(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with (tmp_path / "big.json").open("wb") as file:
        file.truncate(2**40)
    for path, words in (
        (tmp_path / "pipe.json", "it is a pipe or a device"),
        (Path("/dev/zero"), "it is a pipe or a device"),
        (tmp_path / "big.json", "it has more than the 4 MB that it may have"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(MetricError, match=words):
            read_content(path)
