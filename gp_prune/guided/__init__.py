"""Floor 9: metrics put back to work as mutation operators of guided searches.

The function that trains autoencoders is :func:`gp_prune.autoencode`; here the name is the package
:mod:`gp_prune.guided.autoencode`, which has it, too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gp_prune.guided.autoencode.settings import AutoencodeSettings
    from gp_prune.guided.genetic.pruner import GeneticPruner
    from gp_prune.guided.genetic.settings import GeneticSettings
    from gp_prune.guided.mutation import MetricMutation, random_mutation

__all__ = [
    "AutoencodeSettings",
    "GeneticPruner",
    "GeneticSettings",
    "MetricMutation",
    "random_mutation",
]

_HOMES = {
    "AutoencodeSettings": "gp_prune.guided.autoencode.settings",
    "GeneticPruner": "gp_prune.guided.genetic.pruner",
    "GeneticSettings": "gp_prune.guided.genetic.settings",
    "MetricMutation": "gp_prune.guided.mutation",
    "random_mutation": "gp_prune.guided.mutation",
}
"""Public name -> the module that has it."""


def __getattr__(name: str) -> Any:
    """A public name, imported now."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gp_prune.guided' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
