"""Named start formulas of two factors: how much a channel varies, times how strongly it is used.

``variance_energy`` is the formula of FLAP (An et al. 2024), which is bundled; the others are
written by hand after it. A search for channel metrics begins with them and with the published
metrics, unless ``no_start_formulas`` is set; whoever reports a formula as found should say so.
"""

from __future__ import annotations

from collections.abc import Iterable

from gp_prune.language.primitive import PrimitiveSet
from gp_prune.metric.metric import Metric

TWO_FACTOR = "two-factor"
"""The name of all of them together."""

TWO_FACTOR_FORMULAS = {
    "variance_energy": "var[n,s](A) * sum[j](V^2)",
    "deviation_reads": "sqrt(var[n,s](A)) * sum[j](abs(V))",
    "class_mean_energy": "var[c](muP) * sum[j](V^2)",
    "class_map_spread_energy": "sum[s](var[c](mP)) * sum[j](V^2)",
    "square_energy": "mean[n,s](A^2) * sum[j](V^2)",
    "variance_in_energy": "var[n,s](A) * sum[i,k](W^2)",
}
"""Name -> formula: variance of activations, or of class means and class maps, or mean square; times
energy or magnitude of the outgoing weights, or energy of the filter."""


def expand_names(texts: Iterable[str]) -> tuple[str, ...]:
    """Return texts with the names of all two-factor formulas in the place of ``two-factor``."""
    return tuple(
        name for text in texts for name in (TWO_FACTOR_FORMULAS if text == TWO_FACTOR else (text,))
    )


def two_factor_metrics(primitives: PrimitiveSet) -> list[Metric]:
    """Return the two-factor formulas as metrics of a vocabulary, in their order."""
    return [load_formula(name, primitives) for name in TWO_FACTOR_FORMULAS]


def load_formula(text: str, primitives: PrimitiveSet) -> Metric:
    """Return a named start formula, or what :meth:`Metric.load` makes of a text.

    Raises:
        UserError: it is no metric in any form.
    """
    if text in TWO_FACTOR_FORMULAS:
        return Metric.parse(TWO_FACTOR_FORMULAS[text], name=text, primitives=primitives)
    return Metric.load(text, primitives)
