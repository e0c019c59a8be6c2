"""Import paths of version 0.1 that users' own primitive files have."""

from __future__ import annotations

import importlib
import sys

import pytest

from gp_prune._compat import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_old_path_gives_the_same_names_with_a_warning(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=rf"the module {old} is {MOVED[old]} now"):
        module = importlib.import_module(old)
    new = importlib.import_module(MOVED[old])
    public = [name for name in vars(new) if not name.startswith("_")]
    assert public
    assert all(getattr(module, name) is getattr(new, name) for name in public)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gp_prune.pruning.readers", "gp_prune.pruning.consumers"),
        ("gp_prune.statistics.Reader", "gp_prune.statistics.Consumer"),
        ("gp_prune.metric.Metric", "gp_prune.Metric"),
    ],
)
def test_an_old_name_gives_the_same_object_with_a_warning(old: str, new: str) -> None:
    def find(path: str) -> object:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)

    with pytest.warns(DeprecationWarning, match=f"{old} is gp_prune"):
        assert find(old) is find(new)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        find(old.rpartition(".")[0] + ".nothing")


def test_other_names_are_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"gp_prune\.nothing"):
        importlib.import_module("gp_prune.nothing")


def test_the_old_name_of_a_base_of_normalisers() -> None:
    symbols = importlib.import_module("gp_prune.language.symbols")
    with pytest.warns(DeprecationWarning, match=r"symbols\.Along is called AlongAxes"):
        assert symbols.Along is symbols.AlongAxes
