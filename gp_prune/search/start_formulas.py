"""Named start formulas: two factors of channels, evolved metrics, and shares of layers.

Those of two factors say how much a channel varies, times how strongly it is used. Five are written
by hand and come as metric files in ``evolved_metrics/handwritten``. ``variance_energy`` has no file
of its own: it is the formula of FLAP (An et al. 2024) under the conventions of a new metric, which
rank over the whole network; ``flap`` is bundled and ranks within each layer, as published. Variants
that differ in conventions alone have one file, and a published formula is not of this project.

A search for channel metrics begins with them, with the evolved metrics that stand first on networks
that no search has seen, and with the published metrics, unless ``no_start_formulas`` is set;
whoever reports a formula as found should say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from gp_prune.errors import UserError
from gp_prune.language.primitive import PrimitiveSet
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric, bundled_metrics

TWO_FACTOR = "two-factor"
"""The name of all of them together."""

VARIANCE_ENERGY = "variance_energy"

TWO_FACTOR_NAMES = (
    VARIANCE_ENERGY, "deviation_reads", "class_mean_energy", "class_map_spread_energy",
    "square_energy", "variance_in_energy",
)  # fmt: skip
"""Variance of activations, or of class means and class maps, or mean square; times energy or
magnitude of the outgoing weights, or energy of the filter. A search depends on their order."""

EVOLVED_NAMES = ("square_variance_energy", "reader_spread_energy")
"""Metrics that earlier searches found: the first two of ``benchmarks/results/transfer_2.md``."""

SHARE_FORMULAS = {
    "uniform": "1",
    "by_depth": "depth",
    "narrow": "1 / channels",
    "costly": "macs_freed",
    "cheap": "1 / macs_freed",
    "few_parameters": "1 / params_freed",
    "streams": "1 + residual",
    "by_spread": "sqrt(var[o,n,s](A))",
}
"""Name -> formula of the share of each layer, written by hand; the first is the same of all."""

SELECT = "flap"
"""What chooses the channels of each layer in a search for shares, unless the settings say it."""


def expand_names(texts: Iterable[str]) -> tuple[str, ...]:
    """Return texts with the names of all two-factor formulas in the place of ``two-factor``."""
    return tuple(
        name for text in texts for name in (TWO_FACTOR_NAMES if text == TWO_FACTOR else (text,))
    )


def two_factor_metrics(primitives: PrimitiveSet) -> list[Metric]:
    """Return the two-factor formulas as metrics of a vocabulary, in their order."""
    return [load_formula(name, primitives) for name in TWO_FACTOR_NAMES]


def share_metrics(primitives: PrimitiveSet) -> list[Metric]:
    """Return the start formulas of shares as metrics of a vocabulary, in their order."""
    return [
        Metric.parse(text, name=name, primitives=primitives)
        for name, text in SHARE_FORMULAS.items()
    ]


def start_names(granularity: str) -> list[str]:
    """Return the names of the start formulas that a search of a granularity knows."""
    return [*(SHARE_FORMULAS if granularity == "layer" else (*TWO_FACTOR_NAMES, *EVOLVED_NAMES))]


def start_metrics(granularity: str, primitives: PrimitiveSet, select: str = "") -> list[Metric]:
    """Return the named start formulas of a granularity as metrics of a vocabulary.

    Args:
        granularity: of the formulas.
        primitives: the vocabulary.
        select: what chooses channels, see :func:`load_select`; mean and standard deviation of its
            scores are start formulas of shares, too.
    """
    evolved = [load_formula(name, primitives) for name in EVOLVED_NAMES]
    named = [*two_factor_metrics(primitives), *evolved, *share_metrics(primitives)]
    if select:
        scores = load_select(select, primitives).expression
        named += [
            Metric.parse(f"{moment}[o]({scores})", name=f"score_{moment}", primitives=primitives)
            for moment in ("mean", "std")
        ]
    return [metric for metric in named if metric.granularity == granularity]


def store_metric(text: str, primitives: PrimitiveSet) -> str:
    """Return what :func:`load_select` takes, without the name of a file that may change.

    Raises:
        UserError: it is no metric of channels.
    """
    metric = load_select(text, primitives)
    if text == VARIANCE_ENERGY or text in bundled_metrics():
        return text
    return json.dumps(metric.to_json())


def load_select(text: str, primitives: PrimitiveSet) -> Metric:
    """Return a metric that chooses channels: by its name, its path, its formula or its content.

    Raises:
        UserError: it is no metric, or none of channels.
    """
    if text.startswith("{"):
        metric = Metric.from_text(text, "given as text", primitives)
    else:
        metric = load_formula(text, primitives)
    if metric.granularity != "channel":
        raise UserError(
            f"metric {metric.name!r} is to choose the channels of each layer (select, --select), "
            f"and its granularity is {metric.granularity!r}; give a metric of channels"
        )
    return metric.with_shares(None)


def select_name(text: str) -> str:
    """Return what to call the metric that :func:`load_select` loads."""
    return str(json.loads(text)["name"]) if text.startswith("{") else text


def load_formula(text: str, primitives: PrimitiveSet) -> Metric:
    """Return a named start formula, or what :meth:`Metric.load` makes of a text.

    Raises:
        UserError: it is no metric in any form.
    """
    if text == VARIANCE_ENERGY:
        flap = Metric.load("flap", primitives)
        return replace(flap, name=VARIANCE_ENERGY, conventions=Conventions())
    return Metric.load(text, primitives)
