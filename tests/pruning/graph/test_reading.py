"""An architecture from a file: every field is checked, and the message says which."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from gp_prune.errors import UserError
from gp_prune.pruning import Architecture, trace


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    )
    return trace(model, torch.randn(1, 1, 4, 4)).to_json()


def edited(data: dict[str, Any], path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    data = copy.deepcopy(data)
    part: Any = data
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    return data


def test_what_was_written_is_read(written: dict[str, Any]) -> None:
    assert Architecture.from_json(written).to_json() == written


SLOT = ("groups", 0, "slots", 0)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("samples",), 0, "'samples' of the architecture is 0; it must be from 1"),
        (("samples",), 10**400, "field 'samples' of architecture is 1000.*between"),
        (("constant_macs",), 2**60, "'constant_macs' of the architecture"),
        (("groups", 0), 5, "a channel group of the architecture must be an object, not int"),
        (("groups", 0, "size"), 0, "the size of channel group '0' of the architecture is 0"),
        (("groups", 0, "size"), 3, "a channel of slot 'out' of module '0' .* is 3; .* -1 to 2"),
        (("groups", 1, "name"), "0", "two channel groups '0'"),
        ((*SLOT, "side"), "top", "slot 'top' of module '0' .* unknown side"),
        ((*SLOT, "stream"), -2, "has stream -2"),
        ((*SLOT, "channels", 1), 4, "a channel of slot 'out' of module '0' .* is 4"),
        ((*SLOT, "channels", 1), -2, "is -2; it must be from -1 to 3"),
        ((*SLOT, "channels", 1), 1.5, "a channel of slot 'out' .* is 1.5; it must be a whole"),
        ((*SLOT, "channels", 1), True, "a channel of slot .* is True; it must be a whole number"),
        ((*SLOT, "channels", 1), [[]], "a channel of slot 'out'"),
        (("layers", 0, "kind"), "odd", "layer cost '0' of the architecture has kind 'odd'"),
        (("layers", 0, "taps"), -1, "'taps' of layer cost '0' of the architecture is -1"),
        (("layers", 0, "groups"), 0, "'groups' of layer cost '0' of the architecture is 0"),
        (("layers", 0, "inputs", "constant"), -1, "the constant of 'inputs' of layer cost '0'"),
        (("layers", 0, "outputs", "terms"), [["0"]], "has 1 entries; it has a group and a count"),
        (("layers", 0, "outputs", "terms"), [5], "a term of 'outputs' of layer cost '0'"),
        (("layers", 0, "outputs", "terms"), [[0, 1]], "the group of a term of 'outputs'"),
        (("layers", 0, "outputs", "terms"), [["0", "1"]], "the count of a term of 'outputs'"),
        (("layers", 0, "outputs", "terms"), [["x", 1]], "names a channel group 'x' that it does"),
    ],
)
def test_a_wrong_field_is_named(
    written: dict[str, Any], path: tuple[str | int, ...], value: object, words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Architecture.from_json(edited(written, path, value))
    assert "\n" not in str(caught.value)


def test_slots_of_one_side_have_one_length(written: dict[str, Any]) -> None:
    slot = {**written["groups"][0]["slots"][0], "channels": [-1, -1]}
    slots = [*written["groups"][1]["slots"], slot]
    with pytest.raises(UserError, match="side 'out' of module '0' has 4 entries in one slot"):
        Architecture.from_json(edited(written, ("groups", 1, "slots"), slots))
